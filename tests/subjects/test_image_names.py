import pytest

from brainfeat.subjects.image_names import find_channels, read_image_name

NAMES = [
    # BraTS 2023 and 2020, UPENN-GBM, UCSF-PDGM
    ("BraTS-GLI-00001-000-t1n.nii.gz", "T1w", "BraTS-GLI-00001-000"),
    ("BraTS-GLI-00001-000-t1c.nii.gz", "T1ce", "BraTS-GLI-00001-000"),
    ("BraTS-GLI-00001-000-t2w.nii.gz", "T2w", "BraTS-GLI-00001-000"),
    ("BraTS-GLI-00001-000-t2f.nii.gz", "FLAIR", "BraTS-GLI-00001-000"),
    ("BraTS20_Training_001_t1ce.nii", "T1ce", "BraTS20_Training_001"),
    ("BraTS20_Training_001_flair.nii", "FLAIR", "BraTS20_Training_001"),
    ("UPENN-GBM-00001_11_T1GD.nii.gz", "T1ce", "UPENN-GBM-00001_11"),
    ("UCSF-PDGM-0004_T2_bias.nii.gz", "T2w", "UCSF-PDGM-0004_bias"),
    # IXI, open_ms, FreeSurfer
    ("IXI002-Guys-0828-T2.nii.gz", "T2w", "IXI002-Guys-0828"),
    ("IXI002-T2.nii.gz", "T2w", "IXI002"),
    ("IXI002-Guys-0828-PD.nii.gz", "PDw", "IXI002-Guys-0828"),
    ("IXI002-Guys-0828-MRA.nii.gz", "MRA", "IXI002-Guys-0828"),
    ("ixi128_hh_1470_T1w2mm.nii.gz", "T1w", "ixi128_hh_1470"),
    ("patient07_T1WKS.nii.gz", None, "patient07_T1WKS"),
    ("T1.mgz", "T1w", ""),
    ("brain.mgz", None, "brain"),
    # words of scanners and people
    ("scan_FLAIR.nii.gz", "FLAIR", "scan"),
    ("007_t1_mprage.nii", "T1w", "007"),
    ("t1_mprage_007.nii", "T1w", "007"),
    ("AX_T2_FLAIR_007.nii", "FLAIR", "AX_007"),
    ("007_3DT1_post.nii", "T1ce", "007"),
    ("007_T1_Gd.nii", "T1ce", "007"),
    ("007_gd.nii", "T1ce", "007"),
    ("007_post_T1.nii", "T1w", "007_post"),
    ("007_FLAIR_to_T1.nii", "FLAIR", "007_to_T1"),
    ("T2_study_007_T1.nii", "T1w", "study_007"),
    ("T1T2.nii.gz", None, "T1T2"),
    ("case_0001.nii.gz", None, "case_0001"),
    ("postgraduate_001.nii.gz", None, "postgraduate_001"),
    # BIDS: the values of entities say nothing
    ("sub-01_ses-T2_T1w.nii.gz", "T1w", "sub-01_ses-T2"),
    ("sub-01_acq-mprage_T2w.nii.gz", "T2w", "sub-01"),
    ("sub-01_acq-0.8mm_run-2_FLAIR.nii.gz", "FLAIR", "sub-01_run-2"),
    ("sub-01_ce-gadolinium_T1w.nii.gz", "T1ce", "sub-01"),
    ("sub-01_space-T1w_desc-mask_T2w.nii.gz", "T2w", "sub-01_space-T1w_desc-mask"),
    ("sub-01_flair.mgz", "FLAIR", "sub-01"),
    ("sub-01_T1w_brain.nii.gz", "T1w", "sub-01_brain"),
    ("sub-01-T1w.nii.gz", "T1w", "sub-01"),
    ("sub-01_PDw.nii.gz", "PDw", "sub-01"),
    ("sub-01_task-rest_bold.nii.gz", "bold", "sub-01_task-rest"),
]


@pytest.mark.parametrize(("name", "contrast", "rest"), NAMES)
def test_name_says_contrast_and_subject(name, contrast, rest):
    read = read_image_name(f"flair/{name}")
    assert (read.contrast, read.is_label_map, read.rest) == (contrast, False, rest)


@pytest.mark.parametrize(
    "name",
    [
        *("BraTS-GLI-00001-000-seg.nii.gz", "BraTS20_Training_001_seg.nii"),
        *("sub-01_dseg.nii.gz", "sub-01_label-GM_probseg.nii.gz", "x_roi.nii"),
        *("sub-01_desc-brain_mask.nii.gz", "sub-01_T1w_label-lesion_roi.nii.gz"),
        *("aparc+aseg.mgz", "aparc.DKTatlas+aseg.mgz", "aseg.mgz", "wm.seg.mgz"),
        *("brainmask.mgz", "x_labels.nii", "007_consensus_gt.nii.gz", "mask_T1.nii"),
        *("labelsTr/case_000.nii.gz", "UCSF-PDGM-0004_tumor_segmentation.nii.gz"),
    ],
)
def test_label_maps_are_known_by_their_names(name):
    assert read_image_name(name).is_label_map


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        (["case_0000.nii", "case_0001.nii"], ["case_0000.nii", "case_0001.nii"]),
        (["a_0000.nii", "b_0000.nii"], ["a_0000.nii", "b_0000.nii"]),
        (["imagesTr/a_0001.nii"], ["imagesTr/a_0001.nii"]),
        (["OAS_0001.nii", "OAS_0002.nii"], []),
        ([f"scan_{index:04}.nii" for index in range(11)], []),
        (["a_T1_0000.nii", "a_T2_0000.nii", "0000.nii", "a_000.nii"], []),
    ],
)
def test_numbered_contrasts_are_not_numbered_subjects(names, channels):
    assert sorted(find_channels(names)) == channels
