from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import SimpleITK
import torch

from brainfeat import BrainFoundEmbedder, SegmentationEstimator
from brainfeat.exceptions import (
    InputError,
    ModalityError,
    VolumeError,
    VolumeNotFoundError,
)
from brainfeat.subjects.table import (
    as_subjects,
    check_fitted_modalities,
    read_subjects,
)
from brainfeat.volume import Geometry, Volume

MODALITIES = ("T1w", "T2w", "FLAIR")


def read(X, modality=None, modalities=MODALITIES, allow_missing=True):
    return as_subjects(
        X, modality=modality, modalities=modalities, allow_missing=allow_missing
    )


def make_image(shape=(3, 4, 5), fill=1):
    return nib.Nifti1Image(np.full(shape, fill, np.int16), np.diag([2.0, 2, 2, 1]))


@pytest.fixture
def folder(tmp_path):
    """Holds two subjects with T1w, the second with FLAIR too."""
    for name in ["sub-01_T1w", "sub-02_T1w", "sub-02_FLAIR"]:
        nib.save(make_image(), tmp_path / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def t1_paths(folder):
    return sorted(folder.glob("*_T1w.nii.gz"))


@pytest.mark.parametrize("cast", [str, Path, np.str_])
@pytest.mark.parametrize(
    "collect",
    [list, tuple, np.array, lambda x: np.array(x, object), pd.Series, pd.Index],
)
def test_collections_of_paths_are_one_row_each(t1_paths, cast, collect):
    table = read(collect([cast(path) for path in t1_paths]))
    assert [row.images for row in table.rows] == [{"T1w": path} for path in t1_paths]
    assert table.modalities == ("T1w",)


def test_pandas_strings_of_any_backend_are_paths(t1_paths):
    series = pd.Series([str(path) for path in t1_paths])
    for values in (series.astype("string").array, series.astype(object).array):
        assert len(read(values).rows) == 2


def test_home_is_expanded(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (row,) = read(["~/sub-01_T1w.nii.gz"]).rows
    assert row.images == {"T1w": folder / "sub-01_T1w.nii.gz"}


@pytest.mark.parametrize("wrap", [lambda pattern: pattern, lambda pattern: [pattern]])
def test_globs_are_their_sorted_matches(folder, t1_paths, wrap):
    (folder / "._sub-00_T1w.nii.gz").write_bytes(b"resource fork")
    table = read(wrap(str(folder / "*_T1w.nii.gz")))
    assert [row.images["T1w"] for row in table.rows] == t1_paths


def test_existing_name_with_brackets_is_no_glob(tmp_path):
    path = tmp_path / "sub-[1]_T1w.nii.gz"
    nib.save(make_image(), path)
    assert read([path]).rows[0].images == {"T1w": path}


def test_path_of_one_volume_is_one_row(t1_paths):
    assert read(str(t1_paths[0])).rows[0].images == {"T1w": t1_paths[0]}


@pytest.mark.parametrize("stored", [True, False])
def test_volumes_of_a_4d_image_are_the_rows(tmp_path, rng, stored):
    data = rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    X = nib.Nifti1Image(data, np.diag([2.0, 3, 4, 1]))
    if stored:
        nib.save(X, tmp_path / "all_T1w.nii.gz")
        X = str(tmp_path / "all_T1w.nii.gz")
    table = read(X, modality="T2w")
    assert len(table.rows) == 6
    for index, row in enumerate(table.rows):
        image = row.images["T2w"]
        np.testing.assert_array_equal(image.get_fdata(), data[..., index])
        np.testing.assert_array_equal(image.affine, np.diag([2.0, 3, 4, 1]))


def test_scaled_4d_image_keeps_its_intensities(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5, 2), np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "all.nii")
    for row in read(tmp_path / "all.nii").rows:
        assert row.images["T1w"].get_fdata().max() == 10.5


def test_images_and_volumes_are_rows():
    image = make_image()
    volume = Volume(np.zeros((3, 4, 5), np.float32), Geometry((3, 4, 5), np.eye(4)))
    first, second = read([image, volume]).rows
    assert first.images["T1w"] is image
    assert second.images["T1w"].shape == (3, 4, 5)


def test_dicts_are_subjects_with_gaps(folder):
    X = [
        {"T1w": folder / "sub-01_T1w.nii.gz", "FLAIR": None},
        {"FLAIR": str(folder / "sub-02_FLAIR.nii.gz")},
    ]
    table = read(X)
    assert table.modalities == ("T1w", "FLAIR")
    assert table.rows[0].images["FLAIR"] is None
    assert list(table.rows[1].images) == ["FLAIR"]
    assert read(pd.Series(X, index=["a", "b"])).rows[1].participant_id == "b"


@pytest.mark.parametrize("gap", [None, float("nan"), np.nan, "", pd.NA, pd.NaT])
def test_frame_cells_may_be_missing(folder, gap):
    X = pd.DataFrame(
        {"FLAIR": [gap, str(folder / "sub-02_FLAIR.nii.gz")]}, index=["s1", "s2"]
    )
    X["T1w"] = [str(path) for path in sorted(folder.glob("*_T1w.nii.gz"))]
    table = read(X)
    assert table.modalities == ("T1w", "FLAIR")
    assert [row.participant_id for row in table.rows] == ["s1", "s2"]
    assert [row.images["FLAIR"] is None for row in table.rows] == [True, False]


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("sub-01_ses-2_T2w.nii.gz", "T2w"),
        ("sub-01_flair.mgz", "FLAIR"),
        ("sub-01_acq-0.8mm_FLAIR.nii.gz", "FLAIR"),
        ("T2w.nii", "T2w"),
        ("brain.nii.gz", "T1w"),
        ("sub-01_T1w_brain.nii.gz", "T1w"),
    ],
)
def test_bare_paths_take_their_modality_from_the_suffix(tmp_path, name, modality):
    (tmp_path / name).touch()
    assert read([tmp_path / name]).modalities == (modality,)
    assert read([tmp_path / name], modality="FLAIR").modalities == ("FLAIR",)


def test_series_has_the_modality_of_its_name(t1_paths):
    assert read(pd.Series(t1_paths, name="T2w")).modalities == ("T2w",)
    assert read(pd.Series(t1_paths, name="path")).modalities == ("T1w",)


def test_one_column_may_have_any_name_if_the_modality_is_given(t1_paths):
    X = pd.DataFrame({"image": [str(path) for path in t1_paths]})
    assert read(X, modality="T2w").modalities == ("T2w",)
    with pytest.raises(ModalityError, match=r"column: unknown modality 'image'"):
        read(X)


@pytest.mark.parametrize(
    "X",
    [
        {"T1w": ["a.nii", "b.nii"]},
        {"T1w": "a.nii"},
        (["a.nii", "b.nii"], ["c.nii", "d.nii"]),
        [["a.nii", "b.nii"]],
        np.zeros((3, 2)),
        np.zeros((3, 4, 5)),
        np.arange(3),
        [np.zeros((3, 4, 5))],
        [1.0, 2.0],
        None,
        42,
        pytest.param(iter(["a.nii"]), id="iterator"),
        [],
        pd.DataFrame({"T1w": []}),
        pd.DataFrame(index=["a", "b"])[:0],
        nib.Nifti1Image(np.zeros((3, 4, 5, 0)), np.eye(4)),
    ],
    ids=str,
)
def test_other_forms_are_refused(X):
    with pytest.raises(InputError, match="X"):
        read(X)


def test_folder_is_refused_with_a_hint(folder):
    for X in (str(folder), [folder]):
        with pytest.raises(InputError, match=r"got a folder; a glob such as"):
            read(X)


def test_cell_holds_one_image(folder):
    X = [{"T1w": str(folder / "*_T1w.nii.gz")}]
    with pytest.raises(InputError, match=r"X\[0\], T1w: expected one image, got 2"):
        read(X)


def test_repeated_column_is_refused(t1_paths):
    X = pd.DataFrame([[str(t1_paths[0])] * 2], columns=["T1w", "T1w"])
    with pytest.raises(InputError, match="one column per modality"):
        read(X)


@pytest.mark.parametrize("pattern", ["nowhere.nii.gz", "*_PDw.nii.gz"])
def test_path_without_a_file_is_refused(folder, pattern):
    for X in (str(folder / pattern), [folder / pattern]):
        with pytest.raises(VolumeNotFoundError, match=rf"^{folder}/.*") as caught:
            read(X)
        assert pattern in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{'x' * 300}.nii", r"cannot be read \(File name too long\)"),
        ("~nobody-of-this-name/a.nii", "no such file"),
    ],
)
def test_path_that_cannot_be_looked_up_is_refused(name, reason):
    for X in (name, [name], [{"T1w": name}]):
        with pytest.raises(VolumeError, match=rf"^{name}: {reason}\.$"):
            read(X)


def test_unknown_modality_parameter_names_no_file(t1_paths):
    with pytest.raises(ModalityError, match=r"^modality: unknown modality 'PD'"):
        read(t1_paths, modality="PD")


def test_unknown_modality_lists_the_known_ones(folder):
    nib.save(make_image(), folder / "sub-01_PDw.nii.gz")
    for X in (
        [folder / "sub-01_PDw.nii.gz"],
        [{"PDw": make_image()}],
        pd.DataFrame({"PDw": ["a.nii"]}),
    ):
        with pytest.raises(ModalityError, match=r"'PDw'.* T1w, T2w, FLAIR"):
            read(X)


def test_subject_without_any_image_is_named(t1_paths):
    X = pd.DataFrame(
        {"T1w": [str(t1_paths[0]), None], "T2w": None}, index=["sub-01", "sub-02"]
    )
    with pytest.raises(ModalityError, match=r"^sub-02: expected at least one image"):
        read(X)
    with pytest.raises(ModalityError, match=r"^X\[1\]: expected at least one image"):
        read([t1_paths[0], None])


def test_missing_modality_needs_a_checkpoint_trained_for_it(t1_paths):
    with pytest.raises(ModalityError, match=r"sub-01_T1w.* no T2w image"):
        read(t1_paths, modalities=("T1w", "T2w"), allow_missing=False)
    assert len(read(t1_paths, modalities=("T1w",), allow_missing=False).rows) == 2


def test_modality_that_fit_did_not_see_is_refused():
    estimator = BrainFoundEmbedder()
    check_fitted_modalities(estimator, ("T1w", "T2w"), ["T2w"])
    with pytest.raises(ModalityError, match=r"BrainFoundEmbedder was .* got .*FLAIR"):
        check_fitted_modalities(estimator, ("T1w",), ["T1w", "FLAIR"])


def test_subjects_have_the_modalities_of_the_checkpoint(checkpoint, t1_paths):
    assert read_subjects(t1_paths, checkpoint, "T2w").modalities == ("T2w",)
    with pytest.raises(ModalityError, match="PET"):
        read_subjects(t1_paths, checkpoint, "PET")


@pytest.mark.parametrize("kind", [BrainFoundEmbedder, SegmentationEstimator])
def test_images_are_not_rows_of_numbers(kind):
    tags = kind().__sklearn_tags__().input_tags
    assert not tags.two_d_array
    assert tags.string
    assert tags.allow_nan


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_arrays_of_one_column_are_paths(t1_paths, shape):
    X = np.array([str(path) for path in t1_paths]).reshape(shape)
    assert [row.images["T1w"] for row in read(X).rows] == t1_paths
    assert len(read(X.astype(object)).rows) == 2


def _frames(columns):
    yield pa.table(columns)
    polars = pytest.importorskip("polars")
    yield polars.DataFrame(columns)


def test_frames_of_other_libraries_are_frames(t1_paths):
    paths = [str(path) for path in t1_paths]
    columns = {"participant_id": ["a", "b"], "T1w": paths, "FLAIR": [None, paths[1]]}
    for X in _frames({**columns, "age": [7, 8]}):
        table = read(X)
        assert [row.participant_id for row in table.rows] == ["a", "b"]
        assert [row.images["FLAIR"] for row in table.rows] == [None, t1_paths[1]]
    assert len(read(pa.chunked_array([paths])).rows) == 2


def test_columns_that_hold_images_are_modalities(t1_paths):
    paths = [str(path) for path in t1_paths]
    ages = pd.DataFrame({"T1w": paths, "age": [7, 8], "dseg": paths})
    assert read(ages).modalities == ("T1w",)
    for name in ("t2", "PDw", "scan"):
        with pytest.raises(ModalityError, match=f"unknown modality '{name}'"):
            read(pd.DataFrame({"T1w": paths, name: paths}))


class Located:
    """A path of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_paths_of_any_library_are_paths(t1_paths):
    path = t1_paths[0]
    for X in (
        *(Located(path), [Located(path)], [{"T1w": Located(path)}]),
        *(np.array([[Located(path)]]), pd.DataFrame({"T1w": [Located(path)]})),
    ):
        assert read(X).rows[0].images == {"T1w": path}


class _Tensor:
    affine = np.eye(4)


@pytest.mark.parametrize(
    ("image", "mend"),
    [
        (SimpleITK.Image(3, 4, 5, SimpleITK.sitkFloat32), "SimpleITK.WriteImage"),
        (torch.zeros(3, 4, 5), "nibabel.Nifti1Image"),
        (np.zeros((3, 4, 5)), "nibabel.Nifti1Image"),
        (_Tensor(), r"as nibabel.Nifti1Image\(array, affine\)"),
    ],
)
def test_images_of_other_libraries_are_refused_with_the_way_to_go(image, mend):
    for X in ([image], [{"T1w": image}]):
        with pytest.raises(InputError, match=rf"X\[0\].*{mend}"):
            read(X)


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("BraTS-GLI-00001-000-t2f.nii.gz", "FLAIR"),
        ("IXI002-T2.nii.gz", "T2w"),
        ("scan_t1ce.nii", "T1w"),
        ("brain.nii", "T1w"),
    ],
)
def test_lists_take_contrasts_from_names(tmp_path, caplog, name, modality):
    image = make_image()
    nib.save(image, tmp_path / name)
    for X in ([tmp_path / name], [nib.load(tmp_path / name)]):
        assert read(X).modalities == (modality,)
    notes = [text for text in caplog.messages if "taken for T1w" in text]
    assert len(notes) == (2 if modality == "T1w" else 0)


@pytest.mark.parametrize("name", ["x_seg.nii", "c_0000.nii"])
def test_lists_refuse_what_cannot_be_taken(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: .*modality="):
        read([tmp_path / name])
    assert read([tmp_path / name], modality="T2w").modalities == ("T2w",)
