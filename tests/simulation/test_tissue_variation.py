import pytest
import torch

from brainfeat.simulation.anatomy import BRAIN_CLASSES
from brainfeat.simulation.tissue_variation import TissueVariation

N = len(BRAIN_CLASSES)


def vary(base, sd=1.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = TissueVariation.draw(sd, base.field_lattice, generator=generator)
    return drawn.apply(base)


def test_brain_and_head_stay_as_they_are(base):
    before = base.maps.clone()
    varied = vary(base)
    torch.testing.assert_close(varied.brain, base.brain)
    assert torch.equal(varied.maps[N:], base.maps[N:])
    assert torch.equal(base.maps, before)
    assert varied.maps.min() >= 0


def test_only_shared_voxels_change(base):
    varied = vary(base)
    shares, new = base.maps[:N], varied.maps[:N]
    alone = shares.amax(0) == base.brain
    shared = (shares.amax(0) < 0.7 * base.brain) & (base.brain > 0.9)
    torch.testing.assert_close(new[:, alone], shares[:, alone])
    assert (new - shares)[:, shared].abs().amax(0).mean() > 0.1
    # None appears where it was not.
    assert not new[shares == 0].any()


def test_gains_have_the_deviation_asked_for(base):
    varied = vary(base, sd=0.5)
    gray, white = (BRAIN_CLASSES.index(f"{name}_matter") for name in ("gray", "white"))
    both = (base.maps[gray] > 0.1) & (base.maps[white] > 0.1)
    odds = [
        torch.log(maps[gray][both] / maps[white][both])
        for maps in (varied.maps, base.maps)
    ]
    # The ratio of two tissues has the deviations of both.
    assert (odds[0] - odds[1]).std() == pytest.approx(0.5 * 2**0.5, rel=0.3)


def test_same_seed_same_anatomy(base):
    first, second = vary(base, seed=3), vary(base, seed=3)
    assert torch.equal(first.maps, second.maps)
    assert not torch.equal(first.maps, vary(base, seed=4).maps)
