"""Train an encoder on scans without labels, and embed with it."""

# %%
# Six subjects stand in for your own scans. `pretrain` takes a BIDS folder, a folder
# of images, a manifest, a list of paths, or a table such as this one: a row an
# acquisition, a column a modality. Rows of one name are one subject.
import dataclasses

import pandas as pd

from brainfeat import (
    BrainFoundEmbedder,
    PretrainingConfig,
    pretrain,
    simulate_cohort,
)

cohort = simulate_cohort("cohort", n_subjects=6, random_state=7)
scans = cohort[["T1w"]]

# %%
# The preset suits one machine with few subjects a step. Ten thousand steps are a
# night on a GPU; these few, of a shallow encoder, only show how it goes.
config = PretrainingConfig.preset(
    "small_batch", batch_size=4, n_steps=8, log_every=2, checkpoint_every=4
)
encoder = dataclasses.replace(config.encoder, depth=4, slab_mixing=(2,))
config = dataclasses.replace(config, encoder=encoder)

# %%
# Scans are preprocessed once, into `run/store`. The encoder is for T1w alone, as no
# scan is of another modality. Many GPUs: start the same script with torchrun.
checkpoint = pretrain(scans, config, output="run")
print(checkpoint.config.description)
print(checkpoint.config.encoder.modalities)

# %%
# The log has the losses, and the signs of a collapse, of every second step.
log = pd.read_json("run/log.jsonl", lines=True)
print(log[["step", "total", "dino", "ibot", "teacher_entropy"]].round(3))

# %%
# A run that was cut off goes on with `resume=True`, to the weights that it would
# have had without the cut. This one is done: nothing changes.
again = pretrain(scans, config, output="run", resume=True)
print("unchanged:", again.fingerprint == checkpoint.fingerprint)

# %%
# The folder is a checkpoint like any other, with its preprocessing.
embedder = BrainFoundEmbedder(checkpoint="run").set_output(transform="pandas")
print(embedder.fit_transform(scans).iloc[:, :4])
