"""Many machines: an array of jobs that each do a part, or a Dask cluster."""

# %%
# Four subjects stand in for fifty thousand. Whatever does the work, each row is safe
# once it is done: start a job that was killed again, and it goes on.
import subprocess
import sys

import joblib
import numpy as np
from distributed import Client, LocalCluster

from brainfeat import BrainFoundEmbedder, read_embeddings, simulate_cohort

cohort = simulate_cohort("cohort", n_subjects=4, random_state=8)


def brainfeat(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "brainfeat", *arguments], check=True)


# %%
# An array of jobs: each takes its part of the same inputs and writes a table of its
# own. `08_cluster.sbatch` is this loop on Slurm.
for task in (1, 2):
    output = f"parts/{task}.parquet"
    brainfeat("embed", "cohort", "-o", output, "--shard", f"{task}/2")

# %%
# The parts say which they are: joined, they are the table of one process, bit by bit.
brainfeat("merge", "parts/1.parquet", "parts/2.parquet", "-o", "embeddings.parquet")
subjects, embeddings, provenance = read_embeddings("embeddings.parquet")
print(subjects[["participant_id", "input_sha256"]])

# %%
# Dask: workers are sent paths, and each loads the encoder once. On a cluster the
# address of its scheduler takes the place of this local one:
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
# One machine with several GPUs needs neither: `--device cuda:0,cuda:1` starts a
# process for each, and `--device auto` takes all that there are.
