import pytest
import torch

from brainfeat.simulation.head import HEAD_CLASSES, build_head, classify_head


@pytest.fixture(scope="module")
def head(base):
    return build_head(base.brain, base.lattice)


def test_head_does_not_overlap_the_brain(base, head):
    assert set(head) == set(HEAD_CLASSES)
    total = sum(head.values())
    assert total.min() >= 0
    assert (total + base.brain).max() <= 1.001


def test_layers_lie_in_order_above_the_brain(base, head):
    # Straight up from the vertex of the brain, in voxels of 4 mm.
    i = base.lattice.shape[0] // 2 + 5
    j = int((-20 - base.lattice.affine[1, 3]) / 4)
    heights = {
        name: float(fraction[i, j, 40:].argmax())
        for name, fraction in {"brain": base.brain, **head}.items()
    }
    assert heights["brain"] < heights["bone"] < heights["fat"]


def test_bright_scalp_is_fat_and_dark_voxels_are_empty():
    t1 = torch.tensor([0.02, 0.45, 1.3, 1.3])
    brain = torch.tensor([0.0, 0.0, 0.0, 1.0])
    head = classify_head(t1, brain)
    torch.testing.assert_close(head["fat"], torch.tensor([0.0, 0.0, 1.0, 0.0]))
    torch.testing.assert_close(head["soft_tissue"], torch.tensor([0.0, 1.0, 0.0, 0.0]))
