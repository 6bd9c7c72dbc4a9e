import pickle

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score

from brainfeat import SegmentationEstimator
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    InputError,
    ModalityError,
    VolumeError,
    VolumeNotFoundError,
)
from brainfeat.io.volumes import read_labels, read_volume, to_image, write_volume
from brainfeat.models.config import EncoderConfig
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.resampling import resample
from brainfeat.segmentation import training
from brainfeat.volume import Geometry, Volume

pytestmark = pytest.mark.usefixtures("without_registration")

N_SUBJECTS = 4
CLASSES = [0, 7, 300]
ENCODER = EncoderConfig(
    modalities=("T1w", "T2w", "FLAIR"),
    thickness=2,
    image_size=(24, 16),
    embed_dim=12,
    depth=2,
    num_heads=2,
)
GRID = Preprocessor(shape=(16, 24, 14), spacing=10.0, alignment="none")


def label(volume):
    """Two classes: the front and the back of a brain."""
    labels = np.where(volume.data > 0, 7, 0)
    labels[:, labels.shape[1] // 2 :] *= 300
    labels[labels == 7 * 300] = 300
    return Volume(labels.astype(np.int32), volume.geometry)


@pytest.fixture(scope="module")
def small(make_checkpoint, tmp_path_factory):
    """Folder of a checkpoint on a coarse grid."""
    made = make_checkpoint(encoder=ENCODER, preprocessing=GRID.to_dict())
    return str(made.save(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="module")
def paths(modality_paths):
    return modality_paths["T1w"][:N_SUBJECTS]


@pytest.fixture(scope="module")
def label_maps(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return [
        str(write_volume(label(read_volume(path)), folder / f"{index}_dseg.nii.gz"))
        for index, path in enumerate(paths)
    ]


@pytest.fixture
def estimator(small):
    return SegmentationEstimator(
        small, n_steps=3, n_folds=0, random_state=0, device="cpu"
    )


@pytest.fixture(scope="module")
def fitted(small, paths, label_maps, without_registration):  # noqa: ARG001
    model = SegmentationEstimator(small, n_steps=16, random_state=0, device="cpu")
    return model.fit(paths[:3], label_maps[:3])


def same(first, second):
    np.testing.assert_array_equal(first.dataobj, second.dataobj)


def test_model_learns_from_three_subjects(fitted, paths, label_maps):
    assert fitted.classes_.tolist() == CLASSES
    assert len(fitted.loss_curve_) == 16
    assert np.mean(fitted.loss_curve_[-5:]) < 0.8 * fitted.loss_curve_[0]
    assert fitted.score(paths[3:], label_maps[3:]) > 0.75


def test_progress_is_logged_if_verbose(estimator, paths, label_maps, caplog):
    caplog.set_level("INFO", logger="brainfeat")
    estimator.set_params(verbose=1, n_steps=1, n_folds=3).fit(paths[:2], label_maps[:2])
    estimator.predict(paths[2:])
    messages = [message.split(",")[0] for message in caplog.messages]
    assert messages == [
        "[1/2] preprocessing",
        "[2/2] preprocessing",
        "[1/1] training",
        "[1/2] validating",
        "[2/2] validating",
        "[1/2] segmenting",
        "[2/2] segmenting",
    ]


def test_label_maps_are_in_the_image_s_own_space(fitted, paths):
    (image,) = fitted.predict(paths[3:])
    source = nib.load(paths[3])
    assert isinstance(image, nib.Nifti1Image)
    assert image.shape == source.shape
    assert image.get_data_dtype() == np.uint16  # the smallest that holds 300
    np.testing.assert_array_equal(image.affine, source.affine)
    assert image.header.get_xyzt_units() == source.header.get_xyzt_units()
    assert set(np.unique(image.dataobj)) <= set(CLASSES)


def oblique(image):
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    # The array axes are rotated, the brain is not.
    affine = turn @ np.diag([2.0, 3.0, 4.0, 1.0])
    shape = (110, 80, 50)
    affine[:3, 3] = [0, -18, 10] - affine[:3, :3] @ (np.array(shape) / 2)
    return resliced(image, shape, affine)


def resliced(image, shape, affine):
    data = resample(read_volume(image), Geometry(shape, affine), np.eye(4))
    return nib.Nifti1Image(data, affine)


def reoriented(codes):
    def turn(image):
        now = nib.orientations.io_orientation(image.affine)
        goal = nib.orientations.axcodes2ornt(codes)
        return image.as_reoriented(nib.orientations.ornt_transform(now, goal))

    return turn


NATIVE = {
    "LPS": reoriented("LPS"),
    "PIR": reoriented("PIR"),
    "SAL": reoriented("SAL"),
    "oblique": oblique,
    "anisotropic": lambda image: resliced(
        image,
        (220, 260, 36),
        nib.affines.from_matvec(np.diag([0.9, 0.9, 5]), [-99, -130, -70]),
    ),
    "cropped": lambda image: image.slicer[8:50, 5:, 10:60],
}


@pytest.mark.parametrize("name", NATIVE)
def test_prediction_is_the_same_in_any_space(fitted, paths, name):
    source = nib.load(paths[3])
    changed = NATIVE[name](source)
    straight, turned = fitted.predict([source, changed])
    assert turned.shape == changed.shape
    np.testing.assert_allclose(turned.affine, changed.affine, atol=1e-5)
    if name in {"LPS", "PIR", "SAL"}:
        # Nothing is interpolated on the way, so the same voxels get the same labels.
        same(NATIVE[name](straight), turned)
        return
    back = read_labels(resliced_labels(straight, turned))
    agreement = (back.data == np.asarray(turned.dataobj)).mean()
    assert agreement > 0.95


def resliced_labels(labels, like):
    grid = Geometry(like.shape, like.affine)
    data = resample(read_labels(labels), grid, np.eye(4), interpolation="nearest")
    return nib.Nifti1Image(data, like.affine)


def test_probabilities_are_those_of_the_labels(fitted, paths):
    (probabilities,) = fitted.predict_proba(paths[3:])
    (labels,) = fitted.predict(paths[3:])
    values = np.asarray(probabilities.dataobj)
    assert values.shape == (*labels.shape, 3)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.sum(axis=-1), 1.0, atol=2e-3)
    agreement = fitted.classes_[values.argmax(axis=-1)] == np.asarray(labels.dataobj)
    assert agreement.mean() > 0.999


def test_table_has_a_row_a_subject_and_a_column_a_class(fitted, paths, label_maps):
    table = fitted.score_table(paths[2:], label_maps[2:])
    assert table.columns.tolist() == CLASSES[1:]
    assert table.index.tolist() == paths[2:]
    mean = fitted.score(paths[2:], label_maps[2:])
    assert mean == pytest.approx(np.nanmean(table.to_numpy()))


def test_table_has_the_index_of_its_input(fitted, paths, label_maps):
    subjects = pd.DataFrame({"T1w": paths[2:]}, index=[10159, 10171])
    joined = subjects.join(fitted.score_table(subjects, label_maps[2:]))
    assert joined.notna().all(axis=None)
    visits = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["who", "visit"])
    table = fitted.score_table(subjects.set_axis(visits), label_maps[2:])
    assert table.index.equals(visits)


def test_labels_on_another_grid_are_scored_in_world_space(fitted, paths, label_maps):
    turned = reoriented("PIR")(nib.load(label_maps[3]))
    own = fitted.score(paths[3:], label_maps[3:])
    assert fitted.score(paths[3:], [turned]) == pytest.approx(own)


def test_labels_on_another_grid_train_the_same_model(estimator, paths, label_maps):
    turned = [reoriented("LPS")(nib.load(path)) for path in label_maps[:1]]
    first = clone(estimator).fit(paths[:1], label_maps[:1])
    second = clone(estimator).fit(paths[:1], turned)
    assert first.loss_curve_ == second.loss_curve_


def test_same_seed_gives_the_same_model(estimator, paths, label_maps):
    first, again = (clone(estimator).fit(paths[:2], label_maps[:2]) for _ in range(2))
    assert first.loss_curve_ == again.loss_curve_
    same(first.predict(paths[3:])[0], again.predict(paths[3:])[0])
    other = clone(estimator).set_params(random_state=1)
    assert other.fit(paths[:2], label_maps[:2]).loss_curve_ != first.loss_curve_


def test_saved_model_predicts_the_same(fitted, paths, tmp_path):
    loaded = SegmentationEstimator.load(fitted.save(tmp_path / "model"))
    same(loaded.predict(paths[3:])[0], fitted.predict(paths[3:])[0])
    assert loaded.classes_.tolist() == CLASSES
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {
        ".safetensors",
        ".json",
        ".md",
    }


def test_model_of_a_relative_path_predicts_in_any_folder(
    fitted, paths, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fitted.save("~/model") == tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    loaded = SegmentationEstimator.load("model")
    monkeypatch.chdir(tmp_path.parent)
    same(loaded.predict(paths[3:])[0], fitted.predict(paths[3:])[0])


def test_model_may_be_saved_in_the_home_folder(fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fitted.save("~/model") == tmp_path / "model"
    loaded = SegmentationEstimator.load("~/model")
    assert loaded.checkpoint_fingerprint_ == fitted.checkpoint_fingerprint_


def test_pickled_model_predicts_the_same(fitted, paths, tmp_path):
    path = tmp_path / "model.joblib"
    joblib.dump(fitted, path)
    for copy in (joblib.load(path), pickle.loads(pickle.dumps(fitted))):
        same(copy.predict(paths[3:])[0], fitted.predict(paths[3:])[0])


def test_cross_validation_and_search(estimator, paths, label_maps):
    estimator.set_params(n_steps=1)
    scores = cross_val_score(
        estimator, paths, label_maps, groups=[0, 0, 1, 1], cv=GroupKFold(2)
    )
    assert np.isfinite(scores).all()
    frame = pd.DataFrame({"T1w": paths})
    search = GridSearchCV(estimator, {"learning_rate": [1e-3]}, cv=2)
    search.fit(frame, pd.Series(label_maps))
    assert search.best_params_ == {"learning_rate": 1e-3}


def test_several_modalities_with_gaps(estimator, modality_paths, label_maps):
    X = pd.DataFrame({name: paths[:3] for name, paths in modality_paths.items()})
    X.loc[1, "FLAIR"] = None
    estimator.fit(X, label_maps[:3])
    assert estimator.modalities_ == ("T1w", "T2w", "FLAIR")
    maps = estimator.predict([{"T2w": modality_paths["T2w"][3]}, dict(X.iloc[0])])
    assert [m.shape for m in maps] == [nib.load(label_maps[0]).shape] * 2


def test_column_without_any_image_is_ignored(
    fitted, estimator, paths, label_maps, modality_paths
):
    X = pd.DataFrame({"T1w": paths[3:], "FLAIR": [None]})
    same(fitted.predict(X)[0], fitted.predict(paths[3:])[0])
    estimator.fit(X, label_maps[3:])
    assert estimator.modalities_ == ("T1w",)
    with pytest.raises(ModalityError, match="fitted on modalities"):
        estimator.predict([{"FLAIR": modality_paths["FLAIR"][0]}])


def test_unseen_modality_is_refused(fitted, modality_paths):
    with pytest.raises(ModalityError, match="fitted on modalities"):
        fitted.predict([{"T2w": modality_paths["T2w"][0]}])


def test_encoder_can_be_trained_too(estimator, paths, label_maps, tmp_path):
    estimator.set_params(freeze_encoder=False).fit(paths[:1], label_maps[:1])
    assert estimator.tuned_checkpoint_ is not None
    frozen = clone(estimator).set_params(freeze_encoder=True)
    frozen.fit(paths[:1], label_maps[:1])
    assert estimator.checkpoint_fingerprint_ != frozen.checkpoint_fingerprint_
    loaded = SegmentationEstimator.load(estimator.save(tmp_path / "model"))
    same(loaded.predict(paths[3:])[0], estimator.predict(paths[3:])[0])


def test_held_out_subjects_stop_the_training_early(
    estimator, paths, label_maps, monkeypatch
):
    scores = iter([0.5, 0.4, 0.3, 0.2])
    monkeypatch.setattr(training, "_validate", lambda *_: next(scores))
    estimator.set_params(n_steps=30, validation_fraction=0.5, n_jobs=2)
    estimator.fit(paths[:2], label_maps[:2])
    assert estimator.validation_scores_ == [0.5, 0.4, 0.3, 0.2]
    assert len(estimator.loss_curve_) == 12


def test_participants_are_held_out_with_all_their_scans(estimator, paths, label_maps):
    estimator.set_params(validation_fraction=0.5)
    one, two = (pd.Series(paths[:2], index=i) for i in (["a", "a"], ["a", "b"]))
    assert estimator.fit(one, label_maps[:2]).validation_scores_ == []
    assert len(estimator.fit(two, label_maps[:2]).validation_scores_) > 0


def test_people_are_held_out_by_turns(fitted):
    """Three brains that are much alike: what is told is what `score` gives."""
    assert fitted.held_out_score_ > 0.5
    assert list(fitted.held_out_scores_) == ["class_7", "class_300"]
    assert fitted.modality_scores_ == {"T1w": pytest.approx(fitted.held_out_score_)}


def test_one_person_has_no_held_out_dice(estimator, paths, label_maps):
    for n_folds, n_people in ((3, 1), (0, 2), (1, 2)):
        estimator.set_params(n_folds=n_folds, n_steps=1)
        estimator.fit(paths[:n_people], label_maps[:n_people])
        assert np.isnan(estimator.held_out_score_)


def test_classes_have_names_in_tables(estimator, paths, label_maps):
    estimator.fit(paths[:1], label_maps[:1], names={7: "front", 8: "unused"})
    assert estimator.names_ == {0: "background", 7: "front", 300: "class_300"}
    assert [*estimator.score_table(paths[:1], label_maps[:1])] == ["front", 300]
    table = estimator.volumes(pd.Series(paths[:2], index=["a", "b"]))
    assert table.index.tolist() == ["a", "b"]
    images = estimator.predict(paths[:2])
    for row, image in zip(table.to_dict("records"), images, strict=True):
        ml = np.prod(image.header.get_zooms()) / 1000
        count = (np.asarray(image.dataobj) == 7).sum()
        assert row["front_ml"] == pytest.approx(ml * count, rel=1e-5)
    with pytest.raises(InputError, match="expected a name for each label"):
        estimator.fit(paths[:1], label_maps[:1], names={"front": 7})


def test_maps_lie_on_the_grid_of_the_labels(estimator, modality_paths, label_maps):
    """As where lesions are drawn on FLAIR, and T1w comes first."""
    flair = [NATIVE["cropped"](nib.load(p)) for p in modality_paths["FLAIR"][:2]]
    drawn = [NATIVE["cropped"](nib.load(path)) for path in label_maps[:2]]
    X = pd.DataFrame({"T1w": modality_paths["T1w"][:2], "FLAIR": flair})
    estimator.fit(X, drawn)
    assert estimator.label_grid_ == "FLAIR"
    shapes = [m.shape for m in estimator.predict([dict(X.iloc[0]), {"T1w": X.T1w[1]}])]
    assert shapes == [drawn[0].shape, nib.load(X.T1w[1]).shape]
    estimator.set_params(grid="first")
    (first,) = estimator.predict([dict(X.iloc[0])])
    assert first.shape == nib.load(X.T1w[0]).shape
    with pytest.raises(ConfigError, match=r"^grid: expected 'label'"):
        estimator.set_params(grid="T2w").predict([dict(X.iloc[0])])


def test_fewer_modalities_are_reported_or_refused(
    estimator, modality_paths, label_maps, caplog
):
    X = pd.DataFrame({name: paths[:3] for name, paths in modality_paths.items()})
    estimator.fit(X, label_maps[:3])
    estimator.predict([{"T1w": X.T1w[0], "FLAIR": X.FLAIR[0]}])
    (message,) = [text for text in caplog.messages if "fewer modalities" in text]
    assert message.startswith("1 subjects have fewer modalities than the training: 1")
    with pytest.raises(ModalityError, match=r"as in the training, got FLAIR; add the"):
        estimator.predict([{"FLAIR": X.FLAIR[0]}])


def test_negative_labels_come_back(estimator, paths, label_maps):
    signed = []
    for path in label_maps[:1]:
        labels = read_labels(path)
        data = np.where(labels.data == 7, -5, labels.data)
        signed.append(to_image(Volume(data, labels.geometry)))
    estimator.fit(paths[:1], signed)
    assert estimator.classes_.tolist() == [0, -5, 300]
    (image,) = estimator.predict(paths[:1])
    assert image.get_data_dtype() == np.int32


# Errors are raised before the training starts.


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("the training started")

    monkeypatch.setattr("brainfeat.segmentation.fitting.train", refuse)


def empty(labels):
    return Volume(np.zeros_like(labels.data), labels.geometry)


def far_away(labels):
    affine = labels.geometry.affine.copy()
    affine[:3, 3] += 500
    return Volume(labels.data, Geometry(labels.geometry.shape, affine))


def fractions(labels):
    return Volume(labels.data.astype(np.float32) / 2, labels.geometry)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (far_away, InputError, "expected labels where the brain"),
        (fractions, VolumeError, "expected integer labels, got 3.5"),
    ],
)
def test_bad_label_map_is_named(
    estimator, paths, label_maps, tmp_path, change, error, message
):
    bad = change(read_labels(label_maps[1]))
    path = str(write_volume(bad, tmp_path / "bad_dseg.nii.gz"))
    with pytest.raises(error, match=message) as caught:
        estimator.fit(paths[:2], [label_maps[0], path])
    assert str(caught.value).startswith(path)


def test_images_in_memory_are_named_by_their_index(fitted, paths, label_maps):
    good, flat = nib.load(paths[3]), to_image(empty(read_volume(paths[2])))
    with pytest.raises(VolumeError, match=r"^X\[1\]: .*expected contrast"):
        fitted.predict([good, flat])
    with pytest.raises(VolumeError, match=r"^X\[1\]: .*expected contrast"):
        clone(fitted).fit([good, flat], label_maps[:2])
    broken = to_image(fractions(read_labels(label_maps[0])))
    message = r"^label map of X\[0\]: .*expected integer labels, got 3\.5"
    with pytest.raises(VolumeError, match=message):
        clone(fitted).fit([good], [broken])
    with pytest.raises(VolumeError, match=message):
        fitted.score([good], [broken])


@pytest.mark.usefixtures("no_training")
def test_class_that_vanishes_is_named(estimator, paths, label_maps, tmp_path):
    labels = read_labels(label_maps[0])
    # One small voxel in a corner of a grid that is larger than the brain's.
    shape = tuple(3 * size for size in labels.geometry.shape)
    affine = labels.geometry.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array(labels.geometry.shape)
    data = np.zeros(shape, np.int32)
    inner = tuple(slice(size, 2 * size) for size in labels.geometry.shape)
    data[inner] = labels.data
    data[0, 0, 0] = 44
    path = write_volume(Volume(data, Geometry(shape, affine)), tmp_path / "x.nii.gz")
    with pytest.raises(InputError, match=r"x\.nii\.gz: expected class 44"):
        estimator.fit(paths[:1], [str(path)])


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_image_without_label_map_is_named(estimator, paths, label_maps, missing):
    with pytest.raises(InputError, match="expected a label map, got none") as caught:
        estimator.fit(paths[:2], [label_maps[0], missing])
    assert str(caught.value).startswith(paths[1])


@pytest.mark.usefixtures("no_training")
def test_other_forms_of_y_are_refused(estimator, paths, label_maps):
    with pytest.raises(InputError, match="one label map for each of 2 subjects, got 1"):
        estimator.fit(paths[:2], label_maps[:1])
    with pytest.raises(VolumeNotFoundError, match=r"nothing\.nii\.gz: no such file"):
        estimator.fit(paths[:1], ["nothing.nii.gz"])
    with pytest.raises(InputError, match="got int"):
        estimator.fit(paths[:1], [3])
    with pytest.raises(
        InputError, match=r"got an array of shape \(4, 5, 6\)"
    ) as caught:
        estimator.fit(paths[:2], [label_maps[0], np.zeros((4, 5, 6), int)])
    assert str(caught.value).startswith(paths[1])


def test_truth_outside_its_image_is_refused(fitted, paths, label_maps):
    image = nib.load(label_maps[1])
    affine = image.affine.copy()
    affine[:3, 3] += 500.0
    away = nib.Nifti1Image(image.get_fdata().astype(np.int16), affine)
    with pytest.raises(InputError, match=r"label map of .*: expected labels where"):
        fitted.score(paths[:2], [label_maps[0], away])


def test_label_map_without_an_affine_is_refused(estimator, fitted, paths, label_maps):
    # As numpy.load and Nifti1Image(array, numpy.eye(4)) leave it.
    unplaced = nib.Nifti1Image(read_labels(label_maps[1]).data, np.eye(4))
    message = r"label map of .*: expected the affine of its image, .* got the identity"
    with pytest.raises(InputError, match=message):
        estimator.fit(paths[:2], [label_maps[0], unplaced])
    with pytest.raises(InputError, match=message):
        fitted.score(paths[:2], [label_maps[0], unplaced])
    # An image that lost its affine, too, matches.
    image = nib.Nifti1Image(read_volume(paths[1]).data, np.eye(4))
    assert fitted.score([image], [unplaced]) >= 0.0


def test_label_smaller_than_a_voxel_of_the_image_can_be_scored(fitted, paths):
    affine = nib.load(paths[1]).affine @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    labels = np.zeros((60, 63, 66), np.int16)
    labels[31, 34, 37] = 7  # between the centres of voxels
    table = fitted.score_table(paths[1:2], [nib.Nifti1Image(labels, affine)])
    assert not (table > 0).any(axis=None)


def test_subject_without_labels_is_trained_on_and_scored(estimator, paths, label_maps):
    nothing = to_image(empty(read_labels(label_maps[1])))
    lesions = read_labels(label_maps[0])
    lesions.data[lesions.data == 7] = 0
    estimator.fit(paths[:2], [to_image(lesions), nothing])
    assert estimator.classes_.tolist() == [0, 300]
    with torch.no_grad():
        estimator.decoder_.head.bias[0] = 99.0  # predict background only
    assert estimator.score(paths[:2], [to_image(lesions), nothing]) == 0.0
    assert np.isnan(estimator.score(paths[1:2], [nothing]))


def test_class_unknown_to_the_training_is_named(fitted, paths, tmp_path):
    labels = label(read_volume(paths[3]))
    labels.data[labels.data == 7] = 9
    path = str(write_volume(labels, tmp_path / "other_dseg.nii.gz"))
    with pytest.raises(InputError, match=r"got \[9\] too") as caught:
        fitted.score(paths[3:], [path])
    assert str(caught.value).startswith(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_steps", 0),
        ("n_steps", 2.5),
        ("learning_rate", -1.0),
        ("learning_rate", True),
        ("freeze_encoder", "no"),
        ("batch_size", 0),
        ("where", "neck"),
        ("grid", "T2w"),
        ("n_folds", -1),
        ("validation_fraction", 1.0),
        ("checkpoint", 3),
        ("device", "nowhere"),
        ("random_state", "seed"),
        ("n_jobs", 0),
        ("n_jobs", 1.5),
    ],
)
def test_invalid_parameter_is_named(estimator, paths, label_maps, name, value):
    with pytest.raises(ConfigError, match=f"^{name}: expected"):
        estimator.set_params(**{name: value}).fit(paths[:1], label_maps[:1])


def test_unfitted_estimator_raises_not_fitted_error(estimator, paths):
    with pytest.raises(NotFittedError):
        estimator.predict(paths)


def test_replaced_checkpoint_is_refused(fitted, paths, make_checkpoint, tmp_path):
    other = make_checkpoint(seed=5, encoder=ENCODER, preprocessing=GRID.to_dict())
    moved = pickle.loads(pickle.dumps(fitted))
    moved.set_params(checkpoint=str(other.save(tmp_path / "other")))
    with pytest.raises(CheckpointError, match="expected the weights that were fitted"):
        moved.predict(paths[:1])
