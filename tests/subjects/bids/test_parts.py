from pathlib import Path

import pytest

from brainfeat.exceptions import InputError
from brainfeat.subjects.bids.filter import BidsSelection
from brainfeat.subjects.bids.index import find_image_root
from brainfeat.subjects.manifest import collect_rows

NAMES = [
    "sub-01/ses-1/anat/sub-01_ses-1_acq-a_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "sub-02/anat/sub-02_FLAIR.nii.gz",
    "sub-03/mri/brain.mgz",
]
SUB_01 = [
    ("sub-01", "ses-1", "71", {"T1w": NAMES[0], "FLAIR": NAMES[1]}),
    ("sub-01", "ses-2", "71", {"T1w": NAMES[2]}),
]
SUB_02 = ("sub-02", None, "64", {"T1w": NAMES[3], "FLAIR": NAMES[4]})
SUB_03 = ("brain", None, None, {"T1w": NAMES[5]})


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "ds"
    _touch(root, NAMES)
    lines = "participant_id\tage\nsub-01\t71\nsub-02\t64\nsub-03\t55\n"
    (root / "participants.tsv").write_text(lines)
    return root


def _touch(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def _collect(root, *inputs, wanted=()):
    paths = [str(root / text) for text in inputs]
    return collect_rows(paths, modalities=("T1w", "FLAIR"), wanted=wanted)


def _found(root, *inputs, wanted=()):
    return [
        (
            *(row.participant_id, row.session_id, row.metadata.get("age")),
            {m: str(Path(p).relative_to(root)) for m, p in row.images.items()},
        )
        for row in _collect(root, *inputs, wanted=wanted).rows
    ]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["sub-01"], SUB_01),
        (["sub-*"], [*SUB_01, SUB_02]),
        (["sub-03"], [SUB_03]),
        (["sub-01/ses-1"], SUB_01[:1]),
        (["sub-01/ses-1/anat"], SUB_01[:1]),
        (["sub-01/ses-2/anat", "sub-01/ses-1"], SUB_01),
        (NAMES[3:5], [SUB_02]),
        (NAMES[:2], SUB_01[:1]),
        (NAMES[4:5], [("sub-02", None, "64", {"FLAIR": NAMES[4]})]),
        (["sub-*/anat/*_T1w.nii.gz"], [("sub-02", None, "64", {"T1w": NAMES[3]})]),
        (["sub-02", NAMES[3]], [SUB_02]),
        (["sub-02", "."], [SUB_02, *SUB_01]),
    ],
)
def test_parts_of_a_tree_are_one_input_limited_to_them(dataset, inputs, expected):
    assert _found(dataset, *inputs) == expected


def test_one_wanted_modality_is_that_of_its_images_and_overrules_others(dataset):
    t1w, flair = ("sub-02", None, "64"), ("sub-02", None, None)
    assert _found(dataset, NAMES[3], wanted=("T1w",)) == [(*t1w, {"T1w": NAMES[3]})]
    assert _found(dataset, NAMES[4], wanted=("T1w",)) == [(*flair, {"T1w": NAMES[4]})]


def test_named_runs_are_rows_and_named_acquisitions_clash(tmp_path):
    runs = [f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz" for run in (1, 2)]
    clash = [f"sub-02/anat/sub-02_acq-{label}_T1w.nii.gz" for label in "ab"]
    _touch(tmp_path, [*runs, *clash])
    manifest = _collect(tmp_path, *runs, *clash)
    assert [row.metadata for row in manifest.rows] == [{"run": "1"}, {"run": "2"}]
    (problem,) = manifest.problems
    assert "several T1w images fit" in str(problem.error)
    assert len(_collect(tmp_path, clash[0]).rows) == 1


def test_an_image_named_twice_is_a_duplicate(dataset):
    manifest = _collect(dataset, NAMES[3], NAMES[3], NAMES[3])
    assert len(manifest.rows) == 1
    assert manifest.duplicates == (str(dataset / NAMES[3]),)


def test_a_dataset_has_the_place_of_its_first_part(dataset, tmp_path):
    _touch(tmp_path, ["a.nii", "z.nii", "other/sub-02/anat/sub-02_T1w.nii"])
    outside = [str(tmp_path / name) for name in ("a.nii", "z.nii")]
    inputs = [outside[0], "sub-02", "../other/sub-02", outside[1], "sub-01/ses-2"]
    rows = _collect(dataset, *inputs).rows
    names = [row.participant_id for row in rows]
    assert names == ["a", "sub-01", "sub-02", "sub-02", "z"]
    assert [row.metadata.get("age") for row in rows[1:4]] == ["71", "64", None]


@pytest.mark.parametrize("inputs", [["sub-01/ses-2"], NAMES[2:3]])
def test_images_that_a_filter_drops_are_not_found_otherwise(dataset, inputs):
    selection = BidsSelection(filters={"T1w": {"acq": ("*",)}})
    paths = [str(dataset / text) for text in [*inputs, "sub-02"]]
    rows = collect_rows(paths, modalities=("T1w", "FLAIR"), selection=selection).rows
    assert [[*row.images] for row in rows] == [["FLAIR"]]
    with pytest.raises(InputError, match=f"{paths[0]}: expected images of the filter"):
        collect_rows(paths[:1], modalities=("T1w", "FLAIR"), selection=selection)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/ds/sub-01/anat/sub-01_T1w.nii", "/ds"),
        ("/ds/sub-01/ses-1/anat/sub-01_t1w.mgz", "/ds"),
        ("/home/sub-a/ds/sub-01/anat/sub-01_T1w.nii", "/home/sub-a/ds"),
        ("/home/sub-a/scans/anat/sub-01_T1w.nii", None),
        ("/ds/sub-01/anat/sub-01_T2w.nii", None),
        ("/ds/sub-01/anat/scan_T1w.nii", None),
        ("/ds/sub-01/sub-01_T1w.nii", None),
    ],
)
def test_the_root_of_an_image(path, root):
    found = find_image_root(Path(path), ("T1w", "FLAIR"))
    assert found == (Path(root) if root else None)
