"""Label maps are named after their images, and stay in their folder."""

import pytest

from brainfeat.segmentation.derivatives import label_map_path
from brainfeat.subjects.subject import Subject


@pytest.mark.parametrize(
    ("image", "participant", "expected"),
    [
        ("/d/sub-01/anat/sub-01_T1w.nii.gz", "sub-01", "sub-01/anat/sub-01_dseg"),
        (
            "/d/sub-01/ses-2/anat/sub-01_ses-2_run-1_FLAIR.nii",
            "sub-01",
            "sub-01/ses-2/anat/sub-01_ses-2_run-1_dseg",
        ),
        ("/scans/sub-01_T1w.nii.gz", "sub-01", "sub-01_dseg"),
        ("/scans/002/T1.nii", "002_T1", "002_T1_dseg"),
    ],
)
def test_label_map_is_named_after_its_image(image, participant, expected):
    row = Subject(participant_id=participant, images={"T1w": image})
    assert str(label_map_path(row)) == f"{expected}.nii.gz"


@pytest.mark.parametrize(
    ("image", "participant", "session", "expected"),
    [
        ("/x/a.nii.gz", "P1", "2", "P1_ses-2_dseg"),
        ("/x/a.nii.gz", "P1", "ses-2", "P1_ses-2_dseg"),
        ("/x/a.nii.gz", "../escaped", None, "-escaped_dseg"),
        ("/x/a.nii.gz", "/root/a", "../../b", "-root-a_ses-..-..-b_dseg"),
        ("/x/a.nii.gz", "..", None, "image_dseg"),
        ("/x/sub-1_run-2_T1w.nii", "sub-1", "m/6", "sub-1_ses-m-6_run-2_dseg"),
        (
            "/x/sub-1/ses-3/anat/sub-1_T1w.nii",
            "sub-1",
            "3",
            "sub-1/ses-3/anat/sub-1_ses-3_dseg",
        ),
        ("/x/sub-1_acq-0.8mm_T1w.nii.gz", "sub-1", None, "sub-1_acq-0.8mm_dseg"),
        ("/x/sub-1_ses-2_T1w.mgz", "sub-1", "9", "sub-1_ses-2_dseg"),
    ],
)
def test_name_has_the_session_and_stays_in_the_folder(
    image, participant, session, expected
):
    row = Subject(participant_id=participant, session_id=session, images={"T1w": image})
    assert str(label_map_path(row)) == f"{expected}.nii.gz"
