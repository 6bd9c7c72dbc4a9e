import numpy as np
import pandas as pd
import pytest

from brainfeat.evaluation.reliability import evaluate_reliability
from brainfeat.exceptions import InputError
from brainfeat.metrics import intraclass_correlation, retrieval_accuracy


@pytest.fixture
def travellers(rng):
    """12 people at 3 sites, by site; sites shift what is measured."""
    people = np.tile(np.arange(12), 3)
    site = np.repeat(["river", "north", "summit"], 12)
    rows = rng.normal(size=(12, 8))[people] + 0.1 * rng.normal(size=(36, 8))
    rows[:, 0] += 3.0 * (site == "north")
    rows[:, 2] += 3.0 * (site == "summit")
    return rows, people, site


def test_scans_are_compared_in_the_order_of_their_sites(travellers, rng):
    rows, people, site = travellers
    found = evaluate_reliability(rows, people, site=site, predictions=rows[:, 1])
    assert (found.n_subjects, found.n_scans) == (12, 3)
    by_site = np.stack([rows[site == name] for name in sorted(set(site))], axis=1)
    expected = intraclass_correlation(by_site)
    np.testing.assert_allclose(found.feature_icc, expected)
    assert found.prediction_icc == pytest.approx(expected[1])
    assert found.feature_icc[0] < 0.5 < 0.9 < found.feature_icc[1]
    order = rng.permutation(36)
    shuffled = evaluate_reliability(rows[order], people[order], site=site[order])
    np.testing.assert_allclose(shuffled.feature_icc, expected)


def test_site_and_person_are_read_from_the_features(travellers):
    rows, people, site = travellers
    found = evaluate_reliability(rows, people, site=site)
    assert found.retrieval == retrieval_accuracy(rows, people)
    assert found.retrieval > 0.5
    assert found.retrieval_chance == pytest.approx(2 / 35)
    assert found.site_decoding.value > 0.9
    assert found.site_chance == pytest.approx(1 / 3)


def test_chance_is_of_those_who_can_be_found(rng):
    # Twelve people, and 60 who were scanned once and are not looked for.
    people = np.r_[np.tile(np.arange(12), 2), np.arange(12, 72)]
    found = evaluate_reliability(rng.normal(size=(84, 5)), people)
    assert found.retrieval_chance == pytest.approx(1 / 83)
    noise = [
        evaluate_reliability(rng.normal(size=(84, 5)), people).retrieval
        for _ in range(60)
    ]
    assert np.mean(noise) == pytest.approx(1 / 83, abs=4 * np.std(noise) / 60**0.5)


def test_people_with_fewer_scans_give_what_all_have(travellers):
    rows, people, _ = travellers
    keep = np.ones(36, dtype=bool)
    keep[[24, 35]] = False  # two people have two scans
    keep[[1, 13]] = False  # and one has one
    found = evaluate_reliability(rows[keep], people[keep])
    assert (found.n_subjects, found.n_scans) == (11, 2)
    assert found.site_decoding is None


def test_predictions_of_other_rows_are_refused(rng):
    X = pd.DataFrame(rng.normal(size=(4, 3)), index=list("abcd"))
    predictions = pd.Series([0.1, 0.2, 0.3, 0.4], index=list("dcba"))
    with pytest.raises(InputError, match=r"predictions: .* index in another"):
        evaluate_reliability(X, [0, 0, 1, 1], predictions=predictions)


def test_repeat_scans_are_needed():
    with pytest.raises(InputError, match="two people who were scanned twice, got 1"):
        evaluate_reliability(np.ones((4, 2)), ["a", "a", "b", "c"])


@pytest.mark.parametrize("n_people", [2, 3])
def test_few_people_are_compared_without_reading_the_site(travellers, n_people):
    rows, people, site = travellers
    few = people < n_people
    found = evaluate_reliability(rows[few], people[few], site=site[few])
    assert (found.n_subjects, found.n_scans) == (n_people, 3)
    assert np.isnan(found.site_decoding.value)


def test_site_of_one_person_cannot_be_read(travellers):
    rows, people, site = travellers
    keep = (site != "summit") | (people == 0)
    found = evaluate_reliability(rows[keep], people[keep], site=site[keep])
    assert (found.n_subjects, found.n_scans) == (12, 2)
    assert np.isnan(found.site_decoding.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": ["a", "a", "b", "b", None, np.nan]}, "6 values, 2 of them miss"),
        ({"subjects": list("aabb")}, "subjects: expected a value for each of 6 rows"),
        ({"site": list("xyxyx")}, "site: expected a value for each of 6 rows, got 5"),
        ({"site": ["x", "y", "x", "y", "x", np.nan]}, "site: .* 1 of them missing"),
        (
            {"predictions": np.ones(7)},
            r"predictions: expected a number .*got shape \(7",
        ),
    ],
)
def test_what_does_not_tell_of_each_scan_is_refused(rng, changes, message):
    given = {"X": rng.normal(size=(6, 3)), "subjects": list("aabbcc"), **changes}
    with pytest.raises(InputError, match=message):
        evaluate_reliability(**given)
