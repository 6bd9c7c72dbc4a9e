import gzip
import hashlib
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainfeat.exceptions import GeometryError, VolumeError, VolumeNotFoundError
from brainfeat.io import (
    content_hash,
    hash_images,
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


def scaled_image(data):
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(0.5, -10.0)
    return image


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
def test_volume_survives_write_and_read(tmp_path, rng, suffix):
    volume = Volume(rng.normal(size=SHAPE).astype(np.float32), Geometry(SHAPE, AFFINE))
    again = read_volume(write_volume(volume, tmp_path / "new" / f"a{suffix}"))
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.geometry.is_close(volume.geometry, tolerance=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.int32])
def test_label_map_survives_write_and_read(tmp_path, rng, suffix, dtype):
    labels = rng.integers(0, 2, SHAPE).astype(dtype)
    volume = Volume(labels, Geometry(SHAPE, AFFINE))
    again = read_labels(write_volume(volume, tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(again.data, labels)


# nibabel leaves uncompressed .mgh files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".mgh", ".img.gz"])
def test_every_container_reads_as_nibabel_reads_it(tmp_path, intensities, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".mgh":
        image = nib.MGHImage(intensities.astype(np.int32), AFFINE)
    elif suffix in {".hdr", ".img.gz"}:
        image = nib.Nifti1Pair(intensities, AFFINE)
    else:
        image = nib.Nifti1Image(intensities, AFFINE)
    nib.save(image, path)
    expected = nib.load(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, expected.get_fdata())
    np.testing.assert_array_equal(volume.geometry.affine, expected.affine)


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_fast_gzip_path_reads_what_nibabel_reads(
    tmp_path, intensities, endianness, kind
):
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.int16)
    image = kind(intensities, AFFINE, header)
    image.header.set_slope_inter(0.5, -10.0)
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    expected = nib.load(path)
    assert expected.header.endianness == endianness
    volume = read_volume(path)
    np.testing.assert_allclose(volume.data, expected.get_fdata(), rtol=1e-6)
    np.testing.assert_array_equal(volume.geometry.affine, expected.affine)


def test_image_in_memory_equals_its_file(tmp_path, intensities):
    path = tmp_path / "a.nii.gz"
    nib.save(scaled_image(intensities), path)
    np.testing.assert_array_equal(
        read_volume(nib.load(path)).data, read_volume(path).data
    )


@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (1, 0), (2, 1), (0, 0)])
def test_affine_is_chosen_as_nibabel_chooses(tmp_path, intensities, sform, qform):
    image = nib.Nifti1Image(intensities, AFFINE)
    turned = np.diag([2.0, 3.0, 4.0, 1.0])
    image.header.set_sform(AFFINE, sform)
    image.header.set_qform(turned, qform)
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    np.testing.assert_allclose(read_volume(path).geometry.affine, nib.load(path).affine)


def test_fourth_axis_of_one_volume_is_dropped(tmp_path, intensities):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(intensities[..., None], AFFINE), path)
    np.testing.assert_array_equal(read_volume(path).data, intensities)


def test_large_labels_keep_their_value(tmp_path):
    labels = np.full(SHAPE, 2**24 + 1, np.int32)
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(labels, AFFINE), path)
    np.testing.assert_array_equal(read_labels(path).data, labels)


def test_label_map_with_fractions_is_refused(rng):
    image = nib.Nifti1Image(rng.random(SHAPE).astype(np.float32), AFFINE)
    with pytest.raises(VolumeError, match="integer labels"):
        read_labels(image)


@pytest.mark.parametrize("stray", [0.9995, np.nan, np.inf, 2.0**40])
def test_one_voxel_that_is_no_label_is_named(stray):
    values = np.zeros(SHAPE)
    values[1, 2, 1] = stray
    with pytest.raises(VolumeError, match=re.escape(f"labels, got {stray:g}.")):
        read_labels(nib.Nifti1Image(values, AFFINE))


def test_mask_that_a_slope_rounds_is_read(tmp_path):
    mask = np.zeros(SHAPE, np.float32)
    mask[1:, 1:] = 1.0
    image = nib.Nifti1Image(mask, AFFINE)
    image.set_data_dtype(np.uint8)  # nibabel stores 255 and a slope
    path = tmp_path / "mask.nii.gz"
    nib.save(image, path)
    assert nib.load(path).get_fdata().max() != 1.0
    np.testing.assert_array_equal(read_labels(path).data, mask)


def test_damaged_files_are_named_in_one_line(tmp_path, intensities):
    good = tmp_path / "good.nii.gz"
    nib.save(nib.Nifti1Image(intensities, AFFINE), good)
    content = good.read_bytes()
    header = gzip.decompress(content)[:300]
    damaged = {
        "text.nii.gz": b"not an image",
        "text.nii": b"not an image" * 99,
        "empty.nii.gz": b"",
        "cut.nii.gz": content[: len(content) // 2],
        "flipped.nii.gz": content[:200] + b"\x00" * 40 + content[240:],
        "stub.nii.gz": gzip.compress(header),
        "letters.nii.gz": gzip.compress(b"not a header" * 99),
        "short.nii.gz": gzip.compress(gzip.decompress(content)[:-7]),
        "unknown.xyz": b"?",
    }
    for name, block in damaged.items():
        path = tmp_path / name
        path.write_bytes(block)
        with pytest.raises(VolumeError) as caught:
            read_volume(path)
        assert str(caught.value).startswith(f"{path}: "), name
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 5), np.float32), "one 3D volume"),
        (np.zeros((4, 5, 6, 7), np.float32), "7 volumes"),
        (np.zeros(SHAPE, np.complex64), "complex"),
        (np.full(SHAPE, np.nan, np.float32), "no finite value"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_image_that_is_not_one_real_volume_is_refused(tmp_path, data, message, suffix):
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


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


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(VolumeNotFoundError, match="no such file"):
        read_volume(tmp_path / "none.nii.gz")
    with pytest.raises(FileNotFoundError):
        content_hash(tmp_path / "none.nii.gz")
    with pytest.raises(VolumeError, match="got a folder"):
        read_volume(tmp_path)


def test_hash_follows_content(tmp_path, intensities):
    image = nib.Nifti1Image(intensities, AFFINE)
    first, second = tmp_path / "a.nii", tmp_path / "b.nii"
    nib.save(image, first)
    nib.save(image, second)
    assert content_hash(first) == content_hash(second)
    in_memory = content_hash(image)
    image.get_fdata()  # fills nibabel's cache: the content stays the same
    assert content_hash(image) == in_memory
    changed = intensities.copy()
    changed[3, 4, 5] += 1
    assert content_hash(nib.Nifti1Image(changed, AFFINE)) != in_memory
    assert content_hash(nib.Nifti1Image(intensities, np.eye(4))) != in_memory


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


def test_image_states_millimetres_and_keeps_the_affine():
    image = to_image(Volume(np.zeros(SHAPE), Geometry(SHAPE, AFFINE)))
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)


def test_labels_beyond_32_bits_are_refused():
    volume = Volume(np.full(SHAPE, 2**40), Geometry(SHAPE, AFFINE))
    with pytest.raises(VolumeError, match="32 bits"):
        to_image(volume)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.MGHImage])
def test_image_like_another_keeps_its_place_and_units(kind, tmp_path):
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


def test_image_like_one_with_a_trailing_axis_has_it_too():
    source = nib.Nifti1Image(np.zeros((3, 4, 5, 1), np.int16), np.eye(4))
    assert to_image_like(np.zeros((3, 4, 5), np.uint8), source).shape == (3, 4, 5, 1)


def test_image_like_no_image_is_refused(tmp_path):
    path = tmp_path / "text.nii"
    path.write_text("no image")
    with pytest.raises(VolumeError, match=r"text\.nii"):
        to_image_like(np.zeros((3, 4, 5), np.uint8), path)


def test_pair_of_files_is_read_by_either_name(tmp_path, rng):
    data = rng.integers(0, 99, (40, 41, 42)).astype(np.int16)
    nib.Nifti1Pair(data, np.eye(4)).to_filename(tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, data)


def test_the_hash_of_one_image_is_that_of_its_file(tmp_path):
    paths = {name: str(tmp_path / name) for name in ("T1w", "FLAIR")}
    for name, path in paths.items():
        Path(path).write_text(name)
    expected = hashlib.sha256(b"T1w").hexdigest()
    assert hash_images({"T1w": paths["T1w"]}) == expected
    both = hash_images(paths)
    assert both == hash_images(dict(reversed(paths.items())))
    swapped = {"T1w": paths["FLAIR"], "FLAIR": paths["T1w"]}
    assert len({both, expected, hash_images(swapped)}) == 3
    with pytest.raises(VolumeNotFoundError):
        hash_images({"T1w": str(tmp_path / "absent")})
