"""How often a difference is found where there is none, and where there is one."""

import numpy as np
import pytest

from brainfeat.evaluation import compare, compare_embeddings

N_COHORTS = 60
OPTIONS = {"n_repeats": 1, "n_bootstraps": 399}


@pytest.fixture(autouse=True)
def without_learning_curves(monkeypatch):
    monkeypatch.setattr(compare, "measure_learning_curve", lambda *_, **__: ())


def draw_cohort(rng, kind, n, effects):
    """Labels and two embeddings: a signal each, of its own, and noise."""
    y = {
        "binary": lambda: np.arange(n) % 2,
        "several": lambda: np.arange(n) % 3,
        "numbers": lambda: rng.normal(size=n),
    }[kind]()
    embeddings = {}
    for name, effect in zip("ab", effects, strict=True):
        rows = rng.normal(size=(n, 15))
        rows[:, :3] += effect * np.atleast_2d((y - y.mean()) / y.std()).T
        embeddings[name] = rows
    return embeddings, y


def rates(kind, effects, n=60, seed=0):
    """Fraction of cohorts with p below 0.05, and with an interval without zero."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(N_COHORTS):
        result = compare_embeddings(*draw_cohort(rng, kind, n, effects), **OPTIONS)
        row = result.differences.iloc[0]
        found.append((row["p"] <= 0.05, row["low"] > 0 or row["high"] < 0))
    return np.mean(found, axis=0)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("kind", ["binary", "several", "numbers"])
@pytest.mark.parametrize("effect", [0.0, 0.5])
def test_difference_is_found_by_chance_as_rarely_as_stated(kind, effect):
    # Three standard errors of a fraction of 0.05 above it.
    limit = 0.05 + 3.0 * np.sqrt(0.05 * 0.95 / N_COHORTS)
    assert (rates(kind, (effect, effect)) <= limit).all()


@pytest.mark.slow
@pytest.mark.release
def test_difference_of_effects_is_found():
    assert (rates("binary", (0.9, 0.0), seed=1) > 0.9).all()
