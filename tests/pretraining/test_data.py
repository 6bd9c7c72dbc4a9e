import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.exceptions import InputError, ModalityError, VolumeNotFoundError
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.data import TrainingSubjects, collect_training_data
from brainfeat.pretraining.store import VolumeStore
from brainfeat.pretraining.store_writer import write_store
from brainfeat.subjects.subject import Subject

MODALITIES = ("T1w", "T2w", "FLAIR")


def _make_cohort(root):
    """Write a BIDS folder of two subjects, the second one scanned twice."""
    names = ["sub-1/anat/sub-1_T1w", "sub-1/anat/sub-1_FLAIR"]
    names += [f"sub-2/ses-{n}/anat/sub-2_ses-{n}_T1w" for n in (1, 2)]
    for number, name in enumerate(names, 1):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(np.full((3, 4, 5), number, np.float32), np.eye(4))
        image.to_filename(path)
    return root


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return _make_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def store(tmp_path_factory, head_path):
    folder = tmp_path_factory.mktemp("store")
    preprocessor = Preprocessor(shape=(24, 32, 20), spacing=8.0, alignment="none")
    subject = Subject("sub-1", {"T1w": str(head_path)})
    return write_store([subject], folder, preprocessor, modalities=("T1w", "T2w"))[0]


def collect(data, **options):
    return collect_training_data(data, modalities=MODALITIES, **options)


def names(data):
    return [subject.participant_id for subject in data.subjects]


def test_sessions_of_a_subject_are_its_acquisitions(cohort):
    collected = collect(cohort)
    assert names(collected) == ["sub-1", "sub-2", "sub-2"]
    assert [sorted(subject.images) for subject in collected.subjects] == [
        ["FLAIR", "T1w"],
        ["T1w"],
        ["T1w"],
    ]
    assert collected.modalities == ("T1w", "FLAIR")
    assert collected.failed == ()


def test_every_form_of_the_same_images_gives_the_same_subjects(cohort, tmp_path):
    paths = sorted(cohort.rglob("*_T1w.nii.gz"))
    table = pd.DataFrame({"T1w": map(str, paths)}, index=["sub-1", "sub-2", "sub-2"])
    table.index.name = "participant_id"
    manifest = tmp_path / "manifest.csv"
    table.to_csv(manifest)
    forms = [
        collect(str(cohort), wanted=["T1w"]),
        collect(f"{cohort}/**/*_T1w.nii.gz"),
        collect(paths),
        collect(manifest),
        collect(table),
        collect(table.assign(FLAIR=[None, np.nan, ""])),
    ]
    collected = [
        {
            (subject.participant_id, str(subject.images["T1w"]))
            for subject in form.subjects
        }
        for form in forms
    ]
    assert collected == collected[:1] * len(forms)
    assert all(form.modalities == ("T1w",) for form in forms)


def test_first_level_of_an_index_names_the_subject(cohort):
    path = str(next(cohort.rglob("*_T1w.nii.gz")))
    index = pd.MultiIndex.from_tuples([("sub-7", "ses-1"), ("sub-7", "ses-2")])
    collected = collect(pd.DataFrame({"T2w": [path, path]}, index=index))
    assert names(collected) == ["sub-7", "sub-7"]


def test_one_name_in_two_cohorts_is_two_subjects(cohort, tmp_path):
    other = _make_cohort(tmp_path / "other")
    (other / "sub-1/anat/sub-1_T1w.nii.gz").unlink()
    (other / "sub-1").rename(other / "sub-3")
    for path in (other / "sub-3/anat").iterdir():
        path.rename(path.with_name("sub-3_FLAIR.nii.gz"))
    collected = collect([cohort, other])
    assert names(collected) == [
        "sub-1",
        *[f"{cohort}/sub-2"] * 2,
        *[f"{other}/sub-2"] * 2,
        "sub-3",
    ]


def test_one_name_in_two_datasets_is_two_subjects_in_every_form(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for site in ("north", "south"):
        _make_cohort(tmp_path / "all" / site)
    whole = collect([tmp_path / "all"])
    assert sorted(set(names(whole))) == [
        f"{tmp_path}/all/{site}/{name}"
        for site in ("north", "south")
        for name in ("sub-1", "sub-2")
    ]
    assert caplog.messages == [
        f"2 names are in several datasets, such as sub-1 in {tmp_path}/all/north and "
        f"{tmp_path}/all/south: they count as different subjects, unless a manifest "
        "gives them one name."
    ]
    for form in (
        [f"{tmp_path}/all/**/*.nii.gz"],
        [*tmp_path.rglob("*.nii.gz")],
        ["~/all/north", "~/all/south"],
    ):
        assert set(names(collect(form))) == set(names(whole))
    rows = [f"one,{path}" for path in tmp_path.rglob("*_T1w.nii.gz")]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("\n".join(["participant_id,T1w", *rows]))
    assert set(names(collect(manifest))) == {"one"}


def test_missing_inputs_are_reported_and_the_rest_used(cohort, tmp_path, caplog):
    collected = collect([tmp_path / "no.nii", cohort])
    assert len(collected.subjects) == 3
    assert [str(failure.error) for failure in collected.failed] == [
        f"{tmp_path}/no.nii: no such file."
    ]
    assert caplog.messages == [f"failed: {tmp_path}/no.nii: no such file."]


def test_a_store_and_a_source_are_returned_unchanged(store):
    collected = collect(store.folder)
    assert isinstance(collected, VolumeStore)
    assert collected.index == store.index
    assert collect(store) is store
    assert collect(store, wanted=["T2w", "T1w"]) is store
    assert not isinstance(collected, TrainingSubjects)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("no-folder", InputError, "no-folder: no such file"),
        ([], InputError, "got no input"),
        (3, InputError, "data: expected a path, .* got int"),
        (["a.nii", None], InputError, "data: .* got a list with a NoneType"),
        (pd.DataFrame({"age": [3]}), ModalityError, "unknown modality 'age'"),
        (pd.DataFrame({"T1w": ["no.nii"]}), VolumeNotFoundError, "no.nii: no such"),
    ],
    ids=["no folder", "nothing", "number", "numbers", "other column", "no file"],
)
def test_errors_name_data_that_cannot_be_used(data, error, message):
    with pytest.raises(error, match=message):
        collect(data)


def test_an_image_in_memory_is_refused():
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.float32), np.eye(4))
    with pytest.raises(InputError, match="row 0, T1w: expected a path, got an image"):
        collect(pd.DataFrame({"T1w": [image]}))


def test_a_store_cannot_be_combined_with_images(cohort, store):
    with pytest.raises(InputError, match="a store cannot be combined"):
        collect([cohort, store.folder])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["PET"], "unknown modality 'PET', expected one of T1w, T2w, FLAIR"),
        (["T1w", "T2w"], "expected T2w, the data have T1w"),
    ],
)
def test_a_wanted_modality_must_exist(cohort, wanted, message):
    with pytest.raises(ModalityError, match=message):
        collect(cohort, wanted=wanted)


def test_modalities_of_a_store_that_are_not_wanted_are_not_read(store):
    collected = collect(store, wanted=["T1w"])
    assert collected.modalities == ("T1w",)
    assert collected.fingerprint == store.fingerprint


@pytest.fixture
def labelled(tmp_path, cohort):
    """Folder with a label map and its table, and the scan that they belong to."""
    (tmp_path / "dseg.tsv").write_text("index\tname\n17\thippocampus\n")
    (tmp_path / "sub-1_dseg.nii.gz").write_bytes(b"")
    return tmp_path, cohort / "sub-1/anat/sub-1_T1w.nii.gz"


def test_label_maps_of_a_folder_manifest_and_table_are_the_same(labelled, cohort):
    folder, scan = labelled
    manifest = folder / "list.csv"
    manifest.write_text(
        "participant_id,T1w,label_map,label_table\n"
        f"sub-1,{scan},sub-1_dseg.nii.gz,dseg.tsv\n"
    )
    columns = {"T1w": [scan], "label_map": [folder / "sub-1_dseg.nii.gz"]}
    table = pd.DataFrame(columns, index=["sub-1"])
    collected = [collect(manifest), collect(table), collect(cohort, label_maps=folder)]
    expected = {
        "label_map": str(folder / "sub-1_dseg.nii.gz"),
        "label_table": str(folder / "dseg.tsv"),
    }
    for data in collected:
        assert data.targets == ("hippocampus",)
        assert data.subjects[0].metadata.items() >= expected.items()
    assert len(collected[2].subjects) == 3
    assert collect(cohort).targets == ()


def test_label_maps_cannot_be_added_to_a_store(store, labelled):
    with pytest.raises(InputError, match="store of the images and their label"):
        collect(store.folder, label_maps=labelled[0])
