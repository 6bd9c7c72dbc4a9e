import time

import pytest

from brainfeat.subjects.bids.index import (
    index_bids,
    is_bids_folder,
    parse_bids_name,
    read_participants,
    read_sessions,
)

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
            session.run,
            {m: path.name for m, path in session.images.items()},
        )
        for session in index_bids(root, modalities)
    ]


@pytest.mark.parametrize(
    ("name", "participant", "session", "suffix"),
    [
        ("sub-01_T1w.nii.gz", "sub-01", None, "T1w"),
        ("sub-A1_ses-b_acq-x-y_run-2_FLAIR.nii", "sub-A1", "ses-b", "FLAIR"),
        ("sub-1.2_acq-0.8mm_FLAIR.nii.gz", "sub-1.2", None, "FLAIR"),
        ("sub-01_T1w.defaced.nii.gz", "sub-01", None, "T1w"),
        ("scan.nii.gz", None, None, "scan"),
        ("sub-01.nii.gz", None, None, ""),
        ("T1w.nii", None, None, "T1w"),
        ("a_b_c.mgz", None, None, "c"),
    ],
)
def test_names_come_apart(name, participant, session, suffix):
    parsed = parse_bids_name(name)
    assert parsed.participant_id == participant
    assert parsed.session_id == session
    assert parsed.suffix == suffix


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


def test_runs_are_rows_and_share_what_was_not_repeated(tmp_path):
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


def test_two_files_that_fit_are_not_chosen_between(tmp_path):
    names = ("sub-01_acq-a_T1w.nii.gz", "sub-01_acq-b_T1w.nii.gz")
    _touch(tmp_path, *(f"sub-01/anat/{name}" for name in names))
    (session,) = index_bids(tmp_path, MODALITIES)
    assert session.images == {}
    assert tuple(path.name for path in session.clashes["T1w"]) == names


def test_participants_are_joined(tmp_path):
    _touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "\ufeffparticipant_id\tage\tsite\nsub-01\t71\tn/a\n02\t64\nsub-09\t1\tx\ty\n"
    )
    assert read_participants(tmp_path) == {
        "sub-01": {"age": "71", "site": None},
        "sub-02": {"age": "64", "site": None},
        "sub-09": {"age": "1", "site": "x"},
    }
    assert [
        session.metadata["age"] for session in index_bids(tmp_path, MODALITIES)
    ] == [
        "71",
        "64",
    ]


def test_a_bids_folder_is_told_from_a_folder_of_images(tmp_path):
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
    sessions = index_bids(tmp_path, MODALITIES)
    assert time.perf_counter() - start < 1
    assert len(sessions) == 1000
    assert all(len(session.images) == 3 for session in sessions)


def test_spaces_around_the_cells_of_participants_do_not_count(tmp_path):
    (tmp_path / "participants.tsv").write_text(
        "participant_id \tage\t sex\t\nsub-01 \t71 \tF\t\n\n02\t n/a\n"
    )
    assert read_participants(tmp_path) == {
        "sub-01": {"age": "71", "sex": "F"},
        "sub-02": {"age": None, "sex": None},
    }


def test_gaps_that_r_and_pandas_write_make_no_texts_of_numbers(tmp_path):
    _touch(tmp_path, "sub-01/sub-01_sessions.tsv")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text("session_id\tage\n1\tnan\n")
    lines = "sub-01\t71\nsub-02\tNA\nsub-NA\tNaN\n"
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\n{lines}")
    ages = {name: line["age"] for name, line in read_participants(tmp_path).items()}
    assert ages == {"sub-01": "71", "sub-02": None, "sub-NA": None}
    assert read_sessions(tmp_path / "sub-01") == {"ses-1": {"age": None}}


@pytest.mark.parametrize(
    ("text", "message", "n_known"),
    [
        ("id\tage\nsub-01\t71\n", "expected a column participant_id, got id, age;", 0),
        ("", "expected a column participant_id, got none;", 0),
        (
            'participant_id\tnote\nsub-01\tx\nsub-02\t"open\nsub-03\tz\n',
            "damaged after sub-01 (a quote that is not closed);",
            1,
        ),
        (
            'participant_id\tnote\nsub-01\t"open\n' + "sub-03\tz\n" * 20_000,
            "damaged after the names of its columns (field larger than field limit",
            0,
        ),
    ],
)
def test_participants_that_cannot_be_read_are_told_of(
    tmp_path, caplog, text, message, n_known
):
    path = tmp_path / "participants.tsv"
    path.write_text(text)
    assert len(read_participants(tmp_path)) == n_known
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: {message}")


def test_a_link_to_no_participants_is_told_of(tmp_path, caplog):
    (tmp_path / "participants.tsv").symlink_to(tmp_path / "annexed")
    assert read_participants(tmp_path) == {}
    assert "a link to no file" in caplog.text
