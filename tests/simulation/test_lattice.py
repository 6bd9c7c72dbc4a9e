import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainfeat.exceptions import InputError
from brainfeat.simulation.lattice import (
    Lattice,
    conform_volumes,
    refine,
    sample_maps,
    transform_points,
)
from brainfeat.volume import Geometry, Volume

GEOMETRY = Geometry((8, 10, 12), np.diag([-2.0, 2.0, 2.0, 1.0]))


@pytest.fixture
def lattice():
    affine = np.array(
        [[0, 0, 2.0, -9], [-1.5, 0.2, 0, 30], [0, 1.1, 0, 4], [0, 0, 0, 1]]
    )
    return Lattice((7, 5, 6), affine)


def test_points_are_the_affine_applied_to_indices(lattice):
    points = lattice.points()
    expected = lattice.affine @ [6, 1, 4, 1]
    np.testing.assert_allclose(points[6, 1, 4], expected[:3], rtol=1e-6)


def test_sampling_at_the_own_points_changes_nothing(lattice):
    maps = torch.randn(1, 2, *lattice.shape)
    grid = lattice.normalize(lattice.points())
    torch.testing.assert_close(
        sample_maps(maps, grid[None]), maps, atol=1e-5, rtol=1e-5
    )


def test_one_map_is_sampled_for_the_whole_batch(lattice):
    maps = torch.randn(1, 2, *lattice.shape)
    points = (
        lattice.points()[None] + torch.tensor([0.0, 0.7])[:, None, None, None, None]
    )
    sampled = sample_maps(maps, lattice.normalize(points))
    alone = sample_maps(maps, lattice.normalize(points[1:]))
    torch.testing.assert_close(sampled[1:], alone)


def test_refining_inverts_coarsening(lattice):
    coarse = lattice.coarsened(2.5)
    assert coarse.shape != lattice.shape
    # Positions are linear in the indices, so linear interpolation is exact.
    fine = refine(coarse.points()[None], lattice.shape)[0]
    torch.testing.assert_close(fine, lattice.points(), atol=1e-4, rtol=1e-5)


def test_averaging_inverts_subdivision(lattice):
    factors = (2, 1, 3)
    fine = lattice.subdivided(factors).points().movedim(-1, 0)[None]
    coarse = F.avg_pool3d(fine, factors)[0].movedim(0, -1)
    torch.testing.assert_close(coarse, lattice.points(), atol=1e-4, rtol=1e-5)


def test_spanning_fills_the_box():
    lattice = Lattice.spanning((-10.0, 5.0, 0.0), (20.0, 12.0, 8.0), 4.0)
    assert lattice.shape == (5, 3, 2)
    np.testing.assert_allclose(lattice.affine[:3, 3], [-8, 7, 2])


def test_each_batch_entry_has_its_own_affine():
    points = torch.randn(2, 3, 4, 5, 3)
    matrices = torch.eye(4).repeat(2, 1, 1)
    matrices[1, :3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 2]])
    matrices[1, :3, 3] = torch.tensor([1.0, 2, 3])
    moved = transform_points(points, matrices)
    torch.testing.assert_close(moved[0], points[0])
    torch.testing.assert_close(
        moved[1, 2, 1, 4], matrices[1, :3, :3] @ points[1, 2, 1, 4] + matrices[1, :3, 3]
    )


def test_linear_intensities_are_resampled_exactly():
    points = Lattice(GEOMETRY.shape, GEOMETRY.affine).points()
    volume = Volume((points @ torch.tensor([1.0, 2.0, -0.5])).numpy(), GEOMETRY)
    lattice = Lattice.spanning((-13.0, 4.0, 4.0), (9.0, 12.0, 15.0), 3.0)
    (read,) = conform_volumes([volume], lattice)
    expected = lattice.points() @ torch.tensor([1.0, 2.0, -0.5])
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=0)


def test_voxels_outside_or_not_finite_are_zero():
    data = np.ones(GEOMETRY.shape, np.float32)
    data[4, 5, 6] = np.nan
    lattice = Lattice.spanning((-100.0, 0.0, 0.0), (120.0, 30.0, 40.0), 4.0)
    (read,) = conform_volumes([Volume(data, GEOMETRY)], lattice)
    assert torch.isfinite(read).all()
    assert read[0].max() == 0
    assert read.max() > 0.9


def test_volumes_on_different_grids_are_refused():
    other = Geometry(GEOMETRY.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    volumes = [Volume(np.ones(GEOMETRY.shape), g) for g in (GEOMETRY, other)]
    with pytest.raises(InputError, match="expected volumes on one grid"):
        conform_volumes(volumes, Lattice.spanning((0, 0, 0), (8, 8, 8), 2.0))
