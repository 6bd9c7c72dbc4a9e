import numpy as np
import pytest
import torch

from brainfeat.simulation.lattice import Lattice
from brainfeat.simulation.structures import split_structures
from brainfeat.simulation.tissue import TissueFractions

LATTICE = Lattice.spanning((-50.0, -70.0, -40.0), (100.0, 110.0, 90.0), 5.0)


def nearest_voxel(point):
    homogeneous = np.linalg.inv(LATTICE.affine) @ [*point, 1.0]
    return tuple(homogeneous[:3].round().astype(int))


@pytest.fixture
def shares(generator):
    raw = torch.rand(3, *LATTICE.shape, generator=generator)
    return TissueFractions(*(raw / raw.sum(0)))


def test_structures_share_out_the_tissues(shares):
    structures = split_structures(shares, LATTICE, deep_gain=3.0)
    total = sum(structures.values())
    torch.testing.assert_close(total, torch.ones_like(total))
    assert min(float(share.min()) for share in structures.values()) >= -1e-6


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
