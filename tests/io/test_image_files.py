import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.testing import data_path

from brainfeat.exceptions import VolumeError, VolumeNotFoundError
from brainfeat.io.image_files import read_stored
from brainfeat.io.volumes import read_volume

SHAPE = (7, 8, 9)
AFFINE = np.array(
    [[0.0, -1.2, 0.1, 3.0], [0.9, 0.0, 0.0, -5.0], [0.0, 0.1, 2.0, 7.0], [0, 0, 0, 1]]
)


@pytest.fixture
def intensities(rng):
    return rng.integers(-300, 300, SHAPE).astype(np.int16)


@pytest.fixture
def scaled_image(intensities):
    image = nib.Nifti1Image(intensities, AFFINE)
    image.header.set_slope_inter(0.5, -10.0)
    return image


# nibabel leaves uncompressed .mgh files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".mgh", ".img.gz"])
def test_every_format_is_read_as_by_nibabel(tmp_path, intensities, suffix):
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


# nibabel leaves Philips files for the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name", ["scaled+tlrc.HEAD", "minc1_1_scale.mnc", "phantom_varscale.PAR"]
)
def test_formats_with_their_own_scaling_are_read(name):
    path = Path(data_path, name)
    expected = nib.load(path).get_fdata()
    stored = read_stored(path, memory_limit=10**9)
    assert (stored.slope, stored.intercept) == (1.0, 0.0)
    np.testing.assert_allclose(stored.raw, expected, rtol=1e-6)


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


def test_image_in_memory_equals_its_file(tmp_path, scaled_image):
    path = tmp_path / "a.nii.gz"
    nib.save(scaled_image, path)
    in_memory, in_file = (
        read_stored(source, memory_limit=10**9) for source in (nib.load(path), path)
    )
    assert in_memory.name == in_file.name == str(path)
    np.testing.assert_array_equal(in_memory.raw, in_file.raw)
    np.testing.assert_array_equal(in_memory.affine, in_file.affine)
    assert (in_memory.slope, in_memory.intercept) == (0.5, -10.0)
    assert (in_file.slope, in_file.intercept) == (0.5, -10.0)


@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (1, 0), (2, 1), (0, 0)])
def test_affine_is_chosen_as_nibabel_chooses(tmp_path, intensities, sform, qform):
    image = nib.Nifti1Image(intensities, AFFINE)
    turned = np.diag([2.0, 3.0, 4.0, 1.0])
    image.header.set_sform(AFFINE, sform)
    image.header.set_qform(turned, qform)
    path = tmp_path / "a.nii.gz"
    image.to_filename(path)
    np.testing.assert_allclose(read_volume(path).geometry.affine, nib.load(path).affine)


@pytest.mark.parametrize("has_matrix", [False, True])
def test_analyze_has_an_orientation_in_a_matrix_only(
    tmp_path, intensities, caplog, has_matrix
):
    path = tmp_path / "a.img"
    nib.Spm99AnalyzeImage(intensities, AFFINE).to_filename(path)
    if not has_matrix:
        path.with_suffix(".mat").unlink()
    read_volume(path)
    expected = f"{path}: no orientation in its header; its axes are taken for LAS"
    assert caplog.messages == ([] if has_matrix else [expected])


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
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_image_that_is_not_one_real_volume_is_refused(tmp_path, data, message, suffix):
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder_raise_different_errors(tmp_path):
    with pytest.raises(VolumeNotFoundError, match="no such file"):
        read_volume(tmp_path / "none.nii.gz")
    with pytest.raises(VolumeError, match="got a folder"):
        read_volume(tmp_path)


def test_file_name_may_begin_with_a_tilde(tmp_path, intensities, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(intensities, AFFINE), tmp_path / "~1.nii")
    volume = read_volume("~1.nii")
    assert volume.path == Path("~1.nii")
    np.testing.assert_array_equal(volume.data, intensities)
    with pytest.raises(VolumeNotFoundError, match=r"^~nobody-of-this-name/a\.nii: no"):
        read_volume("~nobody-of-this-name/a.nii")


def test_pair_of_files_is_read_by_either_name(tmp_path, rng):
    data = rng.integers(0, 99, (40, 41, 42)).astype(np.int16)
    nib.Nifti1Pair(data, np.eye(4)).to_filename(tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, data)


def test_pipe_is_refused_without_blocking(tmp_path):
    path = tmp_path / "pipe.nii.gz"
    os.mkfifo(path)
    with pytest.raises(VolumeError, match="a device or a pipe"):
        read_volume(path)


def test_cyclic_links_are_refused(tmp_path):
    path = tmp_path / "loop.nii.gz"
    path.symlink_to(path)
    with pytest.raises(VolumeError, match="cannot be read"):
        read_volume(path)
