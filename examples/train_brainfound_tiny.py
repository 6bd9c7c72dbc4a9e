"""Train the bundled `brainfound-tiny` on simulated anatomies, on a CPU or a GPU.

Nothing is downloaded: subjects are deformed from the MNI152 maps that come with
nilearn, with varied contrasts, scanners and diseases. Each round starts from the one
before: the second has less noise, as real scans do after resampling; the third has
subjects whose tissue borders differ.

    python examples/train_brainfound_tiny.py OUTPUT
    python examples/train_brainfound_tiny.py OUTPUT --resume
    python examples/train_brainfound_tiny.py OUTPUT --bundle brainfeat/weights/...

``--resume`` continues an interrupted run; ``--bundle`` also saves the encoder in half
precision, beside the model card of that folder.
"""

import argparse
import dataclasses
import logging
from pathlib import Path

import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.template import load_template
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.run import pretrain
from brainfeat.pretraining.simulated import SimulatedSource
from brainfeat.pretraining.views import ViewConfig
from brainfeat.simulation.anatomy import BaseAnatomy
from brainfeat.simulation.artifacts import ArtifactConfig
from brainfeat.simulation.contrast import ContrastConfig
from brainfeat.simulation.deformation import DeformationConfig
from brainfeat.simulation.disease import VariationConfig
from brainfeat.simulation.population import PopulationConfig
from brainfeat.simulation.training import TrainingConfig
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.intensity import IntensityConfig

DESCRIPTION = (
    "Learnt from simulated anatomies alone what each patch of a brain holds; T1w, T2w "
    "and FLAIR, any of them missing. Not validated on patients."
)

# %% Six blocks of width 192 over patches of 16 x 16 x 8 mm.
ENCODER = EncoderConfig.preset(
    "tiny", depth=6, slab_mixing=(1, 3), stem="hierarchical", slab_positions=20
)

# %% Population: structures vary more, and more independently, than in any cohort, so
# that the volume of one cannot be predicted from the others.
POPULATION = PopulationConfig(
    deformation=DeformationConfig(amplitudes=(5.0, 3.5, 2.0), size_sd=0.05),
    variation=VariationConfig(
        ventricle_sd=0.45,
        ventricle_asymmetry_sd=0.15,
        medial_temporal_sd=0.18,
        medial_temporal_asymmetry_sd=0.08,
        gray_matter_sd=0.07,
    ),
)
FIRST_SUBJECTS = TrainingConfig(
    population=POPULATION,
    contrast=ContrastConfig(jitter=0.1, random_fraction=0.1, detail=(0.0, 1.2)),
)
SECOND_SUBJECTS = TrainingConfig(
    population=POPULATION,
    contrast=ContrastConfig(jitter=0.12, random_fraction=0.2, detail=(0.0, 1.2)),
    artifacts=ArtifactConfig(
        bias=(0.0, 0.4), noise=(0.0, 0.04), gamma=(0.7, 1.4), resolution=(1.0, 5.0)
    ),
)
# Subjects that are not deformations of each other, so that shape is not sufficient.
THIRD_SUBJECTS = dataclasses.replace(SECOND_SUBJECTS, tissue_sd=1.2)

# %% Views: stacks of five slabs of the whole plane. The simulated scans are blurred.
VIEWS = ViewConfig(
    global_crops=CropConfig(
        size=(104, 80), n_slabs=5, area=(0.8, 1.0), rotation=8.0, jitter=2.0
    ),
    intensity=IntensityConfig(blur=0.0),
    n_global=1,
    n_local=0,
    hidden_modalities=0.5,
)

# %% Objective and optimisation.
FIRST = PretrainingConfig(
    encoder=ENCODER,
    views=VIEWS,
    dino_weight=0.0,
    ibot_weight=0.0,
    koleo_weight=0.0,
    anatomy_weight=1.0,
    optimizer="muon",
    learning_rate=1.5e-3,
    final_learning_rate=1e-5,
    layer_decay=1.0,  # no pretrained lower layers to preserve
    patch_embed_lr=1.0,
    weight_decay=(0.05, 0.05),
    teacher_momentum=(0.99, 0.999),
    warmup_fraction=0.03,
    batch_size=4,
    n_steps=3500,
    checkpoint_every=100,
)
SECOND = dataclasses.replace(
    FIRST,
    views=dataclasses.replace(VIEWS, intensity=IntensityConfig(blur=0.0, noise=0.05)),
    learning_rate=1.2e-3,
    n_steps=4000,
    seed=1,
)
THIRD = dataclasses.replace(SECOND, n_steps=5400, seed=11)


def load_bases() -> list[BaseAnatomy]:
    """Load two anatomies of MNI152: from its tissue maps, and from its T1w image."""
    names = ("T1w", "gray_matter", "white_matter", "brain_mask")
    maps = {name: load_template(name) for name in names}
    return [
        BaseAnatomy.from_template(*maps.values(), spacing=2.0),
        BaseAnatomy.from_t1(maps["T1w"], maps["brain_mask"], spacing=2.0),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--bundle", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    bases, init = load_bases(), None
    for folder, config, subjects in (
        (options.output / "first", FIRST, FIRST_SUBJECTS),
        (options.output / "second", SECOND, SECOND_SUBJECTS),
        (options.output, THIRD, THIRD_SUBJECTS),
    ):
        source = SimulatedSource(
            bases,
            modalities=ENCODER.modalities,
            reuse=12,
            config=subjects,
            preprocessing=Preprocessor().to_dict(),
        )
        pretrain(source, config, output=folder, init=init, resume=options.resume)
        init = folder
    if options.bundle is not None:
        bundle(options.output, options.bundle)


def bundle(trained: Path, folder: Path) -> None:
    """Save an encoder for the wheel, beside the existing model card."""
    checkpoint = Checkpoint.load(trained)
    config = dataclasses.replace(checkpoint.config, description=DESCRIPTION)
    card = (folder / "README.md").read_text(encoding="utf-8")
    Checkpoint(config, checkpoint.state, card).save(folder, dtype="float16")


if __name__ == "__main__":
    main()
