import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.second_level import (
    SecondLevelModel,
    make_second_level_design_matrix,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedKFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainfeat import BrainFoundEmbedder, reporting
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.reporting.importance import attribute_tokens

Y = np.arange(16) % 2


@pytest.fixture
def head():
    return make_pipeline(StandardScaler(), LogisticRegression())


@pytest.fixture
def pipeline(small_checkpoint, brains, without_registration):
    assert without_registration is None
    embedder = BrainFoundEmbedder(small_checkpoint, device="cpu", dtype="float32")
    model = make_pipeline(embedder, StandardScaler(), LogisticRegression())
    return model.fit(brains[:10], Y[:10])


def attribute(tokens, encoder, head, atlas, labels=Y, folds=None):
    return attribute_tokens(
        tokens,
        [f"sub-{number}" for number in range(len(tokens))],
        encoder,
        head,
        RegionAtlas.load(atlas),
        labels=labels,
        folds=folds,
    )


def halves():
    rows = np.arange(16)
    return [(rows[:8], rows[8:]), (rows[8:], rows[:8])]


def test_region_where_the_classes_differ_is_most_important(
    tokens, small_encoder, head, small_atlas
):
    result = attribute(tokens, small_encoder, head, small_atlas, folds=halves())
    assert result.importance.index[0] == "region_9"
    assert (
        result.importance["importance"].iloc[0]
        > 3 * (result.importance["importance"].iloc[1])
    )
    shuffled = np.array([0, 0, 1, 1] * 4)
    flat = attribute(
        tokens, small_encoder, head, small_atlas, labels=shuffled, folds=halves()
    )
    assert (
        flat.importance["importance"].abs().max()
        < 0.5 * (result.importance["importance"].iloc[0])
    )


def test_effects_of_a_partition_add_up_to_the_decision(tokens, small_encoder, head):
    # One region everywhere: the decision less that on the average tokens.
    shape = small_encoder.preprocessor.shape
    affine = small_encoder.preprocessor.geometry.affine
    everywhere = nib.Nifti1Image(np.ones(shape, np.uint8), affine)
    left = np.ones(shape, np.uint8)
    left[24:] = 2
    rows = np.stack(
        [
            np.einsum("ijk,ijkd->d", t.fractions / t.fractions.sum(), t.tokens)
            for t in tokens
        ]
    )
    fitted = head.fit(rows, Y)
    whole = attribute(tokens, small_encoder, fitted, everywhere)
    parts = attribute(tokens, small_encoder, fitted, nib.Nifti1Image(left, affine))
    np.testing.assert_allclose(
        parts.effects.sum(axis=1), whole.effects["region_1"], rtol=1e-3, atol=1e-4
    )
    sums = [image.get_fdata().sum() for image in whole.template_maps]
    np.testing.assert_allclose(sums, whole.effects["region_1"], rtol=1e-3, atol=1e-4)


def test_maps_lie_on_the_scans_and_in_the_template(pipeline, brains, small_atlas):
    paths = brains[10:14]
    result = reporting.attribution(pipeline, paths, Y[10:14], labels_img=small_atlas)
    assert list(result.effects.index) == paths
    for path, native, template in zip(
        paths, result.maps, result.template_maps, strict=True
    ):
        scan = nib.load(path)
        assert native.shape == scan.shape
        np.testing.assert_allclose(native.affine, scan.affine, atol=1e-4)
        assert template.shape == result.group_img.shape == (5, 7, 18)
    last = result.maps[-1].get_fdata()
    np.testing.assert_array_equal(result.maps[2:][1].get_fdata(), last)
    data = np.stack([image.get_fdata() for image in result.template_maps])
    group = data[1::2].mean(axis=0) - data[::2].mean(axis=0)
    np.testing.assert_allclose(result.group_img.get_fdata(), group, atol=1e-6)
    # The odd brains differ at voxel 22, 35, 24 of 3 mm: so does the map.
    position = result.group_img.affine[:3, :3] @ np.argwhere(group == group.max())[0]
    position = position + result.group_img.affine[:3, 3]
    expected = nib.load(paths[0]).affine @ [21.5, 34.5, 23.5, 1]
    assert np.linalg.norm(position - expected[:3]) < 25


@pytest.mark.parametrize("method", ["tokens", "occlusion"])
def test_voxels_are_kept_only_for_voxel_methods(
    pipeline, brains, small_atlas, monkeypatch, method
):
    kept = []

    def spy(subjects, *arguments, **options):
        kept.extend(subject.processed.data.size > 0 for subject in subjects)
        return attribute_tokens(subjects, *arguments, **options)

    monkeypatch.setattr("brainfeat.reporting.importance.attribute_tokens", spy)
    reporting.attribution(
        pipeline, brains[10:12], Y[10:12], labels_img=small_atlas, method=method
    )
    assert kept == [method != "tokens"] * 2


def test_without_labels_importance_is_the_mean_absolute_effect(
    pipeline, brains, small_atlas
):
    result = reporting.attribution(pipeline, brains[:3], labels_img=small_atlas)
    expected = result.effects.abs().mean()
    np.testing.assert_allclose(
        result.importance["effect"], expected[result.importance.index]
    )
    assert result.importance["share"].sum() == pytest.approx(1, abs=0.2)
    assert (result.group_img.get_fdata() >= 0).all()


def test_scans_are_read_in_parallel(paired, brains, small_atlas):
    model = make_pipeline(paired, LogisticRegression()).fit(brains[:4], Y[:4])
    result = reporting.attribution(model, brains[4:6], labels_img=small_atlas)
    assert result.effects.shape == (2, 9)


def test_regions_pooling_is_supported(
    small_checkpoint, brains, small_atlas, without_registration
):
    assert without_registration is None
    embedder = BrainFoundEmbedder(
        small_checkpoint, pooling="regions", labels_img=small_atlas, device="cpu"
    )
    model = make_pipeline(embedder, StandardScaler(), LogisticRegression())
    model.fit(brains[:10], Y[:10])
    result = reporting.attribution(model, brains[10:], Y[10:], labels_img=small_atlas)
    assert result.importance.index[0] == "region_9"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pipeline": LogisticRegression()}, ConfigError, "expected a Pipeline of a"),
        ({"method": "lime"}, ConfigError, "method: expected one of"),
        ({"y": [0, 1, 2]}, InputError, "two classes for 3 subjects, got 3 for 3"),
        ({"y": None, "cv": 2}, InputError, "cv: needs y to fit again in each fold"),
        (
            {"cv": ShuffleSplit(1, test_size=1, random_state=0)},
            ConfigError,
            "each subject once, as KFold's do, got 2 subjects in none and 0 in several",
        ),
        (
            {"cv": RepeatedKFold(n_splits=3, n_repeats=2)},
            ConfigError,
            "got 0 subjects in none and 3 in several",
        ),
    ],
)
def test_unsupported_arguments_are_rejected(pipeline, brains, change, error, message):
    options = {"pipeline": pipeline, "X": brains[:3], "y": [0, 1, 1]} | change
    with pytest.raises(error, match=message):
        reporting.attribution(**options)


def test_labels_in_another_order_are_rejected(pipeline, brains):
    scans = pd.Series(brains[:3], index=["sub-1", "sub-2", "sub-3"], name="T1w")
    y = pd.Series([1, 0, 1], index=["sub-2", "sub-1", "sub-3"])
    with pytest.raises(InputError, match="y: expected the index of X, got the same"):
        reporting.attribution(pipeline, scans, y)


def test_only_patch_tokens_have_a_position(pipeline, brains):
    pipeline[0].set_params(pooling="cls").fit(brains)
    with pytest.raises(ConfigError, match="got pooling='cls': only these have"):
        reporting.attribution(pipeline, brains[:2])


def test_second_level_model_accepts_the_maps(pipeline, brains, small_atlas):
    result = reporting.attribution(pipeline, brains[:6], labels_img=small_atlas)
    mask = nib.Nifti1Image(
        (result.group_img.get_fdata() > 0).astype(np.uint8), result.group_img.affine
    )
    design = make_second_level_design_matrix([f"s{i}" for i in range(6)])
    model = SecondLevelModel(mask_img=mask)
    model.fit(list(result.template_maps), design_matrix=design)
    contrast = model.compute_contrast("intercept", output_type="z_score")
    assert np.isfinite(contrast.get_fdata()).all()
