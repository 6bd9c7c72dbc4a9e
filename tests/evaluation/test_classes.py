import numpy as np
import pytest

from brainfeat.evaluation import evaluate_probe
from brainfeat.exceptions import InputError


@pytest.mark.parametrize(
    ("labels", "pos_label", "positive"),
    [
        (["AD", "CN"], None, "AD"),
        (["HC", "SZ"], None, "SZ"),
        (["BP", "NC"], None, "BP"),
        (["asd", "Control"], None, "asd"),
        (["ADHD", "healthy control"], None, "ADHD"),
        (["HC", "NC"], None, "NC"),
        (["F", "M"], None, "M"),
        ([0, 1], None, "1"),
        ([1.0, 0.0], None, "1.0"),
        ([9, 10], None, "10"),
        ([-1, 1], None, "1"),
        ([True, False], None, "True"),
        (["AD", "CN"], "CN", "CN"),
        ([1.0, 2.0], 1, "1.0"),
        ([True, False], False, "False"),
    ],
)
def test_positive_class_is_given_or_no_control(labels, pos_label, positive, rng):
    y = np.array(labels, dtype=object)[np.arange(12) % 2]
    X = rng.normal(size=(12, 3)) + 9 * (y.astype(str) == positive)[:, None]
    result = evaluate_probe(X, y, pos_label=pos_label, n_repeats=1, n_permutations=1)
    assert result.pos_label == result.classes[1] == positive
    assert f"{positive} against {result.classes[0]}:" in result.summary()
    # Probabilities are those of the positive class.
    is_positive = y.astype(str) == positive
    assert result.probabilities[is_positive].min() > 0.5
    assert result.probabilities[~is_positive].max() < 0.5


def test_other_positive_class_is_refused():
    with pytest.raises(InputError, match="pos_label: expected one of AD, CN, got 'X'"):
        evaluate_probe(np.eye(4), ["AD", "CN"] * 2, pos_label="X")
