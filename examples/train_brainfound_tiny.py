"""Train the bundled `brainfound-tiny` on simulated anatomies, on a CPU or a GPU.

Nothing is downloaded: subjects are deformed from the MNI152 maps that come with
nilearn, with contrasts, scanners and diseases of every kind. Run it again with
``--resume`` to go on where it stopped.
"""

import argparse
import dataclasses
import logging
from pathlib import Path

import torch

from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing import Preprocessor
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.crops import CropConfig
from brainfeat.pretraining.simulated import SimulatedSource
from brainfeat.pretraining.trainer import pretrain
from brainfeat.pretraining.views import ViewConfig
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.contrast import ContrastConfig
from brainfeat.simulation.training import TrainingConfig
from brainfeat.template import load_template

# %% What is trained: six blocks of width 192 over patches of 16 x 16 x 8 mm.
ENCODER = EncoderConfig.preset("tiny", depth=6, slab_mixing=(1, 3))

# %% Views: whole planes, so that position embeddings learn where things are.
VIEWS = ViewConfig(
    global_crops=CropConfig(size=(104, 80), n_slabs=4, area=(0.75, 1.0), rotation=8.0),
    local_crops=CropConfig(size=(48, 48), n_slabs=2, area=(0.15, 0.35), jitter=2.0),
    n_local=2,
    hidden_modalities=0.5,
)

# %% Contrasts: mostly those of the modalities, a few of no modality at all.
CONTRAST = ContrastConfig(jitter=0.1, random_share=0.1, detail=(0.0, 1.2))

# %% Objectives and optimisation.
CONFIG = PretrainingConfig(
    encoder=ENCODER,
    views=VIEWS,
    anatomy_weight=1.0,
    dino_weight=0.0,
    ibot_weight=0.0,
    koleo_weight=0.0,
    n_prototypes=1024,
    head_hidden_dim=512,
    head_bottleneck_dim=128,
    learning_rate=1e-3,
    layer_decay=1.0,  # there are no lower layers worth keeping yet
    patch_embed_lr=1.0,
    weight_decay=(0.05, 0.05),
    teacher_momentum=(0.99, 0.999),
    warmup_fraction=0.05,
    final_learning_rate=1e-4,
    batch_size=4,
    checkpoint_every=50,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--reuse", type=int, default=12)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    names = ("T1w", "gray_matter", "white_matter", "brain_mask")
    maps = [load_template(name) for name in names]
    source = SimulatedSource(
        [BaseAnatomy.from_template(*maps, spacing=2.0)],
        modalities=ENCODER.modalities,
        reuse=options.reuse,
        config=TrainingConfig(contrast=CONTRAST),
        preprocessing=Preprocessor().to_dict(),
    )
    config = dataclasses.replace(CONFIG, n_steps=options.steps)
    pretrain(source, config, output=options.output, resume=options.resume)


if __name__ == "__main__":
    main()
