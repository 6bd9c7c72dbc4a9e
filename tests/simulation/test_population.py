import pytest
import torch

from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.disease import Condition
from brainfeat.simulation.lattice import refine, sample_maps
from brainfeat.simulation.population import Anatomies, TissueVariation
from brainfeat.simulation.scanner import Pose, PoseConfig

STILL = Pose(torch.eye(4)[None])


def draw(base, severity, seed=0, kind="medial-temporal"):
    condition = Condition(torch.tensor([severity]), torch.tensor([70.0]))
    generator = torch.Generator().manual_seed(seed)
    return Anatomies.draw(base, condition, disease=kind, generator=generator)


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


def test_growth_integrates_to_the_volume(base):
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


def test_same_seed_gives_the_same_anatomy(base):
    first, second = draw(base, 0.3), draw(base, 0.3)
    assert torch.equal(first.warp, second.warp)
    assert not torch.equal(first.warp, draw(base, 0.3, seed=1).warp)


def test_only_focal_diseases_have_pathology(base):
    assert draw(base, 1.0).pathology is None
    assert draw(base, 1.0, kind="lesions").pathology.sum() > 0


N = len(BRAIN_CLASSES)


def vary(base, sd=1.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = TissueVariation.draw(sd, base.field_lattice, generator=generator)
    return drawn.apply(base)


def test_gains_keep_brain_and_head(base):
    before = base.maps.clone()
    varied = vary(base)
    torch.testing.assert_close(varied.brain, base.brain)
    assert torch.equal(varied.maps[N:], base.maps[N:])
    assert torch.equal(base.maps, before)
    assert varied.maps.min() >= 0


def test_gains_change_only_shared_voxels(base):
    varied = vary(base)
    old, new = base.maps[:N], varied.maps[:N]
    alone = old.amax(0) == base.brain
    shared = (old.amax(0) < 0.7 * base.brain) & (base.brain > 0.9)
    torch.testing.assert_close(new[:, alone], old[:, alone])
    assert (new - old)[:, shared].abs().amax(0).mean() > 0.1
    assert not new[old == 0].any()


def test_gains_have_the_requested_deviation(base):
    varied = vary(base, sd=0.5)
    gray, white = (BRAIN_CLASSES.index(f"{name}_matter") for name in ("gray", "white"))
    both = (base.maps[gray] > 0.1) & (base.maps[white] > 0.1)
    odds = [
        torch.log(maps[gray][both] / maps[white][both])
        for maps in (varied.maps, base.maps)
    ]
    # The variance of a ratio is the sum of both.
    assert (odds[0] - odds[1]).std() == pytest.approx(0.5 * 2**0.5, rel=0.3)


def test_same_seed_gives_the_same_gains(base):
    first, second = vary(base, seed=3), vary(base, seed=3)
    assert torch.equal(first.maps, second.maps)
    assert not torch.equal(first.maps, vary(base, seed=4).maps)
