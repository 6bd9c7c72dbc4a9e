from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from sklearn.decomposition import PCA

from brainfeat import BrainFoundEmbedder
from brainfeat.embedding.dense import check_dense_options, to_dense_images
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.embedding.tokens import stream_tokens
from brainfeat.exceptions import ConfigError
from brainfeat.preprocessing import preprocessor
from brainfeat.preprocessing.alignment import Alignment
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.subjects.subject import Subject

# 15 degrees about one axis, then 8 about another, and a shift.
_C, _S, _C2, _S2 = 0.965925826, 0.258819045, 0.990268069, 0.139173101
TURN = np.array([[_C, -_S, 0, 5.0], [_S, _C, 0, -3.0], [0, 0, 1, 8.0], [0, 0, 0, 1]])
TURN = TURN @ np.array(
    [[1, 0, 0, 0], [0, _C2, -_S2, 0], [0, _S2, _C2, 0], [0, 0, 0, 1]]
)


@pytest.fixture
def embedder(checkpoint_path):
    return BrainFoundEmbedder(
        checkpoint_path,
        preprocessor=Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="rigid"),
        device="cpu",
        dtype="float32",
    )


@pytest.fixture
def registered(monkeypatch):
    """Replace registration by the rotation that a scan was stored with."""

    def to_turn(turn):
        found = Alignment(turn, turn, similarity=1.0)
        monkeypatch.setattr(preprocessor, "align_to_template", lambda *_: found)

    return to_turn


def stored(base, form):
    """The same brain as a scanner may store it, and its rotation."""
    if form == "PIR":
        own = nib.orientations.io_orientation(base.affine)
        ornt = nib.orientations.axcodes2ornt("PIR")
        turned = base.as_reoriented(nib.orientations.ornt_transform(own, ornt))
        return turned, np.eye(4)
    if form == "oblique":
        return nib.Nifti1Image(base.get_fdata(), TURN @ base.affine), TURN
    return base, np.eye(4)


def world(affine, shape):
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("form", ["RAS", "PIR", "oblique"])
def test_token_lies_at_the_mean_of_its_block_in_the_scanner(
    embedder, modality_paths, registered, form
):
    image, turn = stored(nib.load(modality_paths["T1w"][0]), form)
    registered(turn)
    (dense,) = embedder.fit([image]).transform_dense([image])
    # The grid of the preprocessed volume, in the scanner, cut into blocks by hand.
    grid = embedder.preprocessor.geometry
    places = world(turn @ grid.affine, grid.shape)
    blocks = places.reshape(5, 8, 7, 8, 18, 2, 3).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(
        world(dense.affine, dense.shape[:3]), blocks, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("form", ["PIR", "oblique"])
def test_tokens_move_with_the_brain(embedder, modality_paths, registered, form):
    path = modality_paths["T1w"][0]
    registered(np.eye(4))
    (straight,) = embedder.fit([path]).transform_dense([path])
    image, turn = stored(nib.load(path), form)
    registered(turn)
    (moved,) = embedder.transform_dense([image])
    np.testing.assert_allclose(moved.affine, turn @ straight.affine, atol=1e-6)
    np.testing.assert_allclose(
        moved.get_fdata(),
        straight.get_fdata(),
        atol=2e-3 if form == "oblique" else 1e-5,
    )
    (template,) = embedder.transform_dense([image], space="template")
    np.testing.assert_allclose(template.affine, straight.affine, atol=1e-6)


@pytest.mark.parametrize("form", ["RAS", "PIR", "oblique"])
def test_block_means_of_a_ramp_are_the_ramp_at_the_tokens(
    checkpoint, small_brain, registered, form
):
    # Intensities that grow along the scanner's axes, within the brain.
    slope = np.array([1.0, -0.7, 0.4])
    inside = small_brain.data > 0
    ramp = world(small_brain.geometry.affine, small_brain.data.shape) @ slope + 500
    base = nib.Nifti1Image(ramp.astype(np.float32), small_brain.geometry.affine)
    image, turn = stored(base, form)
    registered(turn)
    preprocessor = Preprocessor(
        shape=(40, 56, 36),
        spacing=4.0,
        brain_mask=lambda volume: mask_like(volume, inside, turn, base.affine),
        percentiles=(0.0, 100.0),
    )
    encoder = SubjectEncoder(checkpoint, preprocessor=preprocessor, dtype="float32")
    (outcome,) = stream_tokens(encoder, [Subject("ramp", {"T1w": image})])
    found = outcome.unwrap()
    means = found.processed.data[0].reshape(5, 8, 7, 8, 18, 2).mean(axis=(1, 3, 5))
    whole = found.fractions == 1
    assert whole.sum() > 50
    to_template = np.linalg.inv(turn)
    places = world(found.scanner_geometry.affine, means.shape)
    places = places @ to_template[:3, :3].T + to_template[:3, 3]
    expected = places[whole] @ slope
    # Standardising is affine: two numbers are free, all others must agree.
    fitted = np.polynomial.Polynomial.fit(expected, means[whole], 1)
    np.testing.assert_allclose(fitted(expected), means[whole], atol=3e-5)


def mask_like(volume, inside, turn, affine):
    """The brain on the grid of a reoriented or rotated volume."""
    to_voxel = np.linalg.inv(turn @ affine) @ volume.geometry.affine
    voxels = np.rint(world(to_voxel, volume.data.shape)).astype(int)
    return inside[tuple(np.moveaxis(voxels, -1, 0))]


@pytest.mark.usefixtures("without_registration")
def test_components_are_fitted_to_all_brains(checkpoint, subjects):
    encoder = SubjectEncoder(checkpoint, device="cpu", dtype="float32")
    streamed = [o.unwrap() for o in stream_tokens(encoder, subjects[:2])]
    check_dense_options("template", np.int64(3), 24)
    images = to_dense_images(streamed, space="template", n_components=np.int64(3))
    inside = [subject.fractions > 0 for subject in streamed]
    tokens = [s.tokens[mask] for s, mask in zip(streamed, inside, strict=True)]
    expected = PCA(3, svd_solver="full").fit_transform(np.concatenate(tokens))
    found = np.concatenate(
        [i.get_fdata()[mask] for i, mask in zip(images, inside, strict=True)]
    )
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-3)
    for image, mask in zip(images, inside, strict=True):
        assert image.shape == (5, 7, 18, 3)
        assert not image.get_fdata()[~mask].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "scanner"}, "space: expected one of"),
        ({"n_components": 0}, "n_components: expected None or 1 to 24, got 0"),
        ({"n_components": 25}, "n_components: expected None or 1 to 24, got 25"),
        ({"n_components": True}, "n_components: expected None or 1 to 24, got True"),
    ],
)
def test_impossible_options_are_refused_before_any_scan_is_read(
    embedder, modality_paths, options, message
):
    with pytest.raises(ConfigError, match=message):
        embedder.fit().transform_dense(modality_paths["T1w"][:1], **options)


def test_images_are_float32_in_mm(embedder, modality_paths, registered):
    registered(np.eye(4))
    embedder = embedder.set_params(
        preprocessor=replace(embedder.preprocessor, alignment="none")
    )
    images = embedder.fit().transform_dense(modality_paths["T1w"][:2])
    for image in images:
        assert isinstance(image, nib.Nifti1Image)
        assert image.get_data_dtype() == np.float32
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.shape == (5, 7, 18, 24)


def test_voxels_are_not_kept_with_the_tokens(
    embedder, modality_paths, registered, monkeypatch
):
    registered(np.eye(4))
    kept = []

    def look(subjects, **options):
        kept.extend(subject.processed.data.size for subject in subjects)
        return to_dense_images(subjects, **options)

    monkeypatch.setattr("brainfeat.embedding.embedder.to_dense_images", look)
    images = embedder.fit().transform_dense(modality_paths["T1w"][:3])
    assert [image.shape for image in images] == [(5, 7, 18, 24)] * 3
    assert kept == [0, 0, 0]
