import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.exceptions import ConfigError, InputError, ModalityError
from brainfeat.io.volumes import write_volume
from brainfeat.simulation import cohort as cohort_module
from brainfeat.simulation import participants
from brainfeat.simulation.bases import load_base
from brainfeat.simulation.cohort import simulate_cohort
from brainfeat.volume import Geometry, Volume

MODALITIES = ("T1w", "FLAIR")


@pytest.fixture(autouse=True)
def coarse(monkeypatch, base, coarse_scanners):
    """Simulate in voxels of 4 mm."""
    monkeypatch.setattr(participants, "SCANNERS", coarse_scanners)
    monkeypatch.setattr(cohort_module, "load_base", lambda *_: base)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cohort"


def data(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_cohort_is_a_bids_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    cohort = simulate_cohort("~/cohort", 4, modalities=MODALITIES)
    assert list(cohort.index) == [f"sub-{i:04d}" for i in range(1, 5)]
    assert list(cohort.columns) == [
        "participant_id",
        "T1w",
        "FLAIR",
        "dseg",
        "age",
        "sex",
        "site",
        "diagnosis",
        "severity",
    ]
    assert cohort["diagnosis"].tolist() == [1, 0, 1, 0]
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert table["participant_id"].tolist() == cohort["participant_id"].tolist()
    assert table["severity"].tolist() == cohort["severity"].tolist()
    for participant in cohort.index:
        anat = folder / participant / "anat"
        assert {path.name for path in anat.iterdir()} == {
            f"{participant}_{name}{suffix}"
            for name in MODALITIES
            for suffix in (".nii.gz", ".json")
        }


def test_images_are_valid_and_labels_share_their_space(folder):
    cohort = simulate_cohort(folder, 3)
    orientations = set()
    for row in cohort.itertuples():
        image, labels = nib.load(row.T1w), nib.load(row.dseg)
        assert image.get_data_dtype() == np.int16
        assert labels.get_data_dtype() == np.uint8
        assert image.shape == labels.shape
        np.testing.assert_array_equal(image.affine, labels.affine)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        assert data(row.T1w).std() > 0
        assert set(np.unique(data(row.dseg))) >= {0, 1, 2, 3}
        orientations.add("".join(nib.aff2axcodes(image.affine)))
    assert len(orientations) == 3


def test_a_subject_does_not_depend_on_the_cohort(folder, tmp_path):
    small = simulate_cohort(folder, 2)
    large = simulate_cohort(tmp_path / "large", 3, modalities=("FLAIR", "T1w"))
    np.testing.assert_array_equal(
        data(small["T1w"].iloc[1]), data(large["T1w"].iloc[1])
    )
    columns = ["age", "sex", "site", "diagnosis", "severity"]
    pd.testing.assert_frame_equal(small[columns], large[columns].iloc[:2])
    other = simulate_cohort(tmp_path / "other", 1, random_state=1)
    assert not np.array_equal(data(other["T1w"].iloc[0]), data(small["T1w"].iloc[0]))


def test_calling_again_keeps_existing_files(folder):
    first = simulate_cohort(folder, 2)
    kept, lost = first["T1w"]
    before = nib.load(lost).get_fdata()
    stamp = (folder / kept).stat().st_mtime_ns
    (folder / lost).unlink()
    again = simulate_cohort(folder, 3)
    assert (folder / kept).stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(nib.load(lost).get_fdata(), before)
    pd.testing.assert_frame_equal(again.iloc[:2], first)


def test_a_smaller_call_keeps_all_rows_of_the_table(folder):
    simulate_cohort(folder, 3)
    assert len(simulate_cohort(folder, 1)) == 1
    assert len(pd.read_csv(folder / "participants.tsv", sep="\t")) == 3


def test_without_labels(folder):
    cohort = simulate_cohort(folder, 1, labels=False)
    assert "dseg" not in cohort
    assert not list(folder.rglob("*_dseg.nii.gz"))


def test_other_settings_are_refused(folder):
    simulate_cohort(folder, 1)
    with pytest.raises(InputError, match=r"with disease_kind .*, not .mass.\.$"):
        simulate_cohort(folder, 1, disease_kind="mass")


def test_numpy_numbers_are_accepted(folder):
    plain = simulate_cohort(folder, 1, disease=1.0, random_state=3, labels=False)
    (seed,) = np.array([3])
    again = simulate_cohort(
        folder, np.int64(1), disease=np.float32(1), random_state=seed, labels=False
    )
    pd.testing.assert_frame_equal(again, plain)


def test_invalid_base_leaves_no_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cohort_module, "load_base", load_base)
    t1, mask = (
        str(
            write_volume(
                Volume(np.ones(shape, np.uint8), Geometry(shape, np.eye(4))), path
            )
        )
        for shape, path in (
            ((4, 5, 6), tmp_path / "T1w.nii.gz"),
            ((6, 5, 4), tmp_path / "mask.nii.gz"),
        )
    )
    with pytest.raises(InputError, match=r"mask\.nii\.gz: expected the grid of"):
        simulate_cohort(folder, 1, base=(t1, mask))
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_subjects": 0}, ConfigError, "n_subjects: .*integer, got 0"),
        ({"n_subjects": 1.5}, ConfigError, "n_subjects: .*integer, got 1.5"),
        ({"random_state": -1}, ConfigError, "random_state: .*from 0 on, got -1"),
        ({"random_state": None}, ConfigError, "random_state: .*got None"),
        ({"random_state": True}, ConfigError, "random_state: .*got True"),
        ({"disease": 1.5}, ConfigError, "from 0 to 1, got 1.5"),
        ({"disease": "half"}, ConfigError, "disease: .*got 'half'"),
        ({"disease_kind": "flu"}, ConfigError, "got 'flu'"),
        ({"modalities": ("bold",)}, ModalityError, "bold"),
        ({"modalities": ()}, ModalityError, "one or more"),
        ({"modalities": ("T1w", "T1w")}, ModalityError, "each once"),
        ({"modalities": "T1w"}, ModalityError, "each once, got 'T1w'"),
    ],
)
def test_invalid_arguments_are_refused_before_writing(
    folder, arguments, error, message
):
    with pytest.raises(error, match=message):
        simulate_cohort(folder, **arguments)
    assert not folder.exists()
