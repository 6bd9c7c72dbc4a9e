"""Inputs that are no images or tables: what the user is told to do."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from brainfeat.exceptions import InputError, VolumeNotFoundError
from brainfeat.io.volumes import read_volume
from brainfeat.subjects.manifest import collect_rows
from brainfeat.subjects.table import as_subjects

MODALITIES = ("T1w", "T2w", "FLAIR")
DICOM = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00"


def collect(*inputs):
    return collect_rows([str(text) for text in inputs], modalities=MODALITIES)


def test_all_formats_are_found_in_a_folder(tmp_path):
    voxels = np.zeros((4, 5, 6), np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "a_T1w.nii.gz")
    image = sitk.GetImageFromArray(voxels)
    for name in ("b_FLAIR.nrrd", "c_T2w.mha", "d_T1w.mhd", "e_T1w.nhdr"):
        sitk.WriteImage(image, str(tmp_path / name))
    (tmp_path / "f_FLAIR.nii.zst").touch()
    found = {row.participant_id: row.paths for row in collect(tmp_path).rows}
    assert found == {
        "a_T1w": {"T1w": str(tmp_path / "a_T1w.nii.gz")},
        "b_FLAIR": {"FLAIR": str(tmp_path / "b_FLAIR.nrrd")},
        "c_T2w": {"T2w": str(tmp_path / "c_T2w.mha")},
        "d_T1w": {"T1w": str(tmp_path / "d_T1w.mhd")},
        "e_T1w": {"T1w": str(tmp_path / "e_T1w.nhdr")},
        "f_FLAIR": {"FLAIR": str(tmp_path / "f_FLAIR.nii.zst")},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "s3://openneuro/a?versionId=[1]",
            "s3:// addresses .*; download the file first",
        ),
        ("https://x.org/sub-*/a.nii.gz", "https:// addresses .*; download the file"),
        ("file:///data/a.nii.gz", "file:// addresses .*; give the path alone"),
    ],
)
def test_addresses_are_refused(text, message):
    with pytest.raises(InputError, match=f"^{text[:5]}.*: {message}"):
        collect(text)
    with pytest.raises(VolumeNotFoundError, match=message):
        as_subjects([text], modality=None, modalities=MODALITIES, allow_missing=True)


def test_address_in_a_manifest_is_refused_when_its_image_is_read(tmp_path):
    manifest = tmp_path / "scans.csv"
    manifest.write_text("T1w\ns3://bucket/a.nii.gz\n")
    (row,) = collect(manifest).rows
    with pytest.raises(VolumeNotFoundError, match="s3:// addresses are not read"):
        read_volume(row.image)


def test_folder_of_dicom_files_is_refused_with_the_mend(tmp_path):
    series = tmp_path / "study" / "1"
    series.mkdir(parents=True)
    for index in range(3):
        (series / f"IM{index}").write_bytes(DICOM)
    message = "got .*DICOM files; convert them with dcm2niix"
    with pytest.raises(InputError, match=message):
        collect(tmp_path)
    with pytest.raises(InputError, match=message):
        as_subjects([series], modality=None, modalities=MODALITIES, allow_missing=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scans.xlsx", b"PK\x03\x04\0\0", "a spreadsheet; save the table as UTF-8 CSV"),
        ("scans.xls", b"\xd0\xcf\x11\xe0\0", "a spreadsheet; save the table as UTF-8"),
        ("scans.csv", b"PK\x03\x04\0\0", "a spreadsheet; save the table as UTF-8 CSV"),
        ("scans.tsv", "T1w\na\n".encode("utf-16"), "text in UTF-16; save the table as"),
        ("scans.csv", "T1w,site\na,Köln\n".encode("cp1252"), "save the table as UTF-8"),
    ],
)
def test_manifest_that_is_no_utf8_text_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        collect(path)
    assert str(caught.value).startswith(f"{path}: not a readable table (")


def test_annexed_image_without_content_is_named(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.symlink_to("../.git/annex/objects/Qq/1x/MD5E-s1--0a/MD5E-s1--0a")
    with pytest.raises(InputError, match=r"T1w\.nii\.gz: .*with datalad get"):
        collect(path)
