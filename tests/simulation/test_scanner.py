import math

import nibabel as nib
import numpy as np
import pytest
import torch

from brainfeat.simulation.contrast import MODALITIES
from brainfeat.simulation.scanner import SCANNERS, Pose, PoseConfig

STILL = torch.zeros(4)


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda scanner: scanner.name)
@pytest.mark.parametrize("modality", MODALITIES)
def test_lattice_follows_the_protocol(scanner, modality):
    lattice = scanner.lattice(modality, (3.0, -20.0, 10.0), jitter=STILL)
    assert "".join(nib.aff2axcodes(lattice.affine)) == scanner.orientation
    assert sorted(lattice.spacing) == pytest.approx(sorted(scanner.spacing[modality]))
    middle = lattice.affine @ [*((np.array(lattice.shape) - 1) / 2), 1.0]
    expected = np.array([3.0, -20.0, 10.0]) + scanner.center
    np.testing.assert_allclose(middle[:3], expected, atol=1e-9)
    volume = math.prod(lattice.shape) * math.prod(lattice.spacing)
    assert volume == pytest.approx(math.prod(scanner.size), rel=0.02)


def test_scanners_differ():
    assert len({scanner.orientation for scanner in SCANNERS}) == 3
    assert len({scanner.spacing["T1w"] for scanner in SCANNERS}) == 3


def test_jitter_moves_and_tilts_the_field_of_view():
    still, moved = (
        SCANNERS[0].lattice("T1w", (0.0, 0.0, 0.0), jitter=jitter).affine
        for jitter in (STILL, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    )
    assert not np.allclose(still[:3, :3], moved[:3, :3])
    assert not np.allclose(still[:3, 3], moved[:3, 3])


def test_poses_are_rigid(generator):
    matrix = Pose.draw(PoseConfig(), 5, generator=generator).matrix
    rotation = matrix[:, :3, :3]
    identity = torch.eye(3).expand(5, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()


@pytest.mark.parametrize("change", [{"rotation": 0.0}, {"shift": 0.0}])
def test_each_pose_setting_changes_something(change):
    matrices = [
        Pose.draw(config, 2, generator=torch.Generator().manual_seed(1)).matrix
        for config in (PoseConfig(), PoseConfig(**change))
    ]
    assert not torch.equal(*matrices)
