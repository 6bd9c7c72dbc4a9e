import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from brainfeat.evaluation.tasks import ClassTask, NumberTask, read_labels
from brainfeat.exceptions import ConfigError, InputError


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (["AD", "CN", "AD"], ("CN", "AD")),
        ([True, False, True], ("False", "True")),
        ([0.5, 1.5, 0.5], ("0.5", "1.5")),
        ([3, 1, 2, 1], ("1", "2", "3")),
        (["b", "c", "a"], ("a", "b", "c")),
        (list(range(11)), ()),
        ([61.5, 70.25, 80.0], ()),
        ([str(n) for n in range(11)], tuple(sorted(map(str, range(11))))),
    ],
)
def test_kind_of_labels_is_found(y, classes):
    labels, task = read_labels(y, len(y))
    assert task.classes == classes
    assert labels.dtype.kind == (
        "f" if not classes else "b" if len(classes) == 2 else "i"
    )


def test_kind_of_labels_may_be_given():
    assert read_labels([1, 2, 3], 3, kind="numbers")[1] == NumberTask()
    assert len(read_labels(list(range(12)), 12, kind="classes")[1].classes) == 12


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (["a", "b"], {"kind": "numbers"}, "y: expected numbers, got a, b"),
        (["a", "a"], {}, "at least two classes, got 1"),
        ([1.5, 1.5], {"kind": "numbers"}, "at least two different numbers, got 1"),
        (["a", "b", "c"], {"kind": "binary"}, "two classes, got 3"),
        (["a", "b", "c"], {"pos_label": "a"}, "two classes, got 3: a, b, c"),
        (list(range(20)), {"pos_label": 1}, "two classes, got numbers"),
        (["a", "b", "d"], {"pos_label": "c"}, "pos_label"),
        ([1.5, np.inf, 2.5], {}, "finite numbers"),
        (["a", None], {}, "1 of them missing"),
    ],
)
def test_labels_of_another_kind_are_refused(y, options, message):
    with pytest.raises(InputError, match=message):
        read_labels(y, len(y), **options)


def test_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="task: expected one of auto, binary"):
        read_labels([0, 1], 2, kind="regression")


def make_scores(rng, n, n_classes):
    labels = np.arange(n) % n_classes
    scores = rng.normal(size=(n, n_classes)) + 2.0 * np.eye(n_classes)[labels]
    return labels, scores


def test_scores_of_several_classes_are_those_of_scikit_learn(rng):
    labels, scores = make_scores(rng, 90, 4)
    task = ClassTask(tuple("abcd"))
    predicted = task.predict(scores[:50], labels[:50], scores[50:])
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1.0)
    truth, one_block = labels[50:], np.zeros(40, int)
    found = task.measure(truth, predicted, one_block, np.ones((1, 40)))
    area = roc_auc_score(truth, predicted.probabilities, multi_class="ovr")
    assert found["AUC"][0] == pytest.approx(area)
    accuracy = balanced_accuracy_score(truth, predicted.decided)
    assert found["balanced accuracy"][0] == pytest.approx(accuracy)
    ranked = task.rank(scores[:50, None], labels[:50, None], scores[50:, None])
    assert task.score(truth[:, None], ranked, one_block)[0] == pytest.approx(area)


def test_class_between_two_others_is_ranked(rng):
    # Its one-vs-rest scores are alike in the middle and low at both ends.
    labels = np.arange(300) % 3
    position = labels + rng.normal(0, 0.4, 300)
    scores = np.column_stack([-position, 0.0 * position, position])
    task = ClassTask(("low", "middle", "high"))
    predicted = task.predict(scores, labels, scores)
    assert roc_auc_score(labels == 1, predicted.probabilities[:, 1]) > 0.8


def test_rare_class_is_predicted_as_often_as_it_occurs(rng):
    labels = (np.arange(200) < 20).astype(bool)
    scores = (rng.normal(size=200) + 1.5 * labels)[:, None]
    predicted = ClassTask(("a", "b")).predict(scores, labels, scores)
    assert balanced_accuracy_score(labels, predicted.decided) > 0.7


def test_levels_of_numbers_are_quarters(rng):
    values = rng.normal(size=81)
    levels = NumberTask().levels(values)
    assert np.abs(np.bincount(levels) - 20.25).max() <= 1
    assert values[levels == 0].max() < values[levels == 3].min()
