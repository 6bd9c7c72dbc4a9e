"""Agreement equals the naive analysis of variance, and the published example."""

import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from brainfeat.exceptions import InputError
from brainfeat.metrics import (
    dice_scores,
    hausdorff_distances,
    intraclass_correlation,
    retrieval_accuracy,
    score_lesions,
)

# Shrout & Fleiss 1979, table 2: six targets, four judges.
JUDGES = [
    [9, 6, 8, 7, 10, 6],
    [2, 1, 4, 1, 5, 2],
    [5, 3, 6, 2, 6, 4],
    [8, 2, 8, 6, 9, 7],
]
PUBLISHED = np.array(JUDGES).T


def naive_agreement(table):
    """ICC(2,1) from sums of squares, one term at a time."""
    n, k = table.shape
    grand = table.mean()
    total = sum((x - grand) ** 2 for row in table for x in row)
    rows = sum(k * (row.mean() - grand) ** 2 for row in table)
    columns = sum(n * (column.mean() - grand) ** 2 for column in table.T)
    bms, jms = rows / (n - 1), columns / (k - 1)
    ems = (total - rows - columns) / ((n - 1) * (k - 1))
    return (bms - ems) / (bms + (k - 1) * ems + k * (jms - ems) / n)


def test_agreement_equals_the_published_example():
    assert round(float(intraclass_correlation(PUBLISHED)), 2) == 0.29


def test_agreement_of_many_features_equals_the_naive_table_of_each():
    scores = np.random.default_rng(0).normal(size=(7, 3, 5))
    scores += np.random.default_rng(1).normal(size=(7, 1, 5))
    together = intraclass_correlation(scores)
    naive = [naive_agreement(scores[..., number]) for number in range(5)]
    np.testing.assert_allclose(together, naive, rtol=1e-12)


def test_agreement_ignores_scale_and_origin_but_not_an_offset_of_a_rater():
    same = intraclass_correlation(1e6 + 100.0 * PUBLISHED)
    np.testing.assert_allclose(same, intraclass_correlation(PUBLISHED))
    equal = np.repeat(PUBLISHED[:, :1], 3, axis=1)
    assert intraclass_correlation(equal) == pytest.approx(1.0)
    assert intraclass_correlation(equal + np.array([0, 0, 9])) < 0.5


@pytest.mark.parametrize("score", [1.0, 0.7])  # the mean of 0.7 is rounded
def test_agreement_of_constant_scores_is_nan(score):
    constant = np.full((6, 4), score)
    agreement = intraclass_correlation(np.stack([constant, PUBLISHED], axis=-1))
    assert np.isnan(agreement[0])
    assert agreement[1] == intraclass_correlation(PUBLISHED)


@pytest.mark.parametrize("shape", [(6,), (1, 4), (6, 1)])
def test_agreement_requires_two_subjects_and_two_raters(shape):
    with pytest.raises(InputError, match="n_subjects, n_raters"):
        intraclass_correlation(np.zeros(shape))


def test_retrieval_is_the_fraction_of_scans_whose_nearest_is_the_same_subject(rng):
    subjects = np.repeat(np.arange(20), 2)
    rows = rng.normal(size=(20, 30))[subjects] + 0.1 * rng.normal(size=(40, 30))
    assert retrieval_accuracy(rows, subjects) == 1.0
    assert retrieval_accuracy(rng.normal(size=(40, 30)), subjects) < 0.2


def test_retrieval_holds_no_table_of_all_pairs(rng):
    subjects = np.r_[np.repeat(np.arange(500), 2), np.arange(500, 1500)]
    rows = rng.normal(size=(1500, 7))[subjects] + 0.5 * rng.normal(size=(2000, 7))
    tracemalloc.start()
    accuracy = retrieval_accuracy(rows, subjects)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * 2000 * 8 / 2
    unit = rows / rows.std(axis=0) - (rows / rows.std(axis=0)).mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    is_right = []
    for row in range(1000):
        similarity = unit @ unit[row]
        similarity[row] = -1.0
        is_right.append(subjects[similarity.argmax()] == subjects[row])
    assert accuracy == np.mean(is_right)


def test_retrieval_counts_subjects_with_several_scans_only():
    rows = [[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [5.0, -9.0]]
    assert retrieval_accuracy(rows, ["a", "a", "b", "c"]) == 1.0


def test_retrieval_ignores_constant_features(rng):
    features, subjects = rng.normal(size=(12, 2)), np.arange(12) // 2
    alone = retrieval_accuracy(features, subjects)
    shared = np.full((12, 300), 0.1)  # whose mean is rounded
    assert shared.std(axis=0).all()
    assert retrieval_accuracy(np.hstack([features, shared]), subjects) == alone


def test_retrieval_requires_a_subject_with_two_scans():
    with pytest.raises(InputError, match="one with two rows, got none"):
        retrieval_accuracy(np.eye(3), ["a", "b", "c"])
    with pytest.raises(InputError, match="got 2 for shape"):
        retrieval_accuracy(np.eye(3), ["a", "b"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_retrieval_refuses_features_that_are_not_finite(value):
    rows = np.array([[0.0, 1.0], [0.1, value], [2.0, 0.0], [2.2, 0.0]])
    with pytest.raises(InputError, match="features: expected finite values"):
        retrieval_accuracy(rows, ["a", "a", "b", "b"])


def test_icc_of_few_subjects_falls_below_its_limit_for_many():
    # No subject and no rater scores higher than another.
    few = np.array([[1.0, -1.0], [1.0, -1.0], [-2.0, 2.0]])
    assert intraclass_correlation(few) == pytest.approx(-3.0)
    many = np.tile([[1.0, -1.0], [-1.0, 1.0]], (500, 1))
    assert intraclass_correlation(many) == pytest.approx(-1.0, abs=0.01)
    assert np.isnan(intraclass_correlation([[0.0, 1.0], [1.0, 0.0]]))


def test_dice_equals_the_naive_one(rng):
    truth, found = rng.integers(0, 4, (2, 7, 8, 9))
    for label, score in zip(
        (1, 2, 3), dice_scores(truth, found, [1, 2, 3]), strict=True
    ):
        true, predicted = (
            {*map(tuple, np.argwhere(m == label))} for m in (truth, found)
        )
        naive = 2 * len(true & predicted) / (len(true) + len(predicted))
        assert score == pytest.approx(naive)


@pytest.mark.slow  # monai takes seconds to import
def test_dice_equals_monai(rng):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    truth, found = rng.integers(0, 4, (2, 7, 8, 9))
    hot = [
        torch.nn.functional.one_hot(torch.from_numpy(m), 4).permute(3, 0, 1, 2)[None]
        for m in (found, truth)
    ]
    theirs = monai.DiceMetric(include_background=False)(*hot)[0].numpy()
    np.testing.assert_allclose(dice_scores(truth, found, [1, 2, 3]), theirs, rtol=1e-6)


def test_dice_of_a_class_in_neither_map_is_nan():
    scores = dice_scores([0, 1, 5], [0, 1, 0], [1, 3, 5])
    np.testing.assert_array_equal(scores, [1.0, np.nan, 0.0])


def blobs(rng, shape=(9, 12, 7)):
    """Two label maps of three classes each, some at the edge of the image."""
    return [
        np.digitize(
            ndimage.gaussian_filter(rng.normal(size=shape), 1.5), [-0.1, 0, 0.1]
        )
        for _ in range(2)
    ]


def naive_distances(truth, found, label, spacing):
    """Distances from each border voxel of one map to the closest of the other."""
    borders = []
    for mask in (np.pad(truth == label, 1), np.pad(found == label, 1)):
        shifts = [
            np.roll(mask, by, axis) for axis in range(mask.ndim) for by in (-1, 1)
        ]
        borders.append(np.argwhere(mask & ~np.all(shifts, axis=0)) * spacing)
    apart = np.linalg.norm(borders[0][:, None] - borders[1], axis=-1)
    return apart.min(1), apart.min(0)


@pytest.mark.parametrize("percentile", [100, 95, 50])
def test_hausdorff_distance_equals_the_naive_one(rng, percentile):
    truth, found = blobs(rng)
    spacing = (0.7, 1.5, 4.0)
    naive = [
        max(
            np.percentile(d, percentile)
            for d in naive_distances(truth, found, label, spacing)
        )
        for label in (1, 2, 3)
    ]
    options = {"spacing": spacing, "percentile": percentile}
    scores = hausdorff_distances(truth, found, [1, 2, 3], **options)
    np.testing.assert_allclose(scores, naive)
    back = hausdorff_distances(found, truth, [1, 2, 3], **options)
    np.testing.assert_array_equal(scores, back)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")  # monai's own call
def test_hausdorff_distance_equals_monai(rng):
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    truth, found = blobs(rng)
    hot = [
        torch.nn.functional.one_hot(torch.from_numpy(m), 4).permute(3, 0, 1, 2)[None]
        for m in (found, truth)
    ]
    spacing = [0.7, 1.5, 4.0]
    theirs = monai.compute_hausdorff_distance(*hot, percentile=95, spacing=spacing)[0]
    ours = hausdorff_distances(truth, found, [1, 2, 3], spacing=spacing)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_hausdorff_distance_of_the_same_is_0():
    maps = np.zeros((4, 5, 6), int)
    maps[1:3, 2, 3:] = 7
    assert hausdorff_distances(maps, maps, [7], spacing=(1, 2, 3)) == [0.0]


@pytest.mark.parametrize(
    ("spacing", "got"),
    [((1.0,), "1"), ((1, 2, 1), "1, 2, 1"), ((1, 0), "1, 0"), ((1, np.nan), "1, nan")],
)
def test_spacing_is_one_number_an_axis(spacing, got):
    maps = np.ones((2, 3), int)
    message = rf"^spacing: expected 2 positive numbers, got {got}\."
    with pytest.raises(InputError, match=message):
        hausdorff_distances(maps, maps, [1], spacing=spacing)


def test_adjacent_voxels_are_one_lesion():
    truth = np.zeros((5, 6, 7), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True  # one, by a corner
    truth[4, 5, 6] = True
    found = np.zeros_like(truth)
    found[1, 1, 1] = True
    scores = score_lesions(truth, found)
    assert (scores.precision, scores.recall) == (1.0, 0.5)
    assert scores.f1 == pytest.approx(2 / 3)


def test_scores_without_a_lesion_or_prediction():
    none, some = np.zeros((3, 4), bool), np.eye(3, 4, dtype=bool)
    assert np.isnan(score_lesions(none, none).f1)
    assert score_lesions(some, none).f1 == 0.0
    assert score_lesions(none, some).f1 == 0.0


@pytest.mark.parametrize(
    "score",
    [
        score_lesions,
        lambda a, b: dice_scores(a, b, [1]),
        lambda a, b: hausdorff_distances(a, b, [1], spacing=(1, 1)),
    ],
)
def test_label_maps_of_different_shapes_are_refused(score):
    with pytest.raises(InputError, match="same shape"):
        score(np.ones((2, 3)), np.ones((3, 2)))
