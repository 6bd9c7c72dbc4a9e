import numpy as np
import pytest
import torch

from brainfeat.exceptions import InputError
from brainfeat.preprocessing.template import load_template
from brainfeat.simulation.conform import conform_volumes, match_boxes
from brainfeat.simulation.lattice import Lattice
from brainfeat.volume import Geometry, Volume

GEOMETRY = Geometry((8, 10, 12), np.diag([-2.0, 2.0, 2.0, 1.0]))


def test_linear_intensities_are_kept_in_their_places():
    points = Lattice(GEOMETRY.shape, GEOMETRY.affine).points()
    volume = Volume((points @ torch.tensor([1.0, 2.0, -0.5])).numpy(), GEOMETRY)
    lattice = Lattice.spanning((-13.0, 4.0, 4.0), (9.0, 12.0, 15.0), 3.0)
    (read,) = conform_volumes([volume], lattice)
    expected = lattice.points() @ torch.tensor([1.0, 2.0, -0.5])
    torch.testing.assert_close(read, expected, atol=1e-4, rtol=0)


def test_outside_and_not_finite_are_zero():
    data = np.ones(GEOMETRY.shape, np.float32)
    data[4, 5, 6] = np.nan
    lattice = Lattice.spanning((-100.0, 0.0, 0.0), (120.0, 30.0, 40.0), 4.0)
    (read,) = conform_volumes([Volume(data, GEOMETRY)], lattice)
    assert torch.isfinite(read).all()
    assert read[0].max() == 0
    assert read.max() > 0.9


def test_other_grids_are_refused():
    other = Geometry(GEOMETRY.shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    volumes = [Volume(np.ones(GEOMETRY.shape), g) for g in (GEOMETRY, other)]
    with pytest.raises(InputError, match="expected volumes on one grid"):
        conform_volumes(volumes, Lattice.spanning((0, 0, 0), (8, 8, 8), 2.0))


def test_boxes_of_the_template_match_themselves():
    matrix = match_boxes(load_template("brain_mask"))
    np.testing.assert_allclose(matrix, np.eye(4), atol=3.5)
