import pytest
import torch

from brainfeat.simulation.disease import Condition
from brainfeat.simulation.lattice import refine, sample_maps
from brainfeat.simulation.scanner import Pose, PoseConfig
from brainfeat.simulation.subjects import Subjects

STILL = Pose(torch.eye(4)[None])


def draw(base, severity, seed=0, kind="medial-temporal"):
    condition = Condition(torch.tensor([severity]), torch.tensor([70.0]))
    generator = torch.Generator().manual_seed(seed)
    return Subjects.draw(base, condition, disease=kind, generator=generator)


def volume(subject, name, pose=STILL):
    base = subject.base
    grid = subject.locate(base.lattice, pose).grid
    return float(sample_maps(base.named(name)[None, None], grid).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_structures_follow_the_severity(base, seed):
    subjects = [draw(base, severity, seed) for severity in (0.0, 0.5, 1.0)]
    ventricles = [volume(subject, "ventricle") for subject in subjects]
    medial = [volume(subject, "medial_temporal") for subject in subjects]
    assert ventricles == sorted(ventricles)
    assert ventricles[2] > 1.2 * ventricles[0]
    assert medial == sorted(medial, reverse=True)
    assert medial[2] < 0.85 * medial[0]


def test_warps_never_fold(base):
    for seed in range(4):
        assert torch.isfinite(draw(base, 1.0, seed, kind="mass").warp[:, 3]).all()


def test_growth_adds_up_to_the_volume(base):
    subject = draw(base, 0.8)
    positions = subject.locate(base.lattice, STILL)
    growth = refine(positions.growth.movedim(1, -1), base.lattice.shape)[..., 0]
    inside = sample_maps(base.brain[None, None], positions.grid)[:, 0]
    # Each voxel of the subject is exp(-growth) voxels of the base.
    expected = (inside * torch.exp(-growth)).sum()
    assert float(expected) == pytest.approx(float(base.brain.sum()), rel=0.03)


def test_pose_moves_the_head_and_its_centre(base, generator):
    subject = draw(base, 0.0)
    pose = Pose.draw(PoseConfig(shift=8.0), 1, generator=generator)
    still, moved = subject.head_center(STILL), subject.head_center(pose)
    assert (still - moved).norm() > 2
    # A rigid motion keeps volumes.
    assert volume(subject, "white_matter", pose) == pytest.approx(
        volume(subject, "white_matter"), rel=0.02
    )


def test_same_seed_same_subject(base):
    first, second = draw(base, 0.3), draw(base, 0.3)
    assert torch.equal(first.warp, second.warp)
    assert not torch.equal(first.warp, draw(base, 0.3, seed=1).warp)


def test_pathology_only_where_the_disease_is_focal(base):
    assert draw(base, 1.0).pathology is None
    assert draw(base, 1.0, kind="lesions").pathology.sum() > 0
