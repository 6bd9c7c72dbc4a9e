import gzip
import re

import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import GeometryError, VolumeError
from brainfeat.io.volumes import (
    read_labels,
    read_volume,
    to_image,
    to_image_like,
    write_image,
    write_volume,
)
from brainfeat.volume import Geometry, Volume

SHAPE = (7, 8, 9)
AFFINE = np.array(
    [[0.0, -1.2, 0.1, 3.0], [0.9, 0.0, 0.0, -5.0], [0.0, 0.1, 2.0, 7.0], [0, 0, 0, 1]]
)


@pytest.fixture
def intensities(rng):
    return rng.integers(-300, 300, SHAPE).astype(np.int16)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_volume_survives_write_and_read(tmp_path, rng, suffix):
    volume = Volume(rng.normal(size=SHAPE).astype(np.float32), Geometry(SHAPE, AFFINE))
    again = read_volume(write_volume(volume, tmp_path / "new" / f"a{suffix}"))
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.geometry.is_close(volume.geometry, tolerance=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.int8, np.uint32])
def test_label_map_survives_write_and_read(tmp_path, rng, suffix, dtype):
    labels = rng.integers(0, 2, SHAPE).astype(dtype)
    volume = Volume(labels, Geometry(SHAPE, AFFINE))
    again = read_labels(write_volume(volume, tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(again.data, labels)


def test_fourth_axis_of_one_volume_is_dropped(tmp_path, intensities):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(intensities[..., None], AFFINE), path)
    np.testing.assert_array_equal(read_volume(path).data, intensities)


def test_large_labels_keep_their_value(tmp_path):
    labels = np.full(SHAPE, 2**24 + 1, np.int32)
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(labels, AFFINE), path)
    np.testing.assert_array_equal(read_labels(path).data, labels)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**40])
def test_labels_beyond_32_bits_do_not_wrap_around(value):
    labels = np.zeros(SHAPE, np.int64)
    labels[1, 1, 1] = value
    image = nib.Nifti1Image(labels, AFFINE, dtype="int64")
    with pytest.raises(VolumeError, match=f"labels within 32 bits, got {value}"):
        read_labels(image)


def test_label_map_with_fractions_is_refused(rng):
    image = nib.Nifti1Image(rng.random(SHAPE).astype(np.float32), AFFINE)
    with pytest.raises(VolumeError, match="integer labels"):
        read_labels(image)


@pytest.mark.parametrize("stray", [0.9999, 3e-9, np.nan, np.inf])
def test_single_non_integer_voxel_is_named(stray):
    values = np.zeros(SHAPE)
    values[1, 2, 1] = stray
    with pytest.raises(VolumeError, match=re.escape(f"labels, got {stray:g}.")):
        read_labels(nib.Nifti1Image(values, AFFINE))


def test_mask_with_rounding_errors_of_a_slope_is_read(tmp_path):
    mask = np.zeros(SHAPE, np.float32)
    mask[1:, 1:] = 1.0
    image = nib.Nifti1Image(mask, AFFINE)
    image.set_data_dtype(np.uint8)  # nibabel stores 255 and a slope
    path = tmp_path / "mask.nii.gz"
    nib.save(image, path)
    assert nib.load(path).get_fdata().max() != 1.0
    np.testing.assert_array_equal(read_labels(path).data, mask)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volume_without_a_finite_value_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), np.eye(4)), path)
    with pytest.raises(VolumeError, match=f"a{suffix}: .*no finite value"):
        read_volume(path)


def test_affine_of_zeros_is_refused(tmp_path, intensities):
    path = tmp_path / "a.nii.gz"
    image = nib.Nifti1Image(intensities, np.eye(4))
    image.header["srow_x"] = image.header["srow_y"] = image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    image.header["vox_offset"] = 352
    path.write_bytes(
        gzip.compress(image.header.binaryblock + b"\0" * 4 + intensities.tobytes("F"))
    )
    with pytest.raises(GeometryError, match=r"a\.nii\.gz: expected an affine"):
        read_volume(path)


def test_same_volume_writes_the_same_bytes(tmp_path, rng):
    volume = Volume(rng.random(SHAPE), Geometry(SHAPE, AFFINE))
    first = write_volume(volume, tmp_path / "a.nii.gz").read_bytes()
    second = write_volume(volume, tmp_path / "b.nii.gz").read_bytes()
    assert first == second


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz"])
def test_unknown_suffix_leaves_no_file(tmp_path, name):
    volume = Volume(np.zeros(SHAPE), Geometry(SHAPE, AFFINE))
    with pytest.raises(VolumeError, match="ends in"):
        write_volume(volume, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_written_image_is_in_mm_and_has_the_affine():
    image = to_image(Volume(np.zeros(SHAPE), Geometry(SHAPE, AFFINE)))
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)


def test_tilde_is_expanded_for_writing_and_reading(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    volume = Volume(rng.normal(size=SHAPE).astype(np.float32), Geometry(SHAPE, AFFINE))
    assert write_volume(volume, "~/new/a.nii.gz") == tmp_path / "new" / "a.nii.gz"
    np.testing.assert_array_equal(read_volume("~/new/a.nii.gz").data, volume.data)


def test_labels_beyond_32_bits_are_refused():
    volume = Volume(np.full(SHAPE, 2**40), Geometry(SHAPE, AFFINE))
    with pytest.raises(VolumeError, match="32 bits"):
        to_image(volume)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.MGHImage])
def test_image_like_another_keeps_its_affine_and_units(kind, tmp_path, caplog):
    affine = np.diag([2.0, -3.0, 1.5, 1.0])
    source = kind(np.zeros((3, 4, 5), np.float32), affine)
    if kind is not nib.MGHImage:
        source.header.set_xyzt_units("micron", "msec")
        source.header.set_slope_inter(3.0, 1.0)
    path = tmp_path / f"image{'.mgz' if kind is nib.MGHImage else '.nii.gz'}"
    nib.save(source, path)
    data = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    image = to_image_like(data, path)
    saved = nib.load(write_image(image, tmp_path / "out.nii.gz"))
    np.testing.assert_array_equal(saved.dataobj, data)
    np.testing.assert_allclose(saved.affine, affine)
    assert saved.get_data_dtype() == np.uint16
    expected = ("mm", "sec") if kind is nib.MGHImage else ("micron", "msec")
    assert saved.header.get_xyzt_units() == expected
    assert not caplog.messages  # nibabel tells what it mends in a header


def test_image_like_another_keeps_its_trailing_axis():
    source = nib.Nifti1Image(np.zeros((3, 4, 5, 1), np.int16), np.eye(4))
    assert to_image_like(np.zeros((3, 4, 5), np.uint8), source).shape == (3, 4, 5, 1)


def test_image_like_no_image_is_refused(tmp_path):
    path = tmp_path / "text.nii"
    path.write_text("no image")
    with pytest.raises(VolumeError, match=r"text\.nii"):
        to_image_like(np.zeros((3, 4, 5), np.uint8), path)
