import pytest

from brainfeat.subjects.bids.entities import parse_bids_name


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
def test_file_names_are_parsed(name, participant, session, suffix):
    parsed = parse_bids_name(name)
    assert parsed.participant_id == participant
    assert parsed.session_id == session
    assert parsed.suffix == suffix
