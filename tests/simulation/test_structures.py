import numpy as np
import pytest
import torch

from brainfeat.simulation.deformation import exponentiate, log_jacobian
from brainfeat.simulation.lattice import Lattice, sample_maps
from brainfeat.simulation.structures import (
    MODES,
    ZONES,
    TissueFractions,
    distance_to_chains,
    split_structures,
    zone,
)

LATTICE = Lattice.spanning((-50.0, -70.0, -40.0), (100.0, 110.0, 90.0), 5.0)


def nearest_voxel(point):
    homogeneous = np.linalg.inv(LATTICE.affine) @ [*point, 1.0]
    return tuple(homogeneous[:3].round().astype(int))


@pytest.fixture
def fractions(generator):
    raw = torch.rand(3, *LATTICE.shape, generator=generator)
    return TissueFractions(*(raw / raw.sum(0)))


def test_structures_partition_the_tissues(fractions):
    structures = split_structures(fractions, LATTICE, deep_gain=3.0)
    total = sum(structures.values())
    torch.testing.assert_close(total, torch.ones_like(total))
    assert min(float(part.min()) for part in structures.values()) >= -1e-6


@pytest.mark.parametrize(
    ("name", "tissue", "point"),
    [
        ("ventricle", 0, (14.0, 0.0, 22.0)),
        ("medial_temporal", 1, (-27.0, -20.0, -15.0)),
        ("deep_gray", 1, (11.0, -15.0, 8.0)),
    ],
)
def test_structure_is_its_tissue_in_its_zone(name, tissue, point):
    pure = torch.zeros(3, *LATTICE.shape)
    pure[tissue] = 1.0
    structures = split_structures(TissueFractions(*pure), LATTICE, deep_gain=1.0)
    assert structures[name][nearest_voxel(point)] > 0.9
    assert structures[name][nearest_voxel((-45.0, 30.0, 40.0))] == 0


@pytest.mark.parametrize("name", sorted(ZONES))
def test_zones_are_mirror_images(name):
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 30
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(zone(name, points), zone(name, mirrored))


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("medial_temporal", (-28.0, -20.0, -15.0)),
        ("ventricle", (14.0, 0.0, 22.0)),
        ("deep_gray", (11.0, -16.0, 8.0)),
    ],
)
def test_zone_contains_its_structure(name, point):
    assert zone(name, torch.tensor(point)) == 1


def test_capsule_distance():
    chain = (((0.0, 0.0, 0.0), (10.0, 0.0, 0.0)), 2.0)
    points = torch.tensor([[5.0, 0, 0], [5, 3, 0], [14, 0, 3]])
    expected = torch.tensor([-2.0, 1.0, 3.0])
    torch.testing.assert_close(distance_to_chains([chain], points), expected)


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
    side_map = (base.named(name) * hand)[None, None]
    return float(sample_maps(side_map, grid).sum())


@pytest.mark.parametrize("mode", ["ventricle_left", "medial_temporal_right"])
def test_mode_grows_only_its_structure(base, mode):
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


def test_modes_vanish_far_from_the_brain(base):
    corner = base.modes[:, :, :3, :3, :3]
    assert corner.abs().max() < 0.05 * base.modes.abs().max()
