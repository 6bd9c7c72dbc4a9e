import warnings

import numpy as np
import pytest

from brainfeat.evaluation import evaluate_probe
from brainfeat.evaluation.acquisition import describe_thicknesses
from brainfeat.exceptions import ConfoundingWarning, InputError

FAST = {"n_repeats": 1, "n_permutations": 20}


def _cohort(rng, patients, controls):
    """Features that show FLAIR alone, and which of the first of each class have it."""
    y = np.repeat(["AD", "CN"], 20)
    has_flair = np.r_[np.arange(20) < patients, np.arange(20) < controls]
    X = rng.normal(size=(40, 4)) + 6 * has_flair[:, None]
    return X, y, np.where(has_flair, "T1w+FLAIR", "T1w")


def _warned(text, *args, **options):
    """Evaluate a probe that warns of all its findings, the text among them."""
    with pytest.warns(ConfoundingWarning) as record:
        result = evaluate_probe(*args, **options)
    assert [str(warning.message) for warning in record] == list(result.findings)
    assert text in " ".join(result.findings)
    return result


def test_modalities_of_the_label_are_reported_with_the_common_score(rng):
    X, y, modalities = _cohort(rng, 16, 4)
    result = _warned(
        "which modalities a row has goes with", X, y, modalities=modalities, **FAST
    )
    assert result.auc.value > 0.7
    found, advice = result.findings
    assert "label (Cramer's V 0.60, p = 0.0001)" in found
    assert "fraction of AD by value: T1w 20%, T1w+FLAIR 80%." in found
    assert result.common.modalities == "T1w"
    assert result.common.n_subjects == 20
    assert result.p_value <= 0.05 < result.common.p_value
    assert str(result.common) in advice
    assert "--require or --only" in advice
    assert str(result.common) in result.summary().splitlines()


def test_modalities_of_one_class_each_leave_no_common_subset(rng):
    X, y, modalities = _cohort(rng, 20, 0)
    result = _warned(
        "effects of class and modalities", X, y, modalities=modalities, **FAST
    )
    assert result.common is None


@pytest.mark.parametrize("name", ["site", "session"])
def test_modalities_of_a_site_or_session_are_reported(rng, name):
    X, y, modalities = _cohort(rng, 10, 10)
    other = np.where(modalities == "T1w", "a", "b")
    result = _warned(
        f"a row has goes with the {name} ",
        X,
        y,
        modalities=modalities,
        **{name: other},
        **FAST,
    )
    assert result.common.n_subjects == 20


def test_balanced_modalities_and_alike_voxels_are_no_finding(rng):
    X, y, modalities = _cohort(rng, 10, 10)
    session = [None, "ses-1"] * 20
    voxels = ["1.0x1.0x1.2"] * 39 + [None]
    known = {"modalities": modalities, "session": session, "voxel_mm": voxels}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_probe(X, y, **known, **FAST)
    assert result.findings == ()
    assert result.common is None


def test_repeat_scans_of_a_subject_count_once(rng):
    y = np.repeat(["AD", "CN"], 40)
    groups = np.repeat(np.arange(8), 10)  # 4 subjects of each class
    modalities = np.where(groups < 4, "T1w", "T2w")
    X = rng.normal(size=(80, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfoundingWarning)
        few = np.where(groups == 0, "T1w", "T2w")  # 1 of 4 patients, in 10 scans
        evaluate_probe(X, y, groups, modalities=few, **FAST)
    _warned("p = 0.005", X, y, groups, modalities=modalities, **FAST)


def test_slice_thickness_of_the_label_is_reported(rng):
    y = np.repeat(["AD", "CN"], 20)
    voxels = np.where(y == "AD", "1.0x1.0x5.0", "1.0x1.2x1.0").astype(object)
    voxels[3] = None
    X = rng.normal(size=(40, 3))
    result = _warned(
        "slice thickness goes with the label", X, y, voxel_mm=voxels, **FAST
    )
    assert "1.2 mm 0%, 5.0 mm 100%" in result.findings[-1]


@pytest.mark.parametrize(
    ("voxels", "expected"),
    [
        (["1.0x1.0x1.2", "1.2x1.0x1.0"], None),
        (["1.0x1.0x1.0", "1.1x1.0x1.0", None], None),
        ([None, float("nan"), ""], None),
        (["1.0x1.0x1.0", "1.0x1.0x1.2"], "1.0 mm (1 rows), 1.2 mm (1 rows)"),
        (["0.9x0.9x5.0", "1.0x1.0x1.0", "5.0x1x1"], "1.0 mm (1 rows), 5.0 mm (2 rows)"),
    ],
)
def test_mixed_slice_thicknesses_are_described(voxels, expected):
    text = describe_thicknesses(voxels)
    assert text is None if expected is None else expected in text


@pytest.mark.parametrize("name", ["modalities", "session", "voxel_mm"])
def test_columns_of_another_length_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: expected a value for each of 4"):
        evaluate_probe(np.eye(4), [0, 1, 0, 1], **{name: ["a"]})
