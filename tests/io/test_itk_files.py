import re

import numpy as np
import pytest
import SimpleITK as sitk

from brainfeat.exceptions import BrainfeatError, VolumeError, VolumeNotFoundError
from brainfeat.io.hashing import content_hash
from brainfeat.io.image_files import files_of
from brainfeat.io.volumes import read_labels, read_volume, split_volumes, to_image_like

SHAPE = (7, 8, 9)
TURN = np.array([[0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])  # LPS
SPACING, ORIGIN = (1.2, 0.9, 2.0), (-30.0, 40.0, 5.0)
# The same in RAS.
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.diag([-1, -1, 1]) @ TURN @ np.diag(SPACING)
AFFINE[:3, 3] = 30.0, -40.0, 5.0


@pytest.fixture
def voxels(rng):
    return rng.integers(0, 300, SHAPE).astype(np.int16)


def write(path, voxels, *, compressed=False):
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T), isVector=False)
    if voxels.ndim == 3:
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        image.SetDirection(TURN.ravel())
    sitk.WriteImage(image, str(path), compressed)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_voxels_and_affine_are_read(tmp_path, voxels, suffix, compressed, dtype):
    path = write(tmp_path / f"a{suffix}", voxels.astype(dtype), compressed=compressed)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, voxels.astype(dtype))
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    labels = read_labels(path)
    np.testing.assert_array_equal(labels.data, voxels.astype(dtype))
    like = to_image_like(np.ones(SHAPE, np.uint8), path)
    np.testing.assert_allclose(like.affine, AFFINE, atol=1e-6)
    assert like.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_file_is_refused_in_one_line(tmp_path, voxels, suffix, compressed):
    path = write(tmp_path / f"a{suffix}", voxels, compressed=compressed)
    whole = path.read_bytes()
    middle = len(whole) // 2 + 60
    damaged = [whole[:-7], whole[:middle], whole[:100], whole[:9], b"", bytes(999)]
    if compressed:
        damaged.append(whole[:middle] + bytes(40) + whole[middle + 40 :])
    for block in damaged:
        path.write_bytes(block)
        with pytest.raises(VolumeError) as caught:
            read_volume(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_separate_voxels_count_and_must_exist(tmp_path, voxels):
    path = write(tmp_path / "a.mhd", voxels)
    assert files_of(path) == [path, tmp_path / "a.raw"]
    before = content_hash(path)
    write(tmp_path / "b.mhd", voxels + 1)
    (tmp_path / "b.raw").replace(tmp_path / "a.raw")
    assert content_hash(path) != before
    (tmp_path / "a.raw").unlink()
    with pytest.raises(VolumeNotFoundError, match=r"a\.mhd: .*a\.raw: no such file"):
        read_volume(path)


@pytest.mark.parametrize("named", ["LIST", "a%03d.raw 1 9 1"])
def test_voxels_in_several_files_are_refused(tmp_path, voxels, named):
    path = write(tmp_path / "a.mhd", voxels)
    path.write_text(re.sub(r"a\.raw", named, path.read_text()))
    with pytest.raises(VolumeError, match="voxels in one file, got several"):
        read_volume(path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("9000 9000 9000", "bytes of data for shape"),
        ("7 8 900", "bytes of"),
        ("7 8", "damaged header"),
    ],
)
def test_sizes_are_checked_before_voxels_are_read(tmp_path, voxels, sizes, message):
    path = write(tmp_path / "a.mha", voxels)
    text = re.sub(rb"DimSize = .*", f"DimSize = {sizes}".encode(), path.read_bytes())
    path.write_bytes(text)
    with pytest.raises(VolumeError, match=message):
        read_volume(path)


def test_memory_limit_holds(tmp_path, voxels):
    path = write(tmp_path / "a.nrrd", voxels)
    with pytest.raises(VolumeError, match="--memory-limit"):
        read_volume(path, memory_limit=5000)


def test_several_volumes_are_split_and_vectors_refused(tmp_path, rng):
    series = rng.random((4, 5, 6, 3)).astype(np.float32)
    path = write(tmp_path / "series.nrrd", series)
    with pytest.raises(VolumeError, match=r"one 3D volume.*3 volumes"):
        read_volume(path)
    volumes = split_volumes(path)
    np.testing.assert_array_equal(volumes[2].get_fdata(), series[..., 2])
    colours = sitk.GetImageFromArray(rng.random((6, 5, 4, 3)), isVector=True)
    sitk.WriteImage(colours, str(path))
    with pytest.raises(VolumeError, match="one value a voxel, got 3"):
        read_volume(path)


@pytest.mark.parametrize(
    ("field", "note", "affine"),
    [
        ("spacings: 2 3 4", "no orientation in its header", [-2.0, -3, 4]),
        (
            "space: right-anterior-superior\nspace origin: (0,0,0)\n"
            "space directions: (2000,0,0) (0,3000,0) (0,0,4000)\n"
            'space units: "um" "um" "um"',
            "in micrometres, converted to mm",
            [2.0, 3, 4],
        ),
    ],
)
def test_header_of_nrrd_is_noted(tmp_path, caplog, field, note, affine):
    path = tmp_path / "a.nrrd"
    sizes = "type: uchar\ndimension: 3\nsizes: 2 3 4\nencoding: raw"
    header = f"NRRD0004\n{sizes}\n{field}\n\n"
    path.write_bytes(header.encode() + bytes(range(24)))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.geometry.affine, np.diag([*affine, 1.0]))
    assert volume.data[1, 2, 3] == 23
    (message,) = caplog.messages
    assert message.startswith(f"{path}: ")
    assert note in message


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_random_damage_is_read_or_refused_in_one_line(
    tmp_path, rng, voxels, suffix, compressed
):
    path = write(tmp_path / f"a{suffix}", voxels, compressed=compressed)
    whole = path.read_bytes()
    for _ in range(60):
        block = bytearray(whole)
        for position in rng.integers(0, min(len(whole), 600), 3):
            block[position : position + rng.integers(0, 4)] = rng.bytes(2)
        path.write_bytes(block)
        try:
            said = f"{path}: {read_volume(path).data.ndim} axes"
        except BrainfeatError as error:
            said = str(error)
        assert said.startswith(f"{path}: ")
        assert len(said.splitlines()) == 1
