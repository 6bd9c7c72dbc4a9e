from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainfeat.io.volumes import write_volume
from brainfeat.subjects.owners import find_owner, subject_groups
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import as_subjects
from brainfeat.volume import Geometry, Volume


def group(names, X=None):
    rows = [Subject(name, {"T1w": Path(name)}) for name in names]
    return subject_groups(X, rows).tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-8/mri/sub-19_aseg.mgz", {"sub": "19"}),
        ("D:\\data\\sub-1\\ses-2\\T1.nii", {"sub": "1", "ses": "2"}),
        ("my-sub-3_T1w.nii", {}),
        ("scan7.nii.gz", {}),
    ],
)
def test_file_name_comes_before_its_folders(name, expected):
    assert find_owner(name) == expected


def test_sessions_and_runs_are_of_one_subject():
    names = ["sub-01_ses-1_T1w.nii", "sub-2_T1w.nii", "x/sub-1/ses-2/T1.nii", "c.nii"]
    groups = group([*names, "sub-01_run-2_T1w.nii", "c.nii", "d.nii"])
    assert groups == [0, 1, 0, 3, 0, 3, 6]


def test_two_names_of_one_subject_join_its_rows():
    images = [["sub-1_T1w.nii"], ["sub-2_T1w.nii"], ["sub-2_T1w.nii", "sub-1_x.nii"]]
    rows = [
        Subject(f"X[{index}]", dict(zip("ab", map(Path, paths), strict=False)))
        for index, paths in enumerate(images)
    ]
    assert len(set(subject_groups(None, rows))) == 1


@pytest.mark.parametrize(
    "index",
    [
        ["anna", "ben", "anna"],
        pd.MultiIndex.from_tuples([("anna", 1), ("ben", 1), ("anna", 2)]),
        ["sub-01_ses-1", "sub-02_ses-1", "sub-01_ses-2"],
    ],
)
@pytest.mark.parametrize("form", [pd.Series, lambda x: pd.DataFrame({"T1w": x})])
def test_index_names_subjects(tmp_path, index, form):
    volume = Volume(np.ones((3, 4, 5), np.float32), Geometry((3, 4, 5), np.eye(4)))
    paths = [str(write_volume(volume, tmp_path / f"{n}.nii")) for n in range(3)]
    X = form(paths).set_axis(index)
    table = as_subjects(X, modality=None, modalities=["T1w"], allow_missing=False)
    assert subject_groups(X, table.rows).tolist() == [0, 1, 0]


def test_loaded_images_are_named_by_their_files(tmp_path):
    volume = Volume(np.ones((3, 4, 5), np.float32), Geometry((3, 4, 5), np.eye(4)))
    names = ["sub-1_ses-1_T1w.nii", "sub-2_T1w.nii", "sub-1_ses-2_T1w.nii"]
    images = [nib.load(write_volume(volume, tmp_path / name)) for name in names]
    rows = [Subject(f"X[{n}]", {"T1w": image}) for n, image in enumerate(images)]
    assert subject_groups(images, rows).tolist() == [0, 1, 0]
