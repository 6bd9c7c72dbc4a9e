"""Files by their first bytes: each is read, or refused with the way to mend it."""

import gzip

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest

from brainfeat.exceptions import VolumeError, VolumeNotFoundError
from brainfeat.io.file_kinds import describe_absence, describe_dicom, describe_stranger
from brainfeat.io.hashing import content_hash
from brainfeat.io.volumes import read_volume, to_image_like

SHAPE = (7, 8, 9)
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
ANNEX = b"/annex/objects/MD5E-s1234--0123456789abcdef.nii.gz\n"
ANNEX_LINK = b"../../.git/annex/objects/Qq/1x/MD5E-s1--0a.nii.gz/MD5E-s1--0a.nii.gz"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
DICOM = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00"
BARE_DICOM = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"


@pytest.fixture
def intensities(rng):
    return rng.integers(-300, 300, SHAPE).astype(np.int16)


def zstd(block, n_frames=1):
    step = -(-len(block) // n_frames)
    codec = pa.Codec("zstd")
    parts = [block[i : i + step] for i in range(0, len(block), step)]
    return b"".join(codec.compress(part, asbytes=True) for part in parts)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nii.zst", "A.NII.GZ"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
def test_nifti_is_read_by_its_first_bytes(tmp_path, intensities, name, compress, kind):
    path = tmp_path / name
    path.write_bytes(compress(kind(intensities, AFFINE).to_bytes()))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, intensities)
    np.testing.assert_array_equal(volume.geometry.affine, AFFINE)
    assert len(content_hash(path)) == 64
    like = to_image_like(np.ones(SHAPE, np.uint8), path)
    np.testing.assert_array_equal(like.affine, AFFINE)


def test_zstd_of_several_frames_is_read(tmp_path, intensities):
    path = tmp_path / "a.nii.zst"
    path.write_bytes(zstd(nib.Nifti1Image(intensities, AFFINE).to_bytes(), n_frames=3))
    np.testing.assert_array_equal(read_volume(path).data, intensities)


def test_damaged_zstd_is_refused(tmp_path, intensities):
    path = tmp_path / "a.nii.zst"
    whole = zstd(nib.Nifti1Image(intensities, AFFINE).to_bytes())
    flipped = whole[:300] + bytes(40) + whole[340:]
    for block in (whole[: len(whole) // 2], whole[:-3], flipped, whole[:10], b""):
        path.write_bytes(block)
        with pytest.raises(VolumeError) as caught:
            read_volume(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_zstd_bomb_is_refused_before_it_is_unpacked(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE)
    image.header["dim"][1:4] = 3000, 3000, 3000
    path = tmp_path / "a.nii.zst"
    path.write_bytes(zstd(image.header.binaryblock + bytes(1 << 20)))
    with pytest.raises(VolumeError, match="bytes of data for shape"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz", "a.nrrd", "a.img"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ANNEX, "got a pointer of git-annex; fetch the file with datalad get"),
        (ANNEX_LINK, "datalad get"),
        (LFS, "got a pointer of Git LFS; fetch the file with git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "got a web page; the download failed"),
        (b"\xef\xbb\xbf\n <HTML lang='en'>", "got a web page"),
        (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code>", "a web page"),
        (DICOM, "got a DICOM file; convert its series with dcm2niix"),
        (BARE_DICOM, "got a DICOM file"),
        (b"PK\x03\x04", "got a ZIP archive; unpack it"),
    ],
)
def test_what_is_no_image_is_named_with_the_mend(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: expected an image, got ")


@pytest.mark.parametrize(("name", "wanted"), [("a.mgz", ".mgh"), ("a.mgh", ".mgz")])
def test_compression_of_mgh_is_that_of_its_name(tmp_path, name, wanted):
    block = nib.MGHImage(np.zeros(SHAPE, np.float32), AFFINE).to_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.compress(block) if name == "a.mgh" else block)
    with pytest.raises(VolumeError, match=f"rename it to {wanted}"):
        read_volume(path)


@pytest.mark.parametrize(
    "start",
    [b"", b"participant_id\tage\n", b"<?xml?>\n<GIFTI>", b"\x5c\x01\0\0", LFS[:9]],
)
def test_other_starts_are_no_strangers(start):
    assert describe_stranger(start) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://bucket/a.nii.gz", "s3:// addresses are not read; download the file"),
        ("https:/x.org/a.nii.gz", "https:// addresses are not read; download"),
        ("/home/me/gs:/bucket/a.nii", "gs:// addresses are not read; download"),
        ("file:///data/a.nii", "file:// addresses are not read; give the path alone"),
        ("/data/a.nii", "no such file"),
        ("C:/data/a.nii", "no such file"),
    ],
)
def test_addresses_are_no_files(name, message):
    assert describe_absence(name).startswith(message)
    with pytest.raises(VolumeNotFoundError, match=message):
        read_volume(name)


def test_link_into_an_annex_without_content_says_datalad_get(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.symlink_to(".git/annex/objects/Qq/1x/MD5E-s1--0a/MD5E-s1--0a")
    with pytest.raises(VolumeNotFoundError, match=r"a\.nii\.gz: .*datalad get"):
        read_volume(path)


def test_folder_of_dicom_files_is_named(tmp_path):
    assert describe_dicom(tmp_path) is None
    for index in range(3):
        series = tmp_path / "study" / "1"
        series.mkdir(parents=True, exist_ok=True)
        (series / f"IM{index}").write_bytes(DICOM)
    with pytest.raises(VolumeError, match=r"a folder of DICOM files; .* dcm2niix"):
        read_volume(tmp_path)
