"""Train the bundled `brainfound-tiny` on simulated anatomies, on a CPU or a GPU.

Nothing is downloaded: subjects are deformed from the MNI152 maps that come with
nilearn, with contrasts, scanners and diseases of every kind. Short stacks of slabs
come first, since an encoder that does not know tissue learns little from a whole
brain; then whole brains. Run it again with ``--resume`` to go on where it stopped.

    python examples/train_brainfound_tiny.py OUTPUT [--minutes 60] [--resume]

``--recipe`` trains what the bundled encoder is compared with.
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
from brainfeat.pretraining.intensity import IntensityConfig
from brainfeat.pretraining.simulated import SimulatedSource
from brainfeat.pretraining.trainer import pretrain
from brainfeat.pretraining.views import ViewConfig
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.contrast import ContrastConfig
from brainfeat.simulation.deformation import DeformationConfig
from brainfeat.simulation.disease import VariationConfig
from brainfeat.simulation.subjects import PopulationConfig
from brainfeat.simulation.training import TrainingConfig
from brainfeat.template import load_template

# %% Six blocks of width 192 over patches of 16 x 16 x 8 mm.
ENCODER = EncoderConfig.preset(
    "tiny", depth=6, slab_mixing=(1, 3), stem="hierarchical", slab_positions=20
)
SINGLE_SLICE = dataclasses.replace(ENCODER, thickness=1, slab_mixing=())

# %% People: structures differ more, and less in step, than in any cohort, so that
# each volume has to be measured and cannot be guessed from the others.
PEOPLE = TrainingConfig(
    population=PopulationConfig(
        deformation=DeformationConfig(amplitudes=(5.0, 3.5, 2.0), size_sd=0.05),
        variation=VariationConfig(
            ventricle_sd=0.45,
            ventricle_asymmetry_sd=0.15,
            medial_temporal_sd=0.18,
            medial_temporal_asymmetry_sd=0.08,
            gray_matter_sd=0.07,
        ),
    ),
    contrast=ContrastConfig(jitter=0.1, random_share=0.1, detail=(0.0, 1.2)),
)

# %% Views. The simulated scanners blur already.
STACKS = ViewConfig(
    global_crops=CropConfig(
        size=(104, 80), n_slabs=5, area=(0.8, 1.0), rotation=8.0, jitter=2.0
    ),
    local_crops=CropConfig(size=(48, 48), n_slabs=2, area=(0.15, 0.35), jitter=2.0),
    intensity=IntensityConfig(blur=0.0),
    n_global=1,
    n_local=0,
    hidden_modalities=0.5,
)
BRAINS = dataclasses.replace(
    STACKS,
    global_crops=CropConfig(
        size=(104, 80), n_slabs=20, area=(0.9, 1.0), rotation=5.0, jitter=0.0
    ),
)

# %% Objectives and optimisation.
FROM_STACKS = PretrainingConfig(
    encoder=ENCODER,
    views=STACKS,
    dino_weight=0.0,
    ibot_weight=0.0,
    koleo_weight=0.0,
    anatomy_weight=1.0,
    n_prototypes=1024,
    head_hidden_dim=512,
    head_bottleneck_dim=128,
    optimizer="muon",
    learning_rate=1.5e-3,
    final_learning_rate=1e-5,
    layer_decay=1.0,  # there are no lower layers worth keeping yet
    patch_embed_lr=1.0,
    weight_decay=(0.05, 0.05),
    teacher_momentum=(0.99, 0.999),
    warmup_fraction=0.03,
    batch_size=4,
    checkpoint_every=100,
)
FROM_BRAINS = dataclasses.replace(
    FROM_STACKS, views=BRAINS, volumetry_weight=0.5, learning_rate=1e-3
)


def load_bases() -> list[BaseAnatomy]:
    """Two anatomies of MNI152: its tissue maps, and tissues found in its T1w."""
    names = ("T1w", "gray_matter", "white_matter", "brain_mask")
    maps = {name: load_template(name) for name in names}
    return [
        BaseAnatomy.from_template(*maps.values(), spacing=2.0),
        BaseAnatomy.from_t1(maps["T1w"], maps["brain_mask"], spacing=2.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--stack-steps", type=int, default=3500)
    parser.add_argument("--brain-steps", type=int, default=1000)
    parser.add_argument("--reuse", type=int, default=12)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    source = SimulatedSource(
        load_bases(),
        modalities=ENCODER.modalities,
        reuse=options.reuse,
        config=PEOPLE,
        preprocessing=Preprocessor().to_dict(),
    )
    stacks = options.output / "stacks"
    config = dataclasses.replace(FROM_STACKS, n_steps=options.stack_steps)
    pretrain(source, config, output=stacks, resume=options.resume)
    config = dataclasses.replace(FROM_BRAINS, n_steps=options.brain_steps)
    pretrain(source, config, output=options.output, init=stacks, resume=options.resume)


if __name__ == "__main__":
    main()
