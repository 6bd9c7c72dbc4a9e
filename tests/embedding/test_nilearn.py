"""Embeddings and dense images are valid inputs of nilearn."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.second_level import SecondLevelModel
from nilearn.image import index_img, resample_to_img
from nilearn.maskers import NiftiLabelsMasker
from nilearn.mass_univariate import permuted_ols
from nilearn.plotting import plot_stat_map
from nilearn.signal import clean

from brainfeat import BrainFoundEmbedder

pytestmark = [
    pytest.mark.usefixtures("without_registration"),
    pytest.mark.filterwarnings("ignore:.*matplotlib:UserWarning"),
]


@pytest.fixture(scope="module")
def embedder(checkpoint_path, without_registration):
    assert without_registration is None  # from here on, also for the fixtures below
    return BrainFoundEmbedder(checkpoint_path, device="cpu").fit()


@pytest.fixture(scope="module")
def rows(embedder, modality_paths):
    return embedder.transform(modality_paths["T1w"])


@pytest.fixture(scope="module")
def dense(embedder, modality_paths):
    return embedder.transform_dense(
        modality_paths["T1w"][:6], space="template", n_components=2
    )


def test_resample_to_img_takes_dense_features_to_the_scan(dense, modality_paths):
    scan = nib.load(modality_paths["T1w"][0])
    moved = resample_to_img(dense[0], scan)
    assert moved.shape == (*scan.shape, 2)
    np.testing.assert_allclose(moved.affine, scan.affine)
    # Components are 0 outside of the brain, and the brain lies where the scan's is.
    has_token = np.abs(moved.get_fdata()).sum(axis=-1) > 0
    assert has_token[scan.get_fdata() > 0].mean() > 0.95


def test_plot_stat_map_draws_a_component(dense, tmp_path):
    display = plot_stat_map(index_img(dense[0], 0), output_file=None)
    display.savefig(tmp_path / "map.png")
    display.close()
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_labels_masker_averages_over_regions(dense):
    labels = np.zeros(dense[0].shape[:3], np.uint8)
    labels[:2, 2:5, 6:12], labels[3:, 2:5, 6:12] = 1, 2
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(labels, dense[0].affine), standardize=None
    )
    values = masker.fit_transform(dense[0])
    expected = [dense[0].get_fdata()[labels == value].mean(axis=0) for value in (1, 2)]
    np.testing.assert_allclose(values, np.transpose(expected), rtol=1e-4, atol=1e-5)


def test_permuted_ols_tests_each_feature(rows):
    found = permuted_ols(
        np.arange(len(rows))[:, None] % 2,
        rows,
        n_perm=20,
        random_state=0,
        verbose=0,
        output_type="dict",
    )
    assert found["logp_max_t"].shape == (1, rows.shape[1])


def test_signal_clean_removes_confounds(rows):
    age = np.linspace(50, 80, len(rows))
    cleaned = clean(
        rows,
        confounds=age[:, None],
        detrend=False,
        standardize=None,
        ensure_finite=True,
    )
    centred = age - age.mean()
    np.testing.assert_allclose(centred @ cleaned / np.ptp(age), 0, atol=1e-3)


def test_second_level_model_takes_maps_of_the_group(dense):
    maps = [index_img(image, 0) for image in dense]
    design = pd.DataFrame({"intercept": np.ones(6), "group": [0, 1, 0, 1, 0, 1]})
    mask = nib.Nifti1Image(
        np.all([m.get_fdata() != 0 for m in maps], axis=0).astype(np.uint8),
        maps[0].affine,
    )
    model = SecondLevelModel(mask_img=mask).fit(maps, design_matrix=design)
    result = model.compute_contrast("group", output_type="z_score")
    assert result.shape == maps[0].shape
    assert np.isfinite(result.get_fdata()).all()
