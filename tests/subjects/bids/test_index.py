import time
from pathlib import Path

import pytest

from brainfeat.subjects.bids.index import index_bids, is_bids_folder

MODALITIES = ("T1w", "T2w", "FLAIR")


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _found(root, modalities=MODALITIES):
    return [
        (
            session.participant_id,
            session.session_id,
            session.metadata.get("run"),
            {m: Path(path).name for m, path in session.images.items()},
        )
        for session in index_bids(root, modalities)
    ]


def test_modalities_of_a_session_are_one_row(tmp_path):
    _touch(
        tmp_path,
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.NII",
        "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        # Not to be found: other folders, suffixes, formats and hidden files.
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-01/anat/._sub-01_T1w.nii.gz",
        "derivatives/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-03/func/sub-03_task-rest_bold.nii.gz",
        "sub-04",
    )
    assert _found(tmp_path) == [
        ("sub-01", None, None, {"T1w": "sub-01_T1w.nii.gz"}),
        (
            *("sub-02", "ses-1", None),
            {"T1w": "sub-02_ses-1_T1w.nii.gz", "FLAIR": "sub-02_ses-1_FLAIR.NII"},
        ),
        ("sub-02", "ses-2", None, {"T1w": "sub-02_ses-2_T1w.nii.gz"}),
    ]
    assert _found(tmp_path, ("FLAIR",)) == [
        ("sub-02", "ses-1", None, {"FLAIR": "sub-02_ses-1_FLAIR.NII"})
    ]


@pytest.mark.parametrize("suffix", [".nii", ".mgz", ".nrrd", ".mha", ".nii.zst"])
def test_bids_folder_has_the_formats_of_a_plain_folder(tmp_path, suffix):
    _touch(tmp_path, f"sub-01/anat/sub-01_T1w{suffix}", "sub-01/anat/sub-01_T1w.json")
    expected = ("sub-01", None, None, {"T1w": f"sub-01_T1w{suffix}"})
    assert _found(tmp_path) == [expected]


def test_runs_are_rows_and_share_single_images(tmp_path):
    _touch(
        tmp_path,
        *(f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz" for run in (10, 2)),
        "sub-01/anat/sub-01_run-1_FLAIR.nii.gz",
    )
    assert _found(tmp_path) == [
        (
            *("sub-01", None, run),
            {
                "T1w": f"sub-01_run-{run}_T1w.nii.gz",
                "FLAIR": "sub-01_run-1_FLAIR.nii.gz",
            },
        )
        for run in ("2", "10")
    ]


def test_a_single_run_is_one_row_without_run(tmp_path):
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_run-1_T1w.nii.gz",
        "sub-01/anat/sub-01_run-1_FLAIR.nii.gz",
    )
    ((_, _, run, images),) = _found(tmp_path)
    assert run is None
    assert list(images) == ["T1w", "FLAIR"]


def test_several_images_that_fit_are_a_failure(tmp_path):
    names = ("sub-01_acq-a_T1w.nii.gz", "sub-01_acq-b_T1w.nii.gz")
    _touch(tmp_path, *(f"sub-01/anat/{name}" for name in names))
    (outcome,) = index_bids(tmp_path, MODALITIES)
    assert outcome.subject.participant_id == "sub-01"
    assert f"several T1w images fit ({', '.join(names)})" in str(outcome.error)


def test_participants_are_joined(tmp_path):
    _touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\nsub-01\t71\n02\t64"
    )
    ages = [subject.metadata["age"] for subject in index_bids(tmp_path, MODALITIES)]
    assert ages == ["71", "64"]


def test_a_bids_folder_has_a_description_or_subjects(tmp_path):
    _touch(
        tmp_path, "scans/001.nii.gz", "bids/sub-01/x", "raw/dataset_description.json"
    )
    assert not is_bids_folder(tmp_path / "scans")
    assert is_bids_folder(tmp_path / "bids")
    assert is_bids_folder(tmp_path / "raw")


def test_a_thousand_subjects_are_found_within_a_second(tmp_path):
    _touch(
        tmp_path,
        *(
            f"sub-{i:04d}/anat/sub-{i:04d}_{m}.nii"
            for i in range(1000)
            for m in MODALITIES
        ),
    )
    start = time.perf_counter()
    sessions = list(index_bids(tmp_path, MODALITIES))
    assert time.perf_counter() - start < 1
    assert len(sessions) == 1000
    assert all(len(session.images) == 3 for session in sessions)


def test_participants_without_image_are_counted_and_named(tmp_path, caplog):
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_UNIT1.nii.gz",
        "sub-03/sub-03_T1w.nii.gz",
    )
    assert len(_found(tmp_path)) == 1
    (message,) = caplog.messages
    assert "2 of 3 participants have no image" in message
    assert message.endswith("sub-02, sub-03.")


def test_suffixes_may_be_in_lower_case(tmp_path):
    _touch(tmp_path, "sub-01/anat/sub-01_t1w.nii", "sub-01/anat/sub-01_flair.mgz")
    ((_, _, _, images),) = _found(tmp_path)
    assert images == {"T1w": "sub-01_t1w.nii", "FLAIR": "sub-01_flair.mgz"}
