"""A source and a configuration so small that a run takes a second."""

from dataclasses import replace

import pytest
import torch

from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.source import SubjectBatch, seeded_generator
from brainfeat.pretraining.views import DrawnViews, ViewConfig
from brainfeat.slabs.crops import CropConfig

SMALL_CONFIG = PretrainingConfig(
    encoder=EncoderConfig(
        modalities=("T1w", "FLAIR"),
        thickness=2,
        patch_size=4,
        image_size=(16, 12),
        embed_dim=24,
        depth=2,
        num_heads=3,
        slab_mixing=(0,),
        layer_scale=0.1,
        drop_path=0.2,
    ),
    views=ViewConfig(
        global_crops=CropConfig(size=(8, 12), n_slabs=3),
        local_crops=CropConfig(size=(4, 8), n_slabs=2, area=(0.2, 0.4)),
        n_local=1,
    ),
    infonce_weight=0.2,
    anatomy_weight=0.5,
    n_prototypes=11,
    teacher_temperature=(0.2, 0.3),
    head_hidden_dim=20,
    head_bottleneck_dim=9,
    centring="moving_average",
    batch_size=4,
    n_steps=7,
    warmup_fraction=0.3,
    learning_rate=0.002,
    precision="float32",
    log_every=2,
    checkpoint_every=3,
    probe_every=2,
)


class RandomSource:
    """Subjects of noise, with three anatomy targets."""

    modalities = ("T1w", "FLAIR")
    shape = (12, 16, 8)
    targets = ("first", "second", "third")
    tissues = ("third", "first")
    structures = ()
    target_weights = (1.0, 0.5, 2.0)
    preprocessing = {"shape": [12, 16, 8], "spacing": 9.0}  # noqa: RUF012

    def draw(self, step, n_subjects, *, seed, process=0, n_processes=1):
        generator = seeded_generator(seed, step, process, n_processes)
        volumes = torch.randn(n_subjects, 1, 2, *self.shape, generator=generator)
        foreground = torch.rand(n_subjects, *self.shape, generator=generator) < 0.7
        return SubjectBatch(
            volumes=volumes,
            present=torch.ones(n_subjects, 1, 2, dtype=torch.bool),
            foreground=foreground.float(),
            targets=torch.rand(n_subjects, 3, *self.shape, generator=generator),
        )


@pytest.fixture(scope="module", autouse=True)
def _always_one_thread(one_thread):
    """Everything here is small."""


@pytest.fixture(scope="session")
def small_config():
    """All objectives, on an encoder of two blocks."""
    return SMALL_CONFIG


@pytest.fixture(scope="session")
def source():
    return RandomSource()


@pytest.fixture
def make_views(source):
    """Function that cuts the views of five subjects for a configuration."""

    def make(config, step=0):
        subjects = source.draw(step, 5, seed=1)
        subjects = replace(
            subjects, targets=subjects.targets if config.anatomy_weight else None
        )
        generator = seeded_generator(2, step)
        drawn = DrawnViews.draw(
            config.views, config.encoder, subjects, step=step, generator=generator
        )
        return drawn.apply(subjects, config.encoder)

    return make
