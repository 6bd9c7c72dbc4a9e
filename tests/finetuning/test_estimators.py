"""Laws of the fine-tuned classifier and regressor."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score

from brainfeat import BrainFoundClassifier, BrainFoundRegressor, Checkpoint
from brainfeat.exceptions import (
    CheckpointError,
    ConfigError,
    InputError,
    ModalityError,
    VolumeError,
)
from brainfeat.finetuning.probe import fit_probe
from brainfeat.finetuning.targets import ClassTargets

FAST = {
    "n_steps": 4,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "n_views": 1,
    "n_folds": 2,
    "random_state": 0,
}
KINDS = {"classes": BrainFoundClassifier, "numbers": BrainFoundRegressor}


pytestmark = pytest.mark.filterwarnings(
    "ignore::brainfeat.exceptions.UntrainedCheckpointWarning"
)


@pytest.fixture(scope="module")
def paths(small_scans):
    return sorted(map(str, small_scans.rglob("*_T1w.nii.gz")))[:8]


@pytest.fixture(scope="module")
def labels():
    return {
        "classes": np.array(["cn", "ad"] * 4),
        "numbers": np.array([60.0, 71.0, 62.0, 74.0, 61.0, 73.0, 60.5, 72.0]),
    }


@pytest.fixture(scope="module", params=["classes", "numbers"])
def fitted(request, small_checkpoint, paths, labels):
    kind = KINDS[request.param]
    # Of so few people, none need be held out: all steps are trained.
    model = kind(small_checkpoint, **FAST | {"n_folds": 0})
    return model.fit(paths, labels[request.param]), request.param


def outputs(model, X):
    if isinstance(model, BrainFoundClassifier):
        return model.predict_proba(X)
    return model.predict(X)


def test_training_changes_the_embedding_and_the_loss_is_kept(fitted, paths):
    model, _ = fitted
    assert model.n_steps_ == len(model.loss_curve_) == FAST["n_steps"]
    rows = model.transform(paths[:2])
    assert rows.dtype == np.float32
    assert rows.shape == (2, 24)
    assert np.isfinite(rows).all()


def test_same_seed_gives_the_same_model(fitted, paths, labels):
    model, name = fitted
    again = clone(model).fit(paths, labels[name])
    np.testing.assert_allclose(outputs(again, paths[:3]), outputs(model, paths[:3]))
    assert again.loss_curve_ == model.loss_curve_


def test_predictions_survive_pickle_and_folder(fitted, paths, tmp_path):
    model, _ = fitted
    expected = outputs(model, paths[:3])
    np.testing.assert_allclose(
        outputs(pickle.loads(pickle.dumps(model)), paths[:3]), expected
    )
    folder = model.save(tmp_path / "model")
    loaded = type(model).load(folder)
    np.testing.assert_allclose(outputs(loaded, paths[:3]), expected)
    np.testing.assert_array_equal(loaded.predict(paths[:3]), model.predict(paths[:3]))
    assert loaded.loss_curve_ == model.loss_curve_
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "adapters.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert config["base_fingerprint"] == model.checkpoint_fingerprint_


def write_other(checkpoint, folder):
    """Write the same encoder with other weights."""
    config = Checkpoint.load(checkpoint).config
    return str(Checkpoint.untrained(config, seed=1).save(folder))


def test_a_damaged_or_another_folder_is_refused(fitted, tmp_path, small_checkpoint):
    model, name = fitted
    folder = model.save(tmp_path / "model")
    other = KINDS["numbers" if name == "classes" else "classes"]
    with pytest.raises(CheckpointError, match=f"expected a {other.__name__}"):
        other.load(folder)
    with pytest.raises(CheckpointError, match=r"got none with config\.json"):
        type(model).load(tmp_path)
    with pytest.raises(CheckpointError, match="expected a fine-tuned model"):
        type(model).load(small_checkpoint)
    config = json.loads((folder / "config.json").read_text())
    base = write_other(small_checkpoint, tmp_path / "base")
    changed = config | {"base": str(base)}
    (folder / "config.json").write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="expected the weights that were fitted"):
        type(model).load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        type(model).load(folder)


def test_without_steps_the_model_is_the_probe_of_the_embedder(
    small_checkpoint, paths, labels
):
    from brainfeat import BrainFoundEmbedder

    model = BrainFoundClassifier(small_checkpoint, **FAST | {"n_steps": 0})
    model.fit(paths, labels["classes"])
    rows = BrainFoundEmbedder(small_checkpoint, dtype="float32").fit_transform(paths)
    np.testing.assert_allclose(model.transform(paths), rows, atol=2e-2)
    codes = np.unique(labels["classes"], return_inverse=True)[1]
    targets = ClassTargets(codes, np.ones(8), 2)
    probe = fit_probe(rows.astype(float), targets, np.arange(8), seed=0)
    scores = probe.score(rows.astype(float))
    expected = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))
    np.testing.assert_allclose(model.predict_proba(paths)[:, 1], expected, atol=0.03)
    assert model.n_steps_ == 0
    assert model.updates_ == {}


def test_labels_that_nothing_predicts_leave_the_probe(small_checkpoint, paths):
    # People who are held out gain nothing by training on noise.
    noise = np.random.default_rng(1).normal(size=8)
    model = BrainFoundRegressor(small_checkpoint, **FAST).fit(paths, noise)
    assert model.n_steps_ == 0
    assert np.isfinite([model.held_out_score_, model.probe_score_]).all()
    assert model.held_out_predictions_.shape == (8,)


def test_model_selection_of_scikit_learn(small_checkpoint, paths, labels):
    X = pd.Series(paths, index=[f"sub-{i}" for i in range(8)])
    model = BrainFoundClassifier(
        small_checkpoint, **FAST | {"n_folds": 0, "n_steps": 1}
    )
    people = np.repeat(np.arange(4), 2)
    scores = cross_val_score(
        model, X, labels["classes"], groups=people, cv=GroupKFold(2)
    )
    assert scores.shape == (2,)
    search = GridSearchCV(model, {"pooling": ["mean", "attention"]}, cv=2, refit=False)
    search.fit(X, labels["classes"])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_missing_modalities_as_the_checkpoint_allows(small_checkpoint, paths, labels):
    frame = pd.DataFrame({"T1w": paths, "FLAIR": paths})
    frame.loc[1, "FLAIR"] = None
    model = BrainFoundClassifier(
        small_checkpoint, **FAST | {"n_steps": 1, "adapt": "last", "n_folds": 0}
    )
    model.fit(frame, labels["classes"])
    assert model.modalities_ == ("T1w", "FLAIR")
    assert model.predict_proba(frame.iloc[:2]).shape == (2, 2)
    alone = BrainFoundClassifier(small_checkpoint, **FAST | {"n_steps": 0})
    alone.fit(frame[["T1w"]], labels["classes"])
    with pytest.raises(ModalityError, match="was fitted on modalities"):
        alone.predict(frame)


def test_groups_are_never_split(small_checkpoint, paths, labels, monkeypatch):
    from brainfeat.finetuning import selection

    seen = []

    def record(*arguments, **_):
        seen.append(arguments[2])

    monkeypatch.setattr(selection, "train", record)
    groups = np.array([0, 1, 0, 1, 2, 3, 2, 3])
    model = BrainFoundClassifier(small_checkpoint, **FAST)
    model.fit(paths, labels["classes"], groups=groups)
    assert len(seen) == 2
    for rows in seen:
        outside = np.setdiff1d(np.arange(8), rows)
        assert not {*groups[rows]} & {*groups[outside]}


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["cn", "ad", None, "ad"] * 2, "y has 2 missing values"),
        ([0.0, np.nan, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], "y has 1 missing value"),
        (["cn"] * 8, "got one class"),
        (["cn", "ad"], "for each of 8 subjects, got 2"),
        (None, "requires y"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(small_checkpoint, paths, y, message):
    with pytest.raises(InputError, match=message):
        BrainFoundClassifier(small_checkpoint).fit(paths, y)


def test_numbers_that_are_none_are_refused(small_checkpoint, paths):
    with pytest.raises(InputError, match="expected numbers, got 'cn'"):
        BrainFoundRegressor(small_checkpoint).fit(paths, ["cn", "ad"] * 4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adapt", "prefix"),
        ("pooling", "max"),
        ("rank", 0),
        ("n_blocks", 3),
        ("n_steps", -1),
        ("learning_rate", "fast"),
        ("random_state", "seed"),
        ("class_weight", "even"),
        ("device", "abacus"),
        ("preprocessor", "fsl"),
    ],
)
def test_impossible_parameters_are_refused(
    small_checkpoint, paths, labels, name, value
):
    model = BrainFoundClassifier(small_checkpoint, **{name: value})
    with pytest.raises(ConfigError, match=name):
        model.fit(paths, labels["classes"])


def test_an_unreadable_image_is_named(small_checkpoint, paths, labels, tmp_path):
    broken = tmp_path / "sub-9_T1w.nii.gz"
    broken.write_bytes(b"nothing")
    model = BrainFoundClassifier(small_checkpoint, **FAST)
    with pytest.raises(VolumeError, match=r"sub-9_T1w\.nii\.gz"):
        model.fit([*paths[:7], str(broken)], labels["classes"])


def test_a_checkpoint_that_changed_is_refused(
    small_checkpoint, paths, labels, tmp_path
):
    folder = str(Checkpoint.load(small_checkpoint).save(tmp_path / "base"))
    model = BrainFoundClassifier(folder, **FAST | {"n_steps": 0, "n_folds": 0})
    model.fit(paths, labels["classes"])
    write_other(small_checkpoint, folder)
    with pytest.raises(CheckpointError, match="expected the weights that were fitted"):
        model.predict(paths[:1])


def test_all_weights_can_be_trained(small_checkpoint, paths, labels):
    model = BrainFoundClassifier(
        small_checkpoint, **FAST | {"adapt": "all", "n_steps": 2, "n_folds": 0}
    )
    model.fit(paths, labels["classes"])
    assert any(name.startswith("patch_embed.") for name in model.updates_)
    assert model.predict(paths[:2]).shape == (2,)
