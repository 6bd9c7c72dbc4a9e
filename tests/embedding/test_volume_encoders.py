"""Encoders of volumes through the estimators that encoders of slabs have."""

import dataclasses
import pickle

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from nibabel.affines import apply_affine
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.checkpoint.encoder_grid import VolumeTokens, encoder_grid
from brainfeat.embedding.embedder import BrainFoundEmbedder
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import ConfigError, GeometryError
from brainfeat.io.volumes import write_volume
from brainfeat.models.encoders import build_encoder
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.preprocessing import recipes
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.recipes import InputRecipe
from brainfeat.preprocessing.steps import (
    Align,
    CropForeground,
    CropToMultiple,
    FindBrain,
    KeepBlocks,
    Orient,
    Resize,
    SlicesFirst,
    Window,
    ZScore,
)
from brainfeat.reporting.importance import attribution
from brainfeat.volume import Geometry, Volume

SIZES = {"embed_dim": 36, "depth": 2, "num_heads": 3}
THREE = ("T1w", "T1ce", "FLAIR")

# Each as a public encoder is, smaller: its network and how its input is made.
PEERS = {
    "brainiac": (
        VolumeConfig(
            **SIZES,
            modalities=THREE,
            patch_size=(8, 8, 8),
            volume_size=(32, 40, 24),
            feature="first",
        ),
        (
            Align(
                mode="rigid", shape=(66, 78, 63), origin=(-98, -134, -72), spacing=3.0
            ),
            FindBrain(),
            Resize(shape=(32, 40, 24)),
            ZScore(),
        ),
        (32, 40, 24),
    ),
    "3dino": (
        VolumeConfig(
            **SIZES,
            patch_size=(8, 8, 8),
            volume_size=(40, 32, 24),
            has_cls_token=True,
            feature="cls",
        ),
        (
            Orient(codes="RAS"),
            FindBrain(remove=False),
            Window(percentiles=(0.05, 99.95), values=(-1.0, 1.0)),
            CropForeground(above=-1.0),
            Resize(shape=(40, 32, 24)),
        ),
        (40, 32, 24),
    ),
    "bm-mae": (
        VolumeConfig(
            **SIZES,
            modalities=THREE,
            streams="joint",
            patch_size=(8, 8, 8),
            volume_size=(40, 48, 32),
            has_cls_token=True,
            feature="cls",
        ),
        (
            Align(
                mode="rigid", shape=(40, 48, 32), origin=(-78, -111, -57), spacing=4.0
            ),
            FindBrain(),
            Orient(codes="LPS"),
            ZScore(),
        ),
        (40, 48, 32),
    ),
    "neurovfm": (
        VolumeConfig(
            **SIZES,
            patch_size=(2, 8, 8),
            volume_size=(16, 32, 32),
            positions="concatenated",
            background="skipped",
        ),
        (
            Orient(codes="RPI"),
            SlicesFirst(in_plane=3.0, thickness=6.0),
            CropToMultiple(block=(2, 8, 8)),
            KeepBlocks(block=(2, 8, 8), percentile=5.0),
            Window(percentiles=(0.5, 99.5)),
        ),
        None,
    ),
    "simclr": (
        ResNetConfig(
            volume_size=(36, 45, 42), widths=(6, 9), num_blocks=1, stem_stride=2
        ),
        (
            Align(
                mode="rigid", shape=(42, 45, 36), origin=(-84, -106, -65), spacing=4.0
            ),
            FindBrain(),
            Orient(codes="SAR"),
            ZScore(voxels="foreground"),
        ),
        (36, 45, 42),
    ),
}


def make_checkpoint(name, seed=0, **changes):
    encoder, steps, shape = PEERS[name]
    recipe = InputRecipe(name=name, steps=steps, shape=shape)
    config = CheckpointConfig(
        encoder=dataclasses.replace(encoder, **changes),
        preprocessing=recipe.to_dict(),
        pooling="default",
        missing_modalities=True,
    )
    torch.manual_seed(seed)
    network = build_encoder(config.encoder)
    state = {
        key: value + 0.1 * torch.randn_like(value)
        for key, value in network.state_dict().items()
    }
    return Checkpoint(config, state)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("peers")
    return {name: str(make_checkpoint(name).save(root / name)) for name in PEERS}


@pytest.fixture(scope="module")
def in_place():
    """Take images as aligned: registration takes longer than all else together."""
    found = Alignment(np.eye(4), np.eye(4), similarity=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "align_to_template", lambda *_: found)
        yield


@pytest.fixture(scope="module")
def scans(small_brain, tmp_path_factory):
    """Four brains, one on a grid of its own."""
    folder = tmp_path_factory.mktemp("scans")
    paths = []
    for index in range(4):
        rng = np.random.default_rng(index)
        bumps = np.kron(rng.normal(size=(6, 6, 7)), np.ones((11, 13, 9)))
        data = small_brain.data * (1 + 0.1 * bumps) * (1 + 0.05 * (index % 2))
        grid = small_brain.geometry
        if index == 3:
            data, grid = crop_field(data, grid)
        volume = Volume(data.astype(np.float32), grid)
        paths.append(str(write_volume(volume, folder / f"sub-{index}_T1w.nii.gz")))
    return paths


def crop_field(data, grid):
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0, 3, 0]
    cut = data[:, 3:-5]
    return cut, Geometry(cut.shape, affine)


pytestmark = pytest.mark.usefixtures("in_place")


@pytest.mark.parametrize("name", PEERS)
def test_default_pooling_is_the_feature_of_the_authors(name, folders, scans):
    config = PEERS[name][0]
    embedder = BrainFoundEmbedder(folders[name], pooling="default", dtype="float32")
    rows = embedder.fit(scans).transform(scans)
    encoder, table = embedder.read_subjects(scans[:1])
    subject, _ = encoder.preprocess(table.rows[0])
    network = encoder.checkpoint.build_encoder()
    fractions = encoder.grid.token_fractions(subject.foreground)
    with torch.no_grad():
        output = network(
            torch.from_numpy(np.ascontiguousarray(subject.data))[None],
            present=torch.from_numpy(subject.present)[None],
            foreground=torch.from_numpy(fractions > 0)[None],
        )
    tokens = output.patch_tokens[0].flatten(0, 2)
    if config.feature == "cls":
        expected = output.cls_token[0]
    elif config.feature == "first":
        expected = tokens[0]
    elif getattr(config, "background", "kept") == "skipped":
        expected = tokens[torch.from_numpy(fractions > 0).flatten()].mean(0)
    else:
        expected = tokens.mean(0)
    np.testing.assert_allclose(rows[0], expected, rtol=1e-4, atol=1e-5)
    assert rows.shape == (4, config.embed_dim)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("name", PEERS)
def test_background_does_not_count_in_the_mean(name, folders, scans):
    embedder = BrainFoundEmbedder(folders[name], dtype="float32").fit(scans)
    encoder, table = embedder.read_subjects(scans[:1])
    subject, _ = encoder.preprocess(table.rows[0])
    tokens = embedder.transform_dense(scans[:1])[0].get_fdata()
    weights = encoder.grid.token_fractions(subject.foreground)
    assert (weights == 0).any()
    expected = np.einsum("ijk,ijkd->d", weights / weights.sum(), tokens)
    row = embedder.transform(scans[:1])[0]
    np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PEERS)
def test_an_off_centre_block_changes_the_tokens_where_it_lies(name, scans, tmp_path):
    image = nib.load(scans[0])
    data = image.get_fdata(dtype=np.float32)
    center = np.array([44, 52, 26])  # right, front, low
    block = tuple(slice(c - 4, c + 5) for c in center)
    assert (data[block] > 0).all()
    changed = data.copy()
    changed[block] *= 0.35  # darker: percentiles of the scan stay as they are
    world = apply_affine(image.affine, center)
    local = make_local(name).save(tmp_path)
    embedder = BrainFoundEmbedder(local, dtype="float32").fit(scans)
    maps = embedder.transform_dense(
        [image, nib.Nifti1Image(changed, image.affine)], space="native"
    )
    first, second = (image.get_fdata() for image in maps)
    is_encoded = first.any(axis=-1) & second.any(axis=-1)  # background may be skipped
    difference = np.linalg.norm(second - first, axis=-1) * is_encoded
    weights = np.where(difference > 0.5 * difference.max(), difference, 0.0)
    voxels = np.moveaxis(np.indices(difference.shape), 0, -1)
    place = np.einsum("ijk,ijkx->x", weights / weights.sum(), voxels)
    found = apply_affine(maps[1].affine, place)
    edges = np.abs(maps[1].affine[:3, :3]).max(axis=1)
    # Within the block of the token, and that of a residual network about its kernel.
    assert (np.abs(found - world) <= edges * (0.6 if name != "simclr" else 1.0)).all()


def make_local(name):
    """An encoder whose tokens depend on their own patch only."""
    checkpoint = make_checkpoint(name)
    spreading = ("attn.proj.weight", "attn.proj.bias")
    state = {
        key: torch.zeros_like(value) if key.endswith(spreading) else value
        for key, value in checkpoint.state.items()
    }
    return Checkpoint(checkpoint.config, state)


@pytest.mark.parametrize("name", PEERS)
def test_tokens_lie_on_the_centres_of_their_blocks(name):
    grid = encoder_grid(make_checkpoint(name).config)
    shape = PEERS[name][2] or (16, 32, 24)
    affine = np.array([[0, 2.0, 0, 5], [3.0, 0, 0, -7], [0, 0, -4.0, 1], [0, 0, 0, 1]])
    where = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    tokens = grid.token_geometry(Geometry(shape, affine))
    assert tokens.shape == grid.token_shape(shape)
    centers = apply_affine(tokens.affine, np.moveaxis(np.indices(tokens.shape), 0, -1))
    for axis in range(3):
        means = grid.token_fractions(where[..., axis].astype(np.float32))
        inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in means.shape)
        tolerance = 0.01 if name != "simclr" else 2.1  # even blocks about a voxel
        error = np.abs(means - centers[..., axis])[inner]
        assert error.max() <= tolerance
    filled = grid.token_fractions(np.ones(shape, bool))
    np.testing.assert_allclose(filled, 1.0, rtol=1e-6)


def test_volumes_of_another_size_are_reported():
    grid = VolumeTokens(PEERS["3dino"][0])
    with pytest.raises(GeometryError, match=r"multiples of \(8, 8, 8\)"):
        grid.token_shape((40, 33, 24))
    recipe = InputRecipe(
        name="odd", steps=(Resize(shape=(40, 33, 24)),), shape=(40, 33, 24)
    )
    with pytest.raises(ConfigError, match="does not fit the encoder"):
        SubjectEncoder(make_checkpoint("3dino"), preprocessor=recipe)


@pytest.mark.parametrize("name", ["brainiac", "neurovfm", "simclr"])
@pytest.mark.parametrize("pooling", ["cls", "cls+mean"])
def test_class_token_of_encoders_without_one_is_refused(name, pooling):
    with pytest.raises(ConfigError, match="a class token, got one without"):
        SubjectEncoder(make_checkpoint(name), pooling=pooling)


@pytest.mark.parametrize("name", ["3dino", "bm-mae"])
def test_class_token_and_mean_are_concatenated(name, folders, scans):
    embedder = BrainFoundEmbedder(folders[name], dtype="float32")
    both, cls_token, mean = (
        clone(embedder).set_params(pooling=pooling).fit(scans).transform(scans[:2])
        for pooling in ("cls+mean", "cls", "mean")
    )
    np.testing.assert_allclose(both, np.hstack([cls_token, mean]), rtol=1e-5)


@pytest.mark.parametrize("name", PEERS)
def test_rows_depend_on_their_own_subject_only(name, folders, scans):
    embedder = BrainFoundEmbedder(folders[name], pooling="default", dtype="float32")
    embedder.fit(scans)
    alone = np.concatenate([embedder.transform([path]) for path in scans])
    for options in ({"batch_size": 4}, {"n_jobs": 2}):
        other = clone(embedder).set_params(**options).fit(scans)
        np.testing.assert_allclose(other.transform(scans), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PEERS)
def test_pipeline_is_cloned_pickled_and_cached(name, folders, scans, tmp_path):
    embedder = BrainFoundEmbedder(
        folders[name], pooling="default", memory=str(tmp_path), dtype="float32"
    )
    pipeline = make_pipeline(clone(embedder), LogisticRegression())
    y = np.arange(4) % 2
    pipeline.fit(scans, y)
    fitted = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(fitted.predict(scans), pipeline.predict(scans))
    entries = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(entries) >= 4
    changed = tuple(s for s in PEERS[name][1] if not isinstance(s, ZScore | Window))
    other = InputRecipe(name="other", steps=changed, shape=PEERS[name][2])
    embedder.set_params(preprocessor=other).fit(scans).transform(scans[:1])
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) > len(entries)
    assert embedder.preprocessing_fingerprint_ == other.fingerprint


@pytest.mark.parametrize("name", ["brainiac", "bm-mae"])
def test_several_contrasts_are_joined_as_the_authors_do(
    name, folders, scans, small_brain, tmp_path
):
    mask = Volume((small_brain.data > 0).astype(np.uint8), small_brain.geometry)
    path = str(write_volume(mask, tmp_path / "mask.nii.gz"))
    recipe = InputRecipe(
        name=name, steps=PEERS[name][1], shape=PEERS[name][2], brain_mask=path
    )
    X = pd.DataFrame({"T1w": scans[:2], "T1ce": scans[1:3], "FLAIR": [None, scans[0]]})
    embedder = BrainFoundEmbedder(
        folders[name], pooling="default", preprocessor=recipe, dtype="float32"
    )
    rows = embedder.fit(X).transform(X)
    assert embedder.modalities_ == THREE
    singles = [
        embedder.transform(pd.DataFrame({column: [path]}))[0]
        for column, path in (("T1w", scans[0]), ("T1ce", scans[1]))
    ]
    mean = np.mean(singles, axis=0)
    is_mean = np.allclose(rows[0], mean, rtol=1e-3, atol=1e-4)
    # One pass each and the mean, or one sequence of all.
    assert is_mean == (name == "brainiac")
    assert not np.allclose(rows[0], singles[0], atol=1e-3)


@pytest.mark.parametrize("name", PEERS)
def test_regions_follow_the_subject(name, folders, scans, small_brain):
    labels = np.zeros(small_brain.data.shape, np.int16)
    labels[20:33, 20:60, 20:45], labels[33:46, 20:60, 20:45] = 3, 8
    atlas = nib.Nifti1Image(labels, small_brain.geometry.affine)
    embedder = BrainFoundEmbedder(
        folders[name], pooling="regions", labels_img=atlas, dtype="float32"
    )
    rows = embedder.fit(scans).transform(scans)
    assert rows.shape == (4, 2 * PEERS[name][0].embed_dim)
    # By hand, from the dense map in template space.
    (tokens,) = embedder.transform_dense(scans[:1], space="template")
    encoder, table = embedder.read_subjects(scans[:1])
    subject, _ = encoder.preprocess(table.rows[0])
    inside = encoder.grid.token_fractions(subject.foreground) > 0
    left = nearest_labels(labels == 3, small_brain.geometry, subject.geometry)
    weights = encoder.grid.token_fractions(left) * inside
    expected = np.einsum("ijk,ijkd->d", weights / weights.sum(), tokens.get_fdata())
    dim = PEERS[name][0].embed_dim
    np.testing.assert_allclose(rows[0][:dim], expected, rtol=1e-3, atol=1e-4)


def nearest_labels(mask, source, grid):
    world = apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))
    voxels = np.rint(apply_affine(np.linalg.inv(source.affine), world)).astype(int)
    inside = ((voxels >= 0) & (voxels < mask.shape)).all(axis=-1)
    i, j, k = np.moveaxis(np.where(inside[..., None], voxels, 0), -1, 0)
    return mask[i, j, k] & inside


@pytest.mark.parametrize("pooling", ["mean", "default"])
@pytest.mark.parametrize("name", PEERS)
def test_attribution_maps_lie_on_each_scan(name, pooling, folders, scans, small_brain):
    if pooling == "default" and PEERS[name][0].feature == "cls":
        pytest.skip("a class token has no position")
    labels = (small_brain.data > 0).astype(np.int16)
    labels[33:][labels[33:] > 0] = 2
    atlas = nib.Nifti1Image(labels, small_brain.geometry.affine)
    pipeline = make_pipeline(
        BrainFoundEmbedder(folders[name], pooling=pooling, dtype="float32"),
        LogisticRegression(),
    )
    y = np.arange(4) % 2
    pipeline.fit(scans, y)
    result = attribution(pipeline, scans, y, labels_img=atlas)
    assert result.effects.shape == (4, 2)
    assert result.maps[3].shape == nib.load(scans[3]).shape
    shapes = {image.shape for image in result.template_maps}
    assert len(shapes) == 1
    assert result.group_img.shape in shapes


@pytest.mark.slow  # captum
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
@pytest.mark.parametrize("name", ["brainiac", "neurovfm", "simclr"])
def test_voxels_of_volumes_are_attributed(name, method, folders, scans, small_brain):
    pytest.importorskip("captum")
    atlas = nib.Nifti1Image(
        (small_brain.data > 0).astype(np.int16), small_brain.geometry.affine
    )
    pipeline = make_pipeline(
        BrainFoundEmbedder(folders[name], dtype="float32"), LogisticRegression()
    )
    y = np.arange(4) % 2
    pipeline.fit(scans, y)
    result = attribution(pipeline, scans[2:], y[2:], labels_img=atlas, method=method)
    values = result.maps[0].get_fdata()
    assert values.shape == nib.load(scans[2]).shape
    assert np.isfinite(values).all()
    assert values.any()


def test_preprocessor_of_this_library_serves_encoders_of_volumes(folders, scans):
    ours = Preprocessor(shape=(40, 48, 32), spacing=4.0, alignment="none")
    embedder = BrainFoundEmbedder(folders["3dino"], preprocessor=ours, dtype="float32")
    rows = embedder.fit(scans).transform(scans[:2])
    assert np.isfinite(rows).all()
    assert not np.allclose(rows[0], rows[1])
