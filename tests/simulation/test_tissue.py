import pytest
import torch

from brainfeat.simulation.random_fields import evaluate_spline
from brainfeat.simulation.structures import (
    TissueFractions,
    cluster_tissue,
    sharpen_fractions,
)


@pytest.mark.parametrize("bias_strength", [0.0, 0.2])
def test_clusters_recover_the_tissues_of_the_base(base, bias_strength, generator):
    brain = base.brain
    gray = base.maps[[1, 4, 5]].sum(0)
    csf = base.maps[[0, 3]].sum(0)
    t1 = 0.2 * csf + 0.62 * gray + base.named("white_matter")
    control = torch.randn(1, 1, 5, 5, 5, generator=generator) * bias_strength
    bias = evaluate_spline(control, tuple(t1.shape), (2 / 48, 2 / 62, 2 / 59)).exp()
    fractions, corrected = cluster_tissue(340 * t1 * bias[0, 0], brain, spacing=4.0)
    torch.testing.assert_close(sum(fractions), brain, atol=1e-5, rtol=0)
    white = base.named("white_matter")
    overlap = torch.minimum(fractions.white_matter, white).sum() / white.sum()
    assert overlap > 0.85
    assert corrected[white > 0.95].mean() == pytest.approx(1.0, abs=0.08)


def test_sharpening_keeps_the_sum_and_favours_the_largest():
    fractions = TissueFractions(*(torch.tensor([value]) for value in (0.1, 0.5, 0.2)))
    sharp = sharpen_fractions(fractions, 2.0)
    assert sum(sharp).item() == pytest.approx(0.8)
    assert sharp.gray_matter > 0.5
    torch.testing.assert_close(
        torch.stack(sharpen_fractions(fractions, 1.0)), torch.stack(fractions)
    )
