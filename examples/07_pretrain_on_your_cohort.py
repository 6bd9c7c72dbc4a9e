"""Pretrain an encoder on scans without labels, and embed with it."""

# %%
# Replace these six subjects by your own scans. `pretrain` reads a BIDS folder, a folder
# of images, a manifest, a list of paths, or a table with a row per acquisition and a
# column per modality. Rows with the same name belong to one subject.
import dataclasses

import matplotlib.pyplot as plt
import pandas as pd

from brainfeat import (
    BrainFoundEmbedder,
    PretrainingConfig,
    pretrain,
    simulate_cohort,
)

cohort = simulate_cohort("cohort", n_subjects=6, random_state=1)
scans = cohort[["T1w"]]

# %%
# The preset is for one machine with a small batch. An encoder needs thousands of steps
# and a GPU; eight steps of a shallow one are a demonstration.
config = PretrainingConfig.preset(
    "small_batch", batch_size=4, n_steps=8, log_every=2, checkpoint_every=4
)
encoder = dataclasses.replace(config.encoder, depth=4, slab_mixing=(2,))
config = dataclasses.replace(config, encoder=encoder)

# %%
# Scans are preprocessed once, into `run/store`. The encoder has only the modalities of
# the scans, here T1w. For several GPUs, start the script with torchrun.
checkpoint = pretrain(scans, config, output="run")
print(checkpoint.config.description)
print(checkpoint.config.encoder.modalities)

# %%
# The log has the losses, and indicators of collapse, of every second step.
log = pd.read_json("run/log.jsonl", lines=True)
print(log[["step", "total", "dino", "ibot", "teacher_entropy"]].round(3))

# %%
# `resume=True` continues an interrupted run, to the same weights as without the
# interruption. This run is complete, so nothing changes.
resumed = pretrain(scans, config, output="run", resume=True)
print("unchanged:", resumed.fingerprint == checkpoint.fingerprint)

# %%
# The folder is a checkpoint, with its preprocessing.
embedder = BrainFoundEmbedder(checkpoint="run").set_output(transform="pandas")
print(embedder.fit_transform(scans).iloc[:, :4])

# %%
# A loss that falls is no proof of good features: evaluate them, too, as in 10_compare.
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for name in ("total", "dino", "ibot"):
    axes.plot(log["step"], log[name], "o-", label=name)
axes.set(xlabel="step", ylabel="loss")
axes.legend()
figure.savefig("pretraining.png")
