"""Fuzzing of NIfTI headers: each is read, or refused in one line."""

import gzip
import io
import re
import resource
import time

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainfeat.exceptions import BrainfeatError, GeometryError, VolumeError
from brainfeat.io.nifti_header import check_size, read_layout
from brainfeat.io.volumes import read_labels, read_volume

SHAPE = (7, 8, 9)
FIELDS = nib.Nifti1Header.template_dtype.fields


def content(**fields):
    """Return the bytes of a small image, with header fields replaced."""
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    block = bytearray(nib.Nifti1Image(data, np.diag([2.0, 3, 4, 1])).to_bytes())
    for name, value in fields.items():
        dtype, offset = FIELDS[name]
        stored = np.asarray(value, dtype.base).tobytes()
        block[offset : offset + len(stored)] = stored
    return bytes(block)


def test_header_gives_the_layout_of_the_voxels():
    layout = read_layout(io.BytesIO(content(scl_slope=0.5, scl_inter=-3)))
    assert layout.shape == SHAPE
    assert layout.dtype == np.dtype("<i2")
    assert layout.n_skipped == 4
    assert (layout.slope, layout.intercept) == (0.5, -3.0)
    assert layout.n_bytes == 2 * np.prod(SHAPE)
    np.testing.assert_array_equal(layout.affine, np.diag([2.0, 3, 4, 1]))


FLIPPED = {"sform_code": 1, "qform_code": 1, "pixdim": [-1, 2, 3, 4, 0, 0, 0, 0]}


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, None),
        ({"sform_code": 0, "qform_code": 1}, None),
        ({"sform_code": 1, "qform_code": 1}, None),
        ({"sform_code": 0, "qform_code": 0}, "no orientation .* are taken for LAS"),
        (FLIPPED, "sform and qform have opposite handedness, .* the sform is used"),
        (FLIPPED | {"qform_code": 0}, None),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_doubtful_orientation_is_one_line(tmp_path, caplog, fields, note, in_memory):
    path = tmp_path / "a.nii"
    path.write_bytes(content(**fields))
    volume = read_volume(nib.load(path) if in_memory else path)
    np.testing.assert_array_equal(volume.geometry.affine, nib.load(path).affine)
    assert len(caplog.messages) == (note is not None)
    assert all(re.match(f"{path}: .*{note}", line) for line in caplog.messages)


@pytest.mark.parametrize("suffix", [".nii", ".img"])
@pytest.mark.parametrize(
    ("unit", "scale", "note"),
    [
        ("unknown", 1.0, None),
        ("mm", 1.0, None),
        ("micron", 1000.0, "in micrometres, converted to mm"),
        ("meter", 0.001, "in metres, converted to mm"),
    ],
)
def test_units_become_millimetres(tmp_path, caplog, unit, scale, note, suffix):
    affine = np.array([[0, -1.2, 0, 3], [0.9, 0, 0, -5], [0, 0, 2, 7], [0, 0, 0, 1]])
    stored = np.diag([scale, scale, scale, 1.0]) @ affine
    kind = nib.Nifti1Image if suffix == ".nii" else nib.Nifti1Pair
    image = kind(np.ones(SHAPE, np.uint8), stored)
    image.header.set_xyzt_units(unit, "sec")
    path = tmp_path / f"a{suffix}"
    nib.save(image, path)
    for read in (read_volume, read_labels):
        np.testing.assert_allclose(read(path).geometry.affine, affine, rtol=1e-6)
    assert [note in line for line in caplog.messages] == [True] * (note is not None)


def test_unit_is_named_where_it_makes_voxels_too_small(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(content(xyzt_units=3))
    with pytest.raises(GeometryError, match=r"got 0.002, .* \(its header is in micro"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 30_000, 30_000, 30_000, 1, 1, 1, 1]}, "bytes of data for shape"),
        ({"dim": [3, 7, -8, 9, 1, 1, 1, 1]}, "expected voxels"),
        ({"dim": [900, 7, 8, 9, 1, 1, 1, 1]}, ": "),
        ({"datatype": 3}, "damaged NIfTI header"),
        ({"datatype": 1792}, "complex"),
        ({"vox_offset": 1e30}, "voxels start at byte"),
        ({"vox_offset": np.nan}, "damaged NIfTI header"),
        ({"vox_offset": 8}, "damaged NIfTI header"),
        ({"scl_slope": 2, "scl_inter": np.inf}, "damaged NIfTI header"),
        ({"srow_x": [np.inf, 0, 0, 0]}, "finite affine"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "finite affine"),
        ({"srow_x": [1e-6, 0, 0, 0]}, "voxel edges"),
        ({"srow_x": [1e6, 0, 0, 0]}, "voxel edges"),
        ({"magic": b"n\x1b[2"}, "damaged NIfTI header"),
    ],
)
def test_impossible_header_is_refused(tmp_path, fields, message, suffix):
    path = tmp_path / f"a{suffix}"
    block = content(**fields)
    path.write_bytes(gzip.compress(block) if suffix == ".nii.gz" else block)
    with pytest.raises(BrainfeatError, match=message) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_compression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(content(dim=[3, 1500, 1500, 1500, 1, 1, 1, 1], datatype=2)[:352])
        for _ in range(64):
            file.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VolumeError, match="bytes of data for shape"):
        read_volume(path)
    with pytest.raises(VolumeError, match=r"at most 5e-06 GB of memory"):
        read_volume(write(tmp_path / "a.nii.gz", content()), memory_limit=5000)
    # Kilobytes: the file would take 64 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_bytes_after_the_voxels_are_ignored(tmp_path):
    long = write(tmp_path / "long.nii.gz", content() + bytes(1 << 22))
    short = write(tmp_path / "short.nii.gz", content())
    np.testing.assert_array_equal(read_volume(long).data, read_volume(short).data)


def write(path, block):
    path.write_bytes(gzip.compress(block))
    return path


def test_sizes_do_not_overflow():
    with pytest.raises(VolumeError, match="bytes of data"):
        check_size(
            (2**31, 2**31, 2**31),
            np.dtype(np.int16),
            n_bytes_on_disk=10_000,
            memory_limit=10**9,
            compression="gzip",
        )


# Slow functions of its own are no fault of the reader's.
@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FIELDS)), st.binary(min_size=1, max_size=16)),
        max_size=4,
    )
)
def test_random_header_is_read_or_refused_in_one_line(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "fuzzed.nii"
    block = bytearray(content())
    for name, value in changes:
        dtype, offset = FIELDS[name]
        value = value[: dtype.itemsize]
        block[offset : offset + len(value)] = value
    path.write_bytes(block)
    start = time.perf_counter()
    try:
        said = f"{path}: {read_volume(path).data.ndim} axes"
    except BrainfeatError as error:
        said = str(error)
    assert said.startswith(f"{path}: ")
    assert len(said.splitlines()) == 1
    assert time.perf_counter() - start < 5


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=600))
def test_random_bytes_are_a_header_or_refused(block):
    try:
        layout = read_layout(io.BytesIO(block))
    except VolumeError:
        return
    assert min(layout.shape) > 0


def test_memory_of_4d_image_is_less_than_of_its_volumes_at_once():
    shape = (182, 218, 182, 30)
    stored = {"n_bytes_on_disk": 10**9, "compression": None}
    check_size(shape, np.dtype(np.float32), memory_limit=2 * 10**9, **stored)
    with pytest.raises(VolumeError, match="--memory-limit"):
        check_size(shape, np.dtype(np.float32), memory_limit=10**9, **stored)
