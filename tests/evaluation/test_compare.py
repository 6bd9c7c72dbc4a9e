import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, r2_score

from brainfeat.evaluation import compare_embeddings, evaluate_probe
from brainfeat.exceptions import (
    ConfigError,
    ConfoundingWarning,
    InputError,
    LeakageWarning,
)

FAST = {"n_repeats": 2, "n_bootstraps": 199}


def draw(rng, y, effect=1.0, n_features=6):
    rows = rng.normal(size=(len(y), n_features))
    rows[:, 0] += effect * (np.unique(y, return_inverse=True)[1] if len(y) else 0)
    return rows


@pytest.fixture
def pair(rng):
    y = np.arange(75) % 2
    return {"good": draw(rng, y, 2.5), "noise": draw(rng, y, 0.0, 9)}, y


def value(table, column="value", **keys):
    for name, key in keys.items():
        table = table[table[name] == key]
    return table[column].item()


def test_better_embedding_is_found(pair):
    embeddings, y = pair
    result = compare_embeddings(embeddings, y, **FAST)
    assert result.metrics == ("AUC", "balanced accuracy")
    assert value(result.scores, embedding="good", metric="AUC") > 0.8
    assert 0.3 < value(result.scores, embedding="noise", metric="AUC") < 0.7
    assert value(result.differences, "low", metric="AUC") > 0.0
    assert value(result.differences, "p_holm", metric="AUC") < 0.05
    for line, name in zip(result.summary().splitlines()[2:4], embeddings, strict=True):
        auc = value(result.scores, embedding=name, metric="AUC")
        assert line.split(" [")[0].split() == [name, f"{auc:.2f}"]


@pytest.mark.parametrize("kind", ["binary", "several", "numbers"])
def test_scores_are_those_of_the_evaluated_probe(rng, kind):
    y = np.arange(66) % {"binary": 2, "several": 3, "numbers": 66}[kind]
    y = y + 0.5 if kind == "numbers" else y
    rows = draw(rng, y, 0.1 if kind == "numbers" else 1.0)
    result = compare_embeddings({"a": rows}, y, **FAST)
    probe = evaluate_probe(rows, y, n_repeats=2, n_permutations=1)
    found = dict(zip(result.scores["metric"], result.scores["value"], strict=True))
    if kind == "numbers":
        expected = {"R2": probe.r2, "MAE": probe.mae, "r": probe.r}
    else:
        expected = {"AUC": probe.auc, "balanced accuracy": probe.balanced_accuracy}
    assert found == pytest.approx({name: s.value for name, s in expected.items()})


def test_intervals_contain_their_value_and_differences_are_paired(pair):
    embeddings, y = pair
    result = compare_embeddings({**embeddings, "same": embeddings["good"]}, y, **FAST)
    scores = result.scores
    assert (scores["low"] <= scores["value"]).all()
    assert (scores["value"] <= scores["high"]).all()
    same = result.select(result.differences, first="good", second="same")
    assert (same[["difference", "low", "high"]] == 0.0).all(axis=None)
    assert (same["p"] == 1.0).all()
    differences = result.select(result.differences, metric="AUC")
    for row in differences.to_dict("records"):
        ours, theirs = (
            value(scores, embedding=row[name], metric="AUC")
            for name in ("first", "second")
        )
        assert row["difference"] == pytest.approx(ours - theirs)
    assert (differences["p_holm"] >= differences["p"]).all()


def test_repeat_scans_narrow_no_interval(rng):
    y = np.arange(40) % 2
    rows = {"a": draw(rng, y), "b": draw(rng, y, 0.5)}
    once = compare_embeddings(rows, y, **FAST)
    copies = {n: np.repeat(x, 4, axis=0) for n, x in rows.items()}
    copies = {n: x + 1e-6 * rng.normal(size=x.shape) for n, x in copies.items()}
    often = compare_embeddings(
        copies, np.repeat(y, 4), np.repeat(np.arange(40), 4), **FAST
    )
    assert often.n_subjects == once.n_subjects == 40
    widths = [
        value(
            r.differences.assign(w=r.differences.high - r.differences.low),
            "w",
            metric="AUC",
        )
        for r in (once, often)
    ]
    assert widths[1] > 0.7 * widths[0]
    assert (often.repeats["icc"] > 0.99).all()
    assert (often.repeats["retrieval"] == 1.0).all()
    assert once.repeats.empty


def test_tables_of_different_rows_are_joined(rng):
    y = pd.Series(np.arange(60) % 2, index=[f"sub-{n:02d}" for n in range(60)])
    names = [f"{n:02d}" for n in range(60)]
    columns = [f"emb_{n:03d}" for n in range(6)]
    table = pd.DataFrame(draw(rng, y), columns=columns).assign(participant_id=names)
    other = table.iloc[rng.permutation(60)[:50]].copy()
    other.iloc[3, 0] = np.nan
    y.iloc[int(other["participant_id"].iloc[5])] = None
    result = compare_embeddings({"a": table, "b": other}, y, **FAST)
    assert result.n_rows == 48
    assert result.n_dropped == {"a": 12, "b": 2}
    assert (result.differences["difference"] == 0.0).all()
    assert (result.learning_curve["n_subjects"].unique() == [10, 20]).all()


def test_a_table_beside_an_array_groups_the_rows_of_its_subjects(rng):
    y = np.repeat(np.arange(30) % 2, 2)
    names = np.repeat([f"{n:02d}" for n in range(30)], 2)
    table = pd.DataFrame(draw(rng, y)).add_prefix("emb_").assign(participant_id=names)
    result = compare_embeddings({"array": draw(rng, y), "table": table}, y, **FAST)
    assert (result.n_rows, result.n_subjects) == (60, 30)


def test_learning_curve_rises_and_draws_are_shared(pair):
    embeddings, y = pair
    curve = compare_embeddings({**embeddings, "same": embeddings["good"]}, y, **FAST)
    curve = curve.learning_curve
    good, same = (curve[curve["embedding"] == n]["value"] for n in ("good", "same"))
    assert good.iloc[-1] > good.iloc[0]
    np.testing.assert_array_equal(good, same)


def test_site_is_decoded_and_confounding_is_reported(rng):
    y = np.arange(80) % 2
    site = np.where(rng.random(80) < 0.9, y, 1 - y)
    rows = {"a": draw(rng, y), "b": draw(rng, site, 4.0)}
    with pytest.warns(ConfoundingWarning, match="site and label are confounded"):
        result = compare_embeddings(rows, y, site=[f"s{n}" for n in site], **FAST)
    found = dict(
        zip(result.site["embedding"], result.site["balanced_accuracy"], strict=True)
    )
    assert found["b"] > 0.9 > found["a"]
    assert "confounded" in result.findings[0]


def test_one_scan_under_two_names_is_reported(pair):
    embeddings, y = pair
    for rows in embeddings.values():
        rows[4] = rows[2]
    with pytest.warns(LeakageWarning, match="2 rows have the same features"):
        result = compare_embeddings(embeddings, y, **FAST)
    assert result.n_subjects == 74


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": {}}, InputError, "expected a dict .* got an empty one"),
        ({"embeddings": [1]}, InputError, "expected a dict .* got list"),
        ({"embeddings": {"a": [[np.nan]] * 75}}, InputError, "a has no finite row"),
        ({"y": [0, 1]}, InputError, "y: expected 75 rows, as good has, got 2"),
        ({"groups": [0, 1]}, InputError, "groups: expected 75 rows"),
        ({"y": [None] * 75}, InputError, "y: expected rows with a label"),
        ({"n_bootstraps": 0}, ConfigError, "n_bootstraps=0"),
        ({"confidence": 95}, ConfigError, "confidence: expected a number"),
        ({"task": "age"}, ConfigError, "task: expected one of"),
    ],
)
def test_invalid_arguments_are_named(pair, changes, error, message):
    embeddings, y = pair
    values = {"embeddings": embeddings, "y": y, **FAST} | changes
    with pytest.raises(error, match=message):
        compare_embeddings(**values)


def test_numbers_are_predicted_by_held_out_folds(rng):
    age = rng.uniform(20, 80, 70)
    rows = np.column_stack([age + rng.normal(0, 4, 70), rng.normal(size=70)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = evaluate_probe(rows, age, n_repeats=1, n_permutations=19)
    assert probe.r2.value == pytest.approx(r2_score(age, probe.predictions))
    assert probe.mae.value == pytest.approx(mean_absolute_error(age, probe.predictions))
    assert probe.r.value == pytest.approx(np.corrcoef(age, probe.predictions)[0, 1])
    assert probe.p_value == 1 / 20
    assert np.isnan(probe.auc.value)
    assert "mean absolute error" in probe.summary()


def test_several_classes_are_evaluated_with_their_confusion(rng):
    y = np.array(["AD", "CN", "MCI"])[np.arange(69) % 3]
    probe = evaluate_probe(draw(rng, y, 2.0), y, n_repeats=2, n_permutations=9)
    assert probe.classes == ("AD", "CN", "MCI")
    assert probe.confusion.sum() == pytest.approx(69)
    recalls = np.diag(probe.confusion) / probe.confusion.sum(axis=1)
    assert probe.balanced_accuracy.value == pytest.approx(recalls.mean())
    assert probe.probabilities.shape == (69, 3)
    assert probe.calibration is None
    assert probe.p_value == 0.1
    assert "balanced accuracy" in probe.summary()
