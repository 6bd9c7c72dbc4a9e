import numpy as np
import pytest
import torch

from brainfeat.simulation.disease import Condition
from brainfeat.simulation.population import Anatomies
from brainfeat.simulation.scan import LABELS, draw_scan, label_map
from brainfeat.simulation.scanner import Pose, PoseConfig


@pytest.fixture(scope="module")
def pose():
    generator = torch.Generator().manual_seed(2)
    return Pose.draw(PoseConfig(), 1, generator=generator)


def draw_subject(base, kind="medial-temporal"):
    condition = Condition(torch.tensor([1.0]), torch.tensor([70.0]))
    generator = torch.Generator().manual_seed(1)
    return Anatomies.draw(base, condition, disease=kind, generator=generator)


def scan(subject, scanner, pose, modality="T1w", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return draw_scan(subject, scanner, modality, pose, generator=generator)


def test_labels_match_the_scan(base, coarse_scanners, pose):
    subject = draw_subject(base)
    for scanner in coarse_scanners:
        stored = scan(subject, scanner, pose)
        labels = label_map(subject, stored.lattice, pose)
        assert stored.data.dtype == torch.int16
        assert labels.shape == stored.data.shape == stored.lattice.shape
        white = stored.data[labels == LABELS.index("white_matter") + 1].float()
        fluid = stored.data[labels == LABELS.index("ventricle") + 1].float()
        assert white.mean() > 1.5 * fluid.mean()


def test_label_volumes_are_the_same_on_every_scanner(base, coarse_scanners, pose):
    subject = draw_subject(base)
    volumes = []
    for scanner in coarse_scanners:
        lattice = scan(subject, scanner, pose).lattice
        labels = label_map(subject, lattice, pose)
        volumes.append(float((labels == 3).sum()) * np.prod(lattice.spacing))
    assert max(volumes) < 1.06 * min(volumes)


def test_lesions_are_labelled_and_bright_on_flair(base, coarse_scanners, pose):
    subject = draw_subject(base, "lesions")
    stored = scan(subject, coarse_scanners[0], pose, "FLAIR")
    labels = label_map(subject, stored.lattice, pose)
    lesion = labels == LABELS.index("lesion") + 1
    white = labels == LABELS.index("white_matter") + 1
    assert lesion.any()
    assert stored.data[lesion].float().mean() > 1.2 * stored.data[white].float().mean()


def test_thick_slices_average_thin_ones(base, coarse_scanners, pose):
    subject = draw_subject(base)
    stored = scan(subject, coarse_scanners[1], pose, "T2w")
    assert max(stored.lattice.spacing) == pytest.approx(12.0)
    assert stored.data.float().std() > 0


def test_same_seed_gives_the_same_scan(base, coarse_scanners, pose):
    subject, scanner = draw_subject(base), coarse_scanners[2]
    first, second, other = (scan(subject, scanner, pose, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.data, second.data)
    assert not torch.equal(first.data, other.data)
