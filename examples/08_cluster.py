"""Embed on several machines, with an array of jobs or with Dask."""

# %%
# Each row is saved when it is complete. A job that was killed resumes when started
# again.
import subprocess
import sys

import joblib
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, LocalCluster

from brainfeat import BrainFoundEmbedder, read_embeddings, simulate_cohort

cohort = simulate_cohort("small-cohort", n_subjects=4, random_state=8)


def brainfeat(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "brainfeat", *arguments], check=True)


# %%
# An array of jobs: each job embeds one shard of the inputs into its own table.
# `08_cluster.sbatch` runs this loop on Slurm.
for task in (1, 2):
    output = f"parts/{task}.parquet"
    brainfeat("embed", "small-cohort", "-o", output, "--shard", f"{task}/2")

# %%
# The merged table is bit for bit that of a single process.
brainfeat("merge", "parts/1.parquet", "parts/2.parquet", "-o", "embeddings.parquet")
subjects, embeddings, provenance = read_embeddings("embeddings.parquet")
print(subjects[["participant_id", "input_sha256"]])

# %%
# Dask: workers receive paths, and each loads the encoder once. On a cluster, use the
# address of its scheduler instead of this local one:
#     brainfeat embed cohort -o out.parquet --backend dask --scheduler tcp://head:8786
# `--backend ray` does the same with Ray.
embedder = BrainFoundEmbedder().fit()
with (
    LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
    Client(cluster),
    joblib.parallel_config("dask"),
):
    rows = embedder.transform(cohort[["T1w"]])
print("Dask gives the same rows:", np.allclose(rows, embeddings, atol=1e-5))

# %%
# On one machine with several GPUs, `--device cuda:0,cuda:1` starts a process per GPU,
# and `--device auto` uses all GPUs.

# %%
# How alike the subjects of the merged table are.
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
names = subjects["participant_id"]
picture = axes.imshow(np.corrcoef(embeddings), vmin=-1, vmax=1, cmap="RdBu_r")
axes.set_xticks(range(len(names)), names)
axes.set_yticks(range(len(names)), names)
figure.colorbar(picture, label="correlation of embeddings")
figure.savefig("cluster.png")
