import json
from pathlib import Path

import pytest

from brainfeat.exceptions import InputError
from brainfeat.subjects.bids.entities import parse_bids_name
from brainfeat.subjects.bids.filter import BidsSelection, read_filters
from brainfeat.subjects.bids.index import index_bids

NAMES = [
    "sub-01/ses-1/anat/sub-01_ses-1_acq-a_run-01_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_acq-b_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
]


@pytest.fixture
def dataset(tmp_path):
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _found(dataset, **selection):
    sessions = index_bids(dataset, ("T1w",), BidsSelection(**selection))
    return [Path(path).name for s in sessions for path in s.images.values()]


@pytest.mark.parametrize("label", ["02", "sub-02"])
def test_participants_are_selected_with_or_without_prefix(dataset, label):
    assert _found(dataset, participants=[label]) == ["sub-02_T1w.nii.gz"]


@pytest.mark.parametrize("label", ["2", "ses-2"])
def test_sessions_are_selected(dataset, label):
    assert _found(dataset, sessions=[label]) == ["sub-01_ses-2_T1w.nii.gz"]


def test_an_absent_participant_is_named(dataset):
    with pytest.raises(InputError, match="there is no sub-07"):
        _found(dataset, participants=["02", "07"])


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({"acquisition": ["b", None]}, {1, 2, 3}),
        ({"acq": "a", "datatype": "anat"}, {0}),
        ({"run": 1}, {0}),
        ({"run": None, "session": "1"}, {1}),
        ({"acquisition": "*"}, {0, 1}),
        ({"run": "*", "acq": ["a", "b"]}, {0}),
        ({"session": [None, "*"]}, {0, 1, 2, 3}),
        ({"acquisition": "Query.ANY", "run": "Query.NONE"}, {1}),
        ({"session": "<Query.NONE: 1>"}, {3}),
        ({"session": "Query.OPTIONAL", "acq": ["Query.REQUIRED"]}, {0, 1}),
    ],
)
def test_a_filter_file_selects_one_of_several_images(dataset, filters, chosen):
    path = dataset / "filters.json"
    path.write_text(json.dumps({"t1w": filters, "bold": {"task": "rest"}}))
    read = read_filters(path, ("T1w", "FLAIR"))
    selection = BidsSelection(filters=read)
    names = [parse_bids_name(name.rpartition("/")[2]) for name in NAMES]
    assert {i for i, name in enumerate(names) if selection.has_image(name)} == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got no valid JSON"),
        ("[]", "expected a filter per modality as a JSON object, got list"),
        ('{"T1w": ["a"]}', "expected entities"),
        ('{"T1w": {"colour": "red"}}', "unknown entity 'colour'"),
        ('{"T1w": {"run": {"a": 1}}}', "T1w: run: expected labels"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "filters.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_filters(path, ("T1w",))
    with pytest.raises(InputError, match="no such file"):
        read_filters(tmp_path / "absent.json", ("T1w",))
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        read_filters(tmp_path, ("T1w",))
