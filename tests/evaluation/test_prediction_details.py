"""Intervals, curves, baselines and bias of `evaluate_probe`."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress
from sklearn import metrics

from brainfeat.evaluation import compare_embeddings, evaluate_probe
from brainfeat.evaluation.bias import measure_bias
from brainfeat.evaluation.cross_validation import fit_fold
from brainfeat.evaluation.folds import repeat_folds
from brainfeat.evaluation.labelled import LabelledFeatures
from brainfeat.exceptions import ConfigError, InputError

FAST = {"n_repeats": 2, "n_permutations": 1, "n_bootstraps": 150}


@pytest.fixture
def ages(rng):
    """Features that show age, two rows a subject."""
    age = np.repeat(rng.uniform(40, 80, 40), 2)
    X = rng.normal(size=(80, 6))
    X[:, 0] += 0.07 * age
    return X, age, np.repeat(np.arange(40), 2)


def labels_of(age, task):
    names = {"binary": ["young", "old"], "classes": ["young", "middle", "old"]}
    if task == "numbers":
        return age
    cuts = np.quantile(age, [0.5] if task == "binary" else [0.33, 0.67])
    return np.array(names[task])[np.digitize(age, cuts)]


@pytest.mark.parametrize("task", ["binary", "classes", "numbers"])
def test_intervals_are_those_of_a_comparison(ages, task):
    X, age, groups = ages
    y = labels_of(age, task)
    result = evaluate_probe(X, y, groups, **FAST)
    settings = {"n_repeats": 2, "n_bootstraps": 150}
    compared = compare_embeddings({"a": X}, y, groups, **settings)
    pd.testing.assert_frame_equal(
        result.scores, compared.scores.drop(columns="embedding")
    )
    assert result.scores["value"][0] == pytest.approx(result.score.value)
    assert (result.scores["low"] < result.scores["high"]).all()
    assert "95% intervals over subjects" in result.summary()


def test_baseline_is_the_probe_of_its_column(ages):
    X, age, groups = ages
    y = labels_of(age, "binary")
    columns = pd.DataFrame({"brain": age + 5.0 * X[:, 1], "sex": list("MFFM") * 20})
    result = evaluate_probe(X, y, groups, baselines=columns, **FAST)
    lines = result.baselines.set_index("baseline")
    assert list(lines.index) == ["brain", "sex", "all of these"]
    alone = evaluate_probe(columns[["brain"]].to_numpy(), y, groups, **FAST)
    assert lines["value"]["brain"] == pytest.approx(alone.auc.value)
    pair = {"X": X, "brain": columns[["brain"]].to_numpy()}
    compared = compare_embeddings(pair, y, groups, n_repeats=2, n_bootstraps=150)
    expected = compared.differences.iloc[0]
    found = lines.loc["brain"]
    assert found["difference"] == pytest.approx(expected["difference"])
    assert found["difference_low"] == pytest.approx(expected["low"])
    assert found["p"] == pytest.approx(expected["p"])
    assert "brain alone: AUC" in result.summary()


def test_missing_baselines_are_a_category(ages):
    X, age, groups = ages
    y = labels_of(age, "binary")
    ml = np.where(y == "old", np.nan, 1400.0)  # to be absent says all
    site = np.where(y == "old", None, "north")
    columns = pd.DataFrame({"qc_brain_ml": ml, "site": site})
    result = evaluate_probe(X, y, groups, baselines=columns, **FAST)
    assert (result.baselines["value"] == 1.0).all()


@pytest.mark.parametrize("task", ["binary", "classes"])
def test_curves_are_of_the_held_out_probabilities(ages, task):
    X, age, groups = ages
    y = labels_of(age, task)
    result = evaluate_probe(X, y, groups, pos_label=None, **FAST)
    is_binary = task == "binary"
    names = [result.pos_label] if is_binary else list(result.classes)
    assert [curve.label for curve in result.roc] == names
    assert len(result.calibrations) == len(names)
    columns = result.probabilities.reshape(len(y), -1)
    for number, (name, curve) in enumerate(zip(names, result.roc, strict=True)):
        area = metrics.auc(curve.false_positive_rate, curve.true_positive_rate)
        expected = metrics.roc_auc_score(y == name, columns[:, number])
        assert area == pytest.approx(expected, abs=1e-9)
        brier = metrics.brier_score_loss(y == name, columns[:, number])
        assert result.calibrations[number].brier == pytest.approx(brier)
    if not is_binary:
        with pytest.raises(InputError, match="expected a y of two classes"):
            result.at_threshold(0.5)
        return
    assert result.operating_point == result.at_threshold(0.5)
    strict = result.at_threshold(0.9)
    assert strict.sensitivity.value < result.operating_point.sensitivity.value
    assert "at probability 0.5: sensitivity 0." in result.summary()


def test_bias_is_the_slope_of_the_errors(ages):
    X, age, groups = ages
    result = evaluate_probe(X, age, groups, **FAST)
    np.testing.assert_allclose(result.bias.gap, result.predictions - age)
    for errors, estimate in (
        (result.bias.gap, result.bias.slope),
        (result.bias.corrected_gap, result.bias.corrected_slope),
    ):
        expected = linregress(age, errors).slope
        assert estimate.value == pytest.approx(expected, abs=1e-9)
    assert result.bias.slope.high < -0.1
    assert result.bias.corrected_slope.low < 0 < result.bias.corrected_slope.high
    assert "slope of the error -0." in result.summary()


def test_correction_is_fitted_in_the_training_folds_only(ages):
    X, age, groups = ages
    data = LabelledFeatures.check(X, age, groups, None, None, kind="numbers")
    repeats = repeat_folds(data.task.strata(age), data.groups, 1, 0)
    found = measure_bias(data, repeats, np.ones((3, 80)), 0.95, 0)
    for train, test in repeats[0]:
        held_out, scores = fit_fold(
            data.task, X, age[train, None], data.groups, (train, test), 0
        )
        line = linregress(age[train], held_out[:, 0, 0] - age[train])
        gap = scores[:, 0, 0] - age[test]
        rest = gap - line.intercept - line.slope * age[test]
        np.testing.assert_allclose(found.corrected_gap[test], rest, atol=1e-9)


def test_guessing_has_a_slope_of_minus_one(rng):
    y = rng.uniform(40, 80, 100)
    result = evaluate_probe(rng.normal(size=(100, 5)), y, **FAST)
    assert result.bias.slope.value == pytest.approx(-1.0, abs=0.15)
    assert abs(result.bias.corrected_slope.value) < 0.15


@pytest.mark.slow
@pytest.mark.release
def test_noise_rarely_beats_noise(rng):
    settings = {"n_repeats": 1, "n_permutations": 1, "n_bootstraps": 100}
    y, p_values, covered = np.arange(40) % 2, [], []
    for _ in range(40):
        X, other = rng.normal(size=(2, 40, 4))
        result = evaluate_probe(X, y, baselines=other, **settings)
        p_values.append(result.baselines["p"].iloc[-1])
        covered.append(result.scores["low"][0] <= 0.5 <= result.scores["high"][0])
    assert np.mean(np.array(p_values) <= 0.05) <= 0.12
    assert np.mean(covered) >= 0.88


def test_settings_are_checked(ages):
    X, age, groups = ages
    for name, value in {
        "n_bootstraps": 0,
        "confidence": 1.0,
        "threshold": -0.1,
    }.items():
        with pytest.raises(ConfigError, match=name):
            evaluate_probe(X, age, groups, **{**FAST, name: value})
    with pytest.raises(InputError, match="baselines: expected columns of 80 rows"):
        evaluate_probe(X, age, groups, baselines=np.ones((3, 2)))
    with pytest.raises(InputError, match="baselines: expected values of site"):
        evaluate_probe(X, age, baselines=pd.DataFrame({"site": [None] * 80}))
