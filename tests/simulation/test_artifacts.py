from dataclasses import replace

import pytest
import torch

from brainfeat.simulation.artifacts import ArtifactConfig, Artifacts

CONFIG = ArtifactConfig(
    bias=(0.1, 0.2), noise=(0.02, 0.03), gamma=(0.8, 1.2), resolution=(2.0, 4.0)
)
CLEAN = ArtifactConfig(
    bias=(0.0, 0.0), noise=(0.0, 0.0), gamma=(1.0, 1.0), resolution=(1.0, 1.0)
)
SHAPE = (2, 3, 14, 12, 10)  # B M I J K


def degrade(config, image, seed=0):
    generator = torch.Generator().manual_seed(seed)
    artifacts = Artifacts.draw(config, *SHAPE[:2], generator=generator)
    return artifacts.apply(image.clone(), (1.0, 1.0, 1.0))


@pytest.fixture
def image():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(9))


def test_a_perfect_scanner_changes_nothing(image):
    torch.testing.assert_close(degrade(CLEAN, image), image)


def test_same_artifacts_give_the_same_scan(image):
    assert torch.equal(degrade(CONFIG, image), degrade(CONFIG, image))
    assert not torch.equal(degrade(CONFIG, image), degrade(CONFIG, image, seed=1))


@pytest.mark.parametrize("name", list(ArtifactConfig.__dataclass_fields__))
def test_each_artifact_changes_something(image, name):
    changed = degrade(replace(CLEAN, **{name: getattr(CONFIG, name)}), image)
    assert torch.isfinite(changed).all()
    assert changed.min() >= 0
    assert not torch.allclose(changed, image)


def test_noise_in_air_is_rayleigh_distributed():
    config = replace(CLEAN, noise=(0.05, 0.05))
    noise = degrade(config, torch.zeros(SHAPE))
    assert float(noise.mean()) == pytest.approx(0.05 * (torch.pi / 2) ** 0.5, rel=0.03)


def test_lower_resolution_keeps_means_and_one_axis_blurs(image):
    blurred = degrade(replace(CLEAN, resolution=(4.0, 4.0)), image)
    assert float(blurred.mean()) == pytest.approx(float(image.mean()), rel=0.05)
    steps = [blurred[0, 0].diff(dim=axis).abs().mean() for axis in range(3)]
    least, *others = sorted(float(step) for step in steps)
    assert least < 0.6 * min(others)
    constant = torch.full(SHAPE, 0.7)
    kept = degrade(replace(CLEAN, resolution=(3.5, 3.5)), constant)
    torch.testing.assert_close(kept, constant)
