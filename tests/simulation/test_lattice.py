import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainfeat.simulation.lattice import (
    Lattice,
    refine,
    sample_maps,
    transform_points,
)


@pytest.fixture
def lattice():
    affine = np.array(
        [[0, 0, 2.0, -9], [-1.5, 0.2, 0, 30], [0, 1.1, 0, 4], [0, 0, 0, 1]]
    )
    return Lattice((7, 5, 6), affine)


def test_points_are_the_affine_of_the_indices(lattice):
    points = lattice.points()
    expected = lattice.affine @ [6, 1, 4, 1]
    np.testing.assert_allclose(points[6, 1, 4], expected[:3], rtol=1e-6)


def test_sampling_a_lattice_at_its_own_points_changes_nothing(lattice):
    maps = torch.randn(1, 2, *lattice.shape)
    grid = lattice.normalize(lattice.points())
    torch.testing.assert_close(
        sample_maps(maps, grid[None]), maps, atol=1e-5, rtol=1e-5
    )


def test_one_map_serves_the_whole_batch(lattice):
    maps = torch.randn(1, 2, *lattice.shape)
    points = (
        lattice.points()[None] + torch.tensor([0.0, 0.7])[:, None, None, None, None]
    )
    sampled = sample_maps(maps, lattice.normalize(points))
    alone = sample_maps(maps, lattice.normalize(points[1:]))
    torch.testing.assert_close(sampled[1:], alone)


def test_refining_leads_back_from_a_coarsened_lattice(lattice):
    coarse = lattice.coarsened(2.5)
    assert coarse.shape != lattice.shape
    # Positions are linear in the indices, so linear interpolation is exact.
    fine = refine(coarse.points()[None], lattice.shape)[0]
    torch.testing.assert_close(fine, lattice.points(), atol=1e-4, rtol=1e-5)


def test_averaging_a_subdivided_lattice_leads_back(lattice):
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
