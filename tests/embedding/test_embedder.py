import logging
import pickle
import shutil
import sys
from pathlib import Path

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr

from brainfeat import BrainFoundEmbedder
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    InputError,
    ModalityError,
    VolumeError,
    VolumeNotFoundError,
)
from brainfeat.io.volumes import read_volume, to_image, write_volume
from brainfeat.preprocessing.preprocessor import Preprocessor

pytestmark = pytest.mark.usefixtures("without_registration")

N_SUBJECTS = 8
Y = np.arange(N_SUBJECTS) % 2
GROUPS = np.repeat(np.arange(4), 2)


@pytest.fixture
def embedder(checkpoint_path):
    return BrainFoundEmbedder(checkpoint_path, dtype="float32")


@pytest.fixture
def paths(modality_paths):
    return modality_paths["T1w"]


@pytest.fixture
def frame(modality_paths):
    """A column per modality, with missing values; indexed by subject."""
    names = [f"sub-{index:02d}" for index in range(N_SUBJECTS)]
    X = pd.DataFrame(modality_paths, index=pd.Index(names, name="participant_id"))
    X.loc["sub-01", "FLAIR"] = None
    X.loc["sub-02", "T1w"] = float("nan")
    X.loc["sub-05", "T2w"] = ""
    return X


@pytest.fixture
def images(paths):
    return [nib.load(path) for path in paths]


@pytest.fixture
def encoded(monkeypatch):
    """Names of the subjects that were preprocessed for the encoder."""
    names = []
    preprocess = SubjectEncoder.preprocess

    def count(self, subject):
        names.append(subject.participant_id)
        return preprocess(self, subject)

    monkeypatch.setattr(SubjectEncoder, "preprocess", count)
    return names


def classify(embedder):
    return make_pipeline(embedder, StandardScaler(), LogisticRegression())


def test_rows_are_float32_in_the_order_of_x(embedder, paths):
    rows = embedder.fit_transform(paths)
    assert rows.shape == (N_SUBJECTS, embedder.n_features_out_) == (8, 24)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(embedder.transform(paths[::-1]), rows[::-1])


def test_row_depends_on_its_own_subject_only(embedder, frame):
    together = embedder.fit_transform(frame)
    alone = [embedder.transform(frame.iloc[[i]]) for i in range(N_SUBJECTS)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_speed_options_change_nothing(embedder, frame):
    frame = frame.iloc[:4]
    expected = embedder.fit_transform(frame)
    for options in ({"batch_size": 3}, {"n_jobs": 3}, {"n_jobs": -1, "device": "cpu"}):
        rows = clone(embedder).set_params(**options).fit_transform(frame)
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)


def test_every_form_of_x_gives_the_same_rows(embedder, paths, images, tmp_path):
    paths, images = paths[:3], images[:3]
    for path in paths:
        (tmp_path / Path(path).name).symlink_to(path)
    expected = embedder.fit_transform(paths)
    stack = np.stack([image.get_fdata(dtype=np.float32) for image in images], axis=3)
    forms = {
        "series": pd.Series(paths),
        "glob": str(tmp_path / "*_T1w.nii.gz"),
        "dicts": [{"T1w": path, "T2w": None} for path in paths],
        "frame": pd.DataFrame({"T1w": paths, "FLAIR": np.nan}),
        "images": images,
        "4D": nib.Nifti1Image(stack, images[0].affine),
    }
    for name, X in forms.items():
        rows = clone(embedder).fit(X).transform(X)
        np.testing.assert_allclose(rows, expected, atol=1e-5, err_msg=name)


def test_containers_give_the_same_row(embedder, paths, tmp_path):
    volume = read_volume(paths[0])
    X = [write_volume(volume, tmp_path / f"a{s}") for s in (".nii", ".nii.gz", ".mgz")]
    rows = embedder.fit_transform([*X, to_image(volume)])
    np.testing.assert_allclose(rows, np.repeat(rows[:1], 4, axis=0), atol=1e-5)


def test_modalities_add_to_the_row(embedder, modality_paths):
    paths = {name: modality_paths[name][:4] for name in ("T2w", "T1w")}
    alone = embedder.fit_transform(pd.DataFrame({"T1w": paths["T1w"]}))
    with_t2 = embedder.fit_transform(pd.DataFrame(paths))
    assert embedder.modalities_ == ("T1w", "T2w")
    assert np.abs(alone - with_t2).max(axis=1).min() > 1e-3


@pytest.mark.parametrize("form", ["frame", "images"])
def test_cross_validation_by_group(embedder, frame, images, form):
    X = {"frame": frame, "images": images}[form]
    scores = cross_val_score(
        classify(embedder), X, Y, groups=GROUPS, cv=GroupKFold(2), error_score="raise"
    )
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_cross_validation_encodes_each_subject_once(embedder, frame, encoded, tmp_path):
    model = classify(embedder.set_params(memory=tmp_path))
    options = {"groups": GROUPS, "cv": GroupKFold(4), "error_score": "raise"}
    cached = cross_val_score(model, frame, Y, **options)
    assert sorted(encoded) == list(frame.index)
    direct = cross_val_score(classify(clone(embedder)), frame, Y, **options)
    np.testing.assert_array_equal(cached, direct)
    assert len(encoded) == N_SUBJECTS


def test_change_of_file_or_checkpoint_misses_the_cache(
    embedder, make_checkpoint, paths, encoded, tmp_path
):
    shutil.copy(paths[0], tmp_path / "a.nii.gz")
    folder = shutil.copytree(embedder.checkpoint, tmp_path / "checkpoint")
    embedder.set_params(checkpoint=folder, memory=joblib.Memory(tmp_path, verbose=0))
    X = [tmp_path / "a.nii.gz"]
    first = embedder.fit_transform(X)
    np.testing.assert_array_equal(embedder.fit_transform(X), first)
    assert len(encoded) == 1
    shutil.copy(paths[1], X[0])
    assert not np.array_equal(embedder.fit_transform(X), first)
    assert len(encoded) == 2
    make_checkpoint(seed=5).save(folder)
    embedder.fit_transform(X)
    assert len(encoded) == 3
    embedder.set_params(pooling="cls").fit_transform(X)
    assert len(encoded) == 4


def test_grid_search_over_pooling_and_classifier(embedder, paths, tmp_path):
    model = classify(embedder.set_params(memory=str(tmp_path)))
    grid = {
        "brainfoundembedder__pooling": ["mean", "cls"],
        "logisticregression__C": [0.1, 1.0],
    }
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(paths, Y)
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(paths).shape == (N_SUBJECTS,)


def test_column_transformer_joins_images_and_age(embedder, frame):
    frame["age"] = np.linspace(60.0, 80.0, N_SUBJECTS)
    columns = ColumnTransformer(
        [("brain", embedder, ["T1w", "FLAIR"]), ("age", StandardScaler(), ["age"])]
    )
    frame.loc["sub-02", "T1w"] = frame.loc["sub-01", "T1w"]
    model = make_pipeline(columns, LogisticRegression())
    assert model.fit(frame, Y).predict(frame).shape == (N_SUBJECTS,)
    assert columns.fit_transform(frame).shape == (N_SUBJECTS, 25)
    names = columns.get_feature_names_out()
    assert names[0] == "brain__emb_000"
    assert names[-1] == "age__age"


def test_pandas_output_keeps_the_index(embedder, frame):
    embedder.set_output(transform="pandas")
    table = embedder.fit_transform(frame)
    assert table.index.equals(frame.index)
    assert list(table.columns) == list(embedder.get_feature_names_out())
    assert (table.dtypes == np.float32).all()
    series = frame["T2w"].drop("sub-05")
    assert embedder.fit_transform(series).index.equals(series.index)


def test_features_are_numbered(embedder, paths):
    embedder.set_params(pooling="cls+mean").fit(paths)
    names = embedder.get_feature_names_out()
    assert names.shape == (embedder.n_features_out_,) == (48,)
    assert [names[0], names[-1]] == ["emb_000", "emb_047"]
    assert names.dtype == object


def test_features_of_anatomy_are_named(embedder, paths, tmp_path):
    embedder.set_params(pooling="anatomy", memory=str(tmp_path))
    embedder.set_output(transform="pandas")
    table = embedder.fit_transform(paths)
    assert list(table) == ["emb_csf", "emb_ventricle", "emb_deep_gray"]
    again = pickle.loads(pickle.dumps(embedder)).transform(paths)
    assert table.equals(again)


def test_features_of_regions_are_named(embedder, tmp_path):
    preprocessor = Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="affine")
    labels = np.zeros(preprocessor.shape, np.uint8)
    labels[:20], labels[20:] = 4, 9
    atlas = nib.Nifti1Image(labels, preprocessor.geometry.affine)
    nib.save(atlas, tmp_path / "atlas.nii.gz")
    (tmp_path / "atlas.tsv").write_text("index\tname\n9\tright\n")
    embedder.set_params(
        pooling="regions",
        preprocessor=preprocessor,
        labels_img=str(tmp_path / "atlas.nii.gz"),
    ).fit()
    assert embedder.region_names_ == ("region_4", "right")
    names = embedder.get_feature_names_out()
    assert [names[0], names[23], names[24]] == [
        "region_4_emb_000",
        "region_4_emb_023",
        "right_emb_000",
    ]


def test_fitted_attributes(embedder, checkpoint, paths):
    embedder.fit(paths)
    assert embedder.modalities_ == ("T1w",)
    assert embedder.checkpoint_fingerprint_ == checkpoint.fingerprint
    assert embedder.n_features_out_ == 24
    assert embedder.region_names_ == ()
    assert not hasattr(embedder, "n_features_in_")
    assert not hasattr(embedder, "feature_names_in_")


def test_fit_without_x_accepts_every_modality(embedder, frame):
    embedder.fit()
    assert embedder.modalities_ == ("T1w", "T2w", "FLAIR")
    np.testing.assert_array_equal(
        embedder.transform(frame), clone(embedder).fit_transform(frame)
    )


def test_transform_needs_fit(embedder, paths):
    with pytest.raises(NotFittedError):
        embedder.transform(paths)
    with pytest.raises(NotFittedError):
        embedder.get_feature_names_out()


def test_pickle_holds_names_and_hashes_only(embedder, paths, tmp_path):
    rows = embedder.fit_transform(paths[:2])
    (file,) = joblib.dump(embedder, tmp_path / "embedder.joblib")
    assert Path(file).stat().st_size < 10_000
    for again in (joblib.load(file), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(again.transform(paths[:2]), rows)


def test_fitted_estimator_refuses_another_checkpoint(
    embedder, make_checkpoint, paths, tmp_path
):
    folder = shutil.copytree(embedder.checkpoint, tmp_path / "checkpoint")
    embedder.set_params(checkpoint=str(folder)).fit(paths)
    kept = pickle.dumps(embedder)
    make_checkpoint(seed=5).save(folder)
    with pytest.raises(CheckpointError, match="expected the weights that were fitted"):
        pickle.loads(kept).transform(paths)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=str(folder)):
        pickle.loads(kept).transform(paths)


def test_fitted_estimator_refuses_other_preprocessing_and_regions(embedder, paths):
    embedder.fit(paths)
    other = Preprocessor(shape=(40, 56, 36), spacing=3.0, alignment="none")
    with pytest.raises(ConfigError, match="preprocessor: changed since fit"):
        embedder.set_params(preprocessor=other).transform(paths)
    embedder.set_params(preprocessor=None, pooling="cls")
    with pytest.raises(ConfigError, match="pooling: expected 'mean' as in fit, got"):
        embedder.transform(paths)


def test_fitted_estimator_refuses_an_atlas_with_other_regions(embedder, paths):
    preprocessor = Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="affine")
    labels = np.zeros(preprocessor.shape, np.uint8)
    labels[:20], labels[20:] = 4, 9
    atlas, moved = (
        nib.Nifti1Image(values, preprocessor.geometry.affine)
        for values in (labels, labels[::-1])
    )
    embedder.set_params(pooling="regions", preprocessor=preprocessor, labels_img=atlas)
    embedder.fit().read_subjects(paths)
    with pytest.raises(ConfigError, match="labels_img: its regions changed since fit"):
        embedder.set_params(labels_img=moved).read_subjects(paths)


def test_modality_that_fit_did_not_see_is_refused(embedder, frame):
    embedder.fit(frame[["T2w", "FLAIR"]])
    assert embedder.transform(frame[["T2w"]].drop("sub-05")).shape == (7, 24)
    with pytest.raises(ModalityError, match=r"fitted on modalities .*'T2w', 'FLAIR'"):
        embedder.transform(frame)


def test_missing_modality_needs_a_checkpoint_trained_for_it(
    make_checkpoint, modality_paths, frame, tmp_path
):
    make_checkpoint(missing_modalities=False).save(tmp_path)
    embedder = BrainFoundEmbedder(tmp_path).fit(pd.DataFrame(modality_paths))
    with pytest.raises(ModalityError, match="not trained for missing modalities"):
        embedder.transform(frame)


def test_rows_before_a_bad_scan_are_cached(embedder, paths, encoded, tmp_path):
    cut = tmp_path / "cut_T1w.nii.gz"
    cut.write_bytes(Path(paths[3]).read_bytes()[:5000])
    embedder.set_params(memory=tmp_path / "kept", batch_size=4)
    embedder.fit(paths)
    with pytest.raises(VolumeError) as caught:
        embedder.transform([*paths[:2], cut, *paths[2:]])
    assert str(caught.value).startswith(str(cut))
    del encoded[:]
    embedder.transform(paths[:2])
    assert encoded == []


def test_memory_refuses_a_brain_mask_without_a_name(embedder, paths, tmp_path):
    def everywhere(volume):
        return np.ones(volume.geometry.shape, dtype=bool)

    embedder.set_params(
        preprocessor=Preprocessor(
            shape=(40, 56, 36), spacing=4.0, alignment="none", brain_mask=everywhere
        )
    )
    embedder.fit(paths)  # without a cache it needs no name
    with pytest.raises(
        ConfigError, match="brain_mask: expected a function at the top level"
    ):
        embedder.set_params(memory=tmp_path).fit(paths)


def test_missing_file_is_an_error_before_any_is_read(embedder, paths, encoded):
    embedder.fit(paths)
    with pytest.raises(VolumeNotFoundError, match=r"^/nowhere/a\.nii: no such file"):
        embedder.transform([*paths, "/nowhere/a.nii"])
    assert encoded == []


def test_4d_file_in_a_list_is_named(embedder, tmp_path):
    path = tmp_path / "series_T1w.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 6, 7, 3), np.float32), np.eye(4)), path)
    embedder.fit([path])
    with pytest.raises(VolumeError, match=rf"^{path}: .*\(3 volumes\)"):
        embedder.transform([path])


@pytest.mark.parametrize("X", [np.zeros((3, 2)), [], {"T1w": ["a.nii"]}], ids=str)
def test_other_forms_of_x_are_refused_by_fit_and_transform(embedder, paths, X):
    with pytest.raises(InputError, match="X: expected"):
        clone(embedder).fit(X)
    with pytest.raises(InputError, match="X: expected"):
        embedder.fit(paths).transform(X)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("checkpoint", "brainfound-enormous", CheckpointError),
        ("checkpoint", None, ConfigError),
        ("pooling", "max", ConfigError),
        ("labels_img", None, ConfigError),
        ("modality", "PDw", ModalityError),
        ("preprocessor", "affine", ConfigError),
        ("batch_size", 0, ConfigError),
        ("device", "nowhere", ConfigError),
        ("dtype", "float64", ConfigError),
        ("n_jobs", 0, ConfigError),
        ("n_jobs", 1.5, ConfigError),
        ("memory", 3, ConfigError),
    ],
)
def test_fit_names_the_impossible_parameter(embedder, paths, name, value, error):
    embedder.set_params(**{name: value})
    if name == "labels_img":
        aligned = Preprocessor(shape=(40, 56, 36), spacing=4.0, alignment="rigid")
        embedder.set_params(pooling="regions", preprocessor=aligned)
    for X in (paths, None):
        with pytest.raises(error, match=f"{name}.*"):
            embedder.fit(X)


def test_representation_needs_no_weights(embedder, paths):
    embedder.fit(paths)
    for estimator in (embedder, clone(embedder), classify(embedder)):
        assert "BrainFoundEmbedder" in estimator_html_repr(estimator)
        assert "BrainFoundEmbedder" in repr(estimator)


def test_progress_is_logged_without_a_terminal(embedder, paths, caplog, capsys):
    with caplog.at_level(logging.INFO):
        embedder.set_params(verbose=1).fit(paths).transform(paths)
    assert "[8/8] embedding" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_a_terminal(embedder, paths, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    embedder.fit(paths).transform(paths)
    assert capsys.readouterr() == ("", "")
    embedder.set_params(verbose=1).transform(paths)
    out, err = capsys.readouterr()
    assert out == ""
    assert "embedding" in err
    assert "8/8" in err


def test_rows_that_fail_are_nan_with_one_warning(
    checkpoint_path, modality_paths, tmp_path
):
    (tmp_path / "bad_T1w.nii").write_bytes(b"no image")
    X = [modality_paths["T1w"][0], tmp_path / "bad_T1w.nii", tmp_path / "no_T1w.nii"]
    embedder = BrainFoundEmbedder(checkpoint_path, on_error="nan").fit(X)
    with pytest.warns(UserWarning, match=r"^2 of 3 rows are NaN: .*bad_T1w.*no_T1w"):
        rows = embedder.transform(X)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, True]
    alone = embedder.transform(X[:1])
    np.testing.assert_allclose(rows[:1], alone, rtol=1e-5)
    with pytest.raises(VolumeError, match="bad_T1w"):
        embedder.set_params(on_error="raise").transform(X[:2])
    with pytest.raises(ConfigError, match="on_error: expected 'raise' or 'nan'"):
        embedder.set_params(on_error="skip").fit(X)
