import numpy as np
import pytest

from brainfeat.exceptions import GeometryError, VolumeError
from brainfeat.volume import Geometry, Volume

SHAPE = (4, 5, 6)


def oblique_affine():
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ np.diag([-0.9, 1.1, 5.0, 1.0])


def test_spacing_follows_array_axes_of_an_oblique_grid():
    np.testing.assert_allclose(
        Geometry(SHAPE, oblique_affine()).spacing, (0.9, 1.1, 5.0)
    )


@pytest.mark.parametrize(
    ("columns", "codes"),
    [((0, 1, 2), "RAS"), ((1, 2, 0), "ASR"), ((2, 0, 1), "SRA")],
)
def test_orientation_names_the_direction_of_each_axis(columns, codes):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(columns)]
    assert Geometry(SHAPE, affine).orientation == codes


def test_center_is_the_world_position_of_the_middle():
    affine = oblique_affine()
    affine[:3, 3] = [1.0, -2.0, 3.0]
    middle = [(size - 1) / 2 for size in SHAPE]
    np.testing.assert_allclose(
        Geometry(SHAPE, affine).center, (affine @ [*middle, 1.0])[:3]
    )


def test_close_grids_differ_by_less_than_the_tolerance_at_every_corner():
    affine = np.eye(4)
    grid = Geometry(SHAPE, affine)
    nudged, stretched = affine.copy(), affine.copy()
    nudged[0, 3] = 5e-4
    stretched[2, 2] = 1.001  # 5 mm away: the far corner moves by 5e-3
    assert grid.is_close(Geometry(SHAPE, nudged))
    assert not grid.is_close(Geometry(SHAPE, stretched))
    assert not grid.is_close(Geometry((4, 5, 7), affine))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4, 5), np.eye(4), "three positive sizes"),
        ((4, 0, 6), np.eye(4), "three positive sizes"),
        (SHAPE, np.eye(3), "4x4"),
        (SHAPE, np.full((4, 4), np.nan), "finite"),
        (SHAPE, np.zeros((4, 4)), "last row"),
        (SHAPE, np.diag([1.0, 0.0, 1.0, 1.0]), "inverted"),
        (SHAPE, np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
    ],
)
def test_invalid_geometry_is_rejected(shape, affine, message):
    with pytest.raises(GeometryError, match=message):
        Geometry(shape, affine)


def test_micrometre_voxels_are_valid():
    assert Geometry(SHAPE, np.diag([1e-3, 1e-3, 1e-3, 1.0])).orientation == "RAS"


def test_geometry_keeps_its_own_affine():
    affine = np.eye(4)
    grid = Geometry(SHAPE, affine)
    affine[0, 0] = 7.0
    assert grid.affine[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7.0


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2), (4, 6, 5)])
def test_volume_rejects_data_that_does_not_fit(shape):
    with pytest.raises(VolumeError, match="got"):
        Volume(np.zeros(shape), Geometry(SHAPE, np.eye(4)))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.zeros(SHAPE, np.complex64), "complex64"),
        (np.zeros(SHAPE, "U1"), "<U1"),
        ([[[1.0]]], "list"),
    ],
)
def test_volume_rejects_anything_but_arrays_of_real_numbers(data, kind):
    with pytest.raises(VolumeError, match=f"array of real numbers, got {kind}"):
        Volume(data, Geometry(SHAPE, np.eye(4)))
