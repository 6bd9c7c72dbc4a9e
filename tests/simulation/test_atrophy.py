import pytest
import torch

from brainfeat.simulation.atrophy import MODES
from brainfeat.simulation.lattice import sample_maps
from brainfeat.simulation.vector_fields import exponentiate, log_jacobian


def deformed_volume(base, coefficients, name, side):
    """Volume of one side of a structure after the modes are applied."""
    lattice = base.field_lattice
    weights = torch.tensor([coefficients.get(mode, 0.0) for mode in MODES])
    velocity = torch.einsum("n,ncijk->cijk", weights, base.modes)[None]
    displacement = exponentiate(velocity, lattice)
    assert torch.isfinite(log_jacobian(displacement, lattice)).all()
    points = base.lattice.points()[None]
    moved = sample_maps(displacement, lattice.normalize(points))
    grid = base.lattice.normalize(points + moved.movedim(1, -1))
    hand = (base.lattice.points()[..., 0] * side > 0).float()
    share = (base.named(name) * hand)[None, None]
    return float(sample_maps(share, grid).sum())


@pytest.mark.parametrize("mode", ["ventricle_left", "medial_temporal_right"])
def test_mode_grows_its_structure_and_no_other(base, mode):
    name, side = mode.rpartition("_")[0], -1 if mode.endswith("left") else 1
    sizes = [
        deformed_volume(base, {mode: coefficient}, name, side)
        for coefficient in (-0.4, 0.0, 0.4)
    ]
    assert sizes[0] < 0.82 * sizes[1]
    assert sizes[2] > 1.22 * sizes[1]
    other = [
        deformed_volume(base, {mode: coefficient}, name, -side)
        for coefficient in (0.0, 0.4)
    ]
    assert other[1] == pytest.approx(other[0], rel=0.03)
    white = [
        deformed_volume(base, {mode: coefficient}, "white_matter", side)
        for coefficient in (0.0, 0.4)
    ]
    assert white[1] == pytest.approx(white[0], rel=0.03)


def test_far_from_the_brain_nothing_moves(base):
    corner = base.modes[:, :, :3, :3, :3]
    assert corner.abs().max() < 0.05 * base.modes.abs().max()
