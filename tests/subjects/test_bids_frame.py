import pandas as pd
import pytest

from brainfeat import load_bids
from brainfeat.exceptions import InputError
from brainfeat.subjects.table import as_subjects

MODALITIES = ("T1w", "T2w", "FLAIR")


@pytest.fixture
def folder(tmp_path):
    for name in (
        *("sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-01/ses-1/anat/sub-01_ses-1_FLAIR"),
        *("sub-01/ses-2/anat/sub-01_ses-2_T1w", "sub-02/anat/sub-02_acq-a_run-1_T1w"),
        *("sub-02/anat/sub-02_acq-a_run-2_T1w", "sub-02/anat/sub-02_acq-b_run-3_T1w"),
    ):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    lines = [
        "participant_id\tage\tcode\tsex",
        "sub-01\t71\t007\tF",
        "sub-02\tn/a\t1\tM",
    ]
    (tmp_path / "participants.tsv").write_text("\n".join(lines))
    return tmp_path


def test_a_row_per_session_and_run(folder):
    frame = load_bids(folder)
    assert list(frame.columns) == [
        *("participant_id", "session_id", "run", "T1w", "FLAIR", "age", "code", "sex")
    ]
    assert list(frame.index) == ["sub-01", "sub-01", "sub-02", "sub-02", "sub-02"]
    assert [*frame["session_id"][:2]] == ["ses-1", "ses-2"]
    assert [*frame["run"][2:]] == ["1", "2", "3"]
    assert frame["FLAIR"].notna().tolist() == [True, False, False, False, False]
    assert frame["age"].iloc[:2].tolist() == [71, 71]
    assert frame["age"].isna().sum() == 3
    assert frame["code"].tolist() == ["007", "007", "1", "1", "1"]


def test_estimators_take_the_frame(folder):
    frame = load_bids(folder)
    table = as_subjects(frame, modality=None, modalities=MODALITIES, allow_missing=True)
    assert table.modalities == ("T1w", "FLAIR")
    assert [row.participant_id for row in table.rows] == [*frame.index]
    assert str(table.rows[1].images["T1w"]) == frame["T1w"].iloc[1]
    with pytest.raises(InputError, match=r"in BIDS; brainfeat.load_bids\("):
        as_subjects(folder, modality=None, modalities=MODALITIES, allow_missing=True)


def test_modalities_and_filters_select(folder, tmp_path):
    assert "T1w" not in load_bids(folder, modalities=["FLAIR"])
    chosen = {"t1w": {"acquisition": "b"}}
    frame = load_bids(folder, modalities="T1w", bids_filter=chosen)
    assert list(frame.index) == ["sub-02"]
    path = tmp_path / "filter.json"
    path.write_text('{"t1w": {"acquisition": "b"}}')
    pd.testing.assert_frame_equal(
        load_bids(folder, modalities="T1w", bids_filter=path), frame
    )


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_bids(tmp_path / "absent")
    with pytest.raises(InputError, match=r"expected images sub-.*T1w,T2w,FLAIR"):
        load_bids(tmp_path)
