import numpy as np
import pandas as pd
import pytest

import brainfeat.reporting.probe_section as probe_section_module
from brainfeat.exceptions import InputError
from brainfeat.reporting.cohort import Cohort
from brainfeat.reporting.probe_section import probe_section


def make(rng, known, effect=2.0):
    n_rows = len(known)
    X = rng.normal(size=(n_rows, 5))
    if "diagnosis" in known:
        X[:, 0] += effect * (known["diagnosis"].to_numpy() == 1)
    names = [f"sub-{i}" for i in range(n_rows)]
    return Cohort.build(X, names, names, known)


def test_section_has_scores_curves_and_findings(rng):
    known = pd.DataFrame(
        {"diagnosis": np.arange(40) % 2, "age": rng.uniform(50, 90, 40)}
    )
    known["site"] = np.where(rng.random(40) < 0.9, known["diagnosis"], 0)
    known.loc[0, "age"] = np.nan  # left out
    text = probe_section(make(rng, known))[1]
    assert "39 rows of 39 subjects" in text
    assert "1 of 40 rows with a label are left out: they lack" in text
    assert "age, site alone" in text
    assert "features, corrected for age, site" in text
    assert "ite and label are confounded" in text
    assert text.count('role="img"') == 3  # ROC, calibration, learning curve
    assert "baseline: age" in text
    assert "baseline: all of these" in text
    assert "sensitivity at probability 0.5" in text


def test_without_labels_it_names_the_option(rng):
    text = probe_section(make(rng, pd.DataFrame({"age": [50.0] * 4})))[1]
    assert "--labels" in text


def test_three_classes_have_a_confusion_and_a_curve_each(rng, monkeypatch):
    # Each permutation of several classes takes a model of its own.
    few = {"n_permutations": 9, "n_bootstraps": 100, "n_repeats": 2}
    evaluate = probe_section_module.evaluate_probe
    monkeypatch.setattr(
        probe_section_module, "evaluate_probe", lambda *a, **k: evaluate(*a, **k | few)
    )
    known = pd.DataFrame({"diagnosis": np.arange(45) % 3, "sex": ["M", "F", "F"] * 15})
    evaluation, text = probe_section(make(rng, known))
    assert evaluation.classes == ("0", "1", "2")
    assert "Confusion" in text
    assert "balanced accuracy" in text
    assert text.count("<polyline") == 3 + 3 + 1
    assert "sensitivity" not in text.replace("sensitivity</text>", "")


def test_numbers_have_a_scatter_and_a_bias(rng):
    known = pd.DataFrame({"age": rng.uniform(50, 90, 40), "sex": ["M", "F"] * 20})
    known["qc_brain_ml"] = 1400.0 - 3.0 * known["age"]
    names = [f"sub-{i}" for i in range(40)]
    X = rng.normal(size=(40, 4)) + known["age"].to_numpy()[:, None] / 10
    cohort = Cohort.build(X, names, names, known, label="age")
    evaluation, text = probe_section(cohort)
    assert evaluation.r2.value > 0.3
    assert "slope of the error" in text
    assert "Predicted over true number" in text
    assert "sub-7: " in text
    assert "baseline: qc_brain_ml" in text
    assert "baseline: age" not in text
    assert "AUC" not in text


def test_many_names_are_not_probed(rng):
    known = pd.DataFrame({"diagnosis": [f"name {i}" for i in range(30)]})
    text = probe_section(make(rng, known))[1]
    assert "was not probed" in text
    assert "name 0 (1)" in text


def test_rows_without_a_confound_are_counted(rng):
    known = pd.DataFrame({"diagnosis": np.arange(30) % 2, "age": np.nan, "site": "a"})
    known.loc[:3, "age"] = [60.0, 61.0, 62.0, 63.0]
    text = probe_section(make(rng, known))[1]
    assert "26 of 30 rows with a label are left out" in text
    assert "a value of age, site." in text
    assert "was not probed" in text


def test_few_rows_are_not_probed(rng):
    known = pd.DataFrame({"diagnosis": [0, 1, 0, 1]})
    assert "was not probed" in probe_section(make(rng, known))[1]


def test_confounding_beyond_correction_has_no_p_value(rng):
    known = pd.DataFrame({"diagnosis": np.arange(40) % 2, "site": np.arange(40) % 2})
    text = probe_section(make(rng, known))[1]
    row = text[text.index("features, corrected for site") :].partition("</tr>")[0]
    assert row.count("undefined") == 2
    assert "nan" not in row


def test_missing_modalities_of_the_label_have_a_score_on_the_common_subset(rng):
    known = pd.DataFrame({"diagnosis": np.repeat(["AD", "CN"], 20)})
    patient = known["diagnosis"] == "AD"
    position = np.arange(40) % 20
    has_flair = position < np.where(patient, 16, 4)
    known["modalities"] = np.where(has_flair, "T1w+FLAIR", "T1w")
    known["session_id"] = "ses-1"
    known["qc_voxel_mm"] = np.where(patient, "1.0x1.0x5.0", "1.0x1.0x1.0")
    evaluation, text = probe_section(make(rng, known))
    assert evaluation.pos_label == "AD"
    assert "Scores are of AD, the positive class." in text
    assert "Calibration of the probability of AD" in text
    assert "hich modalities a row has goes with the label" in text
    assert "features, 20 subjects with T1w" in text
    assert "slice thickness goes with the label" in text


def test_positive_class_is_given_and_checked(rng):
    known = pd.DataFrame({"diagnosis": ["AD", "CN"] * 6})
    names = [f"sub-{i}" for i in range(12)]
    X = rng.normal(size=(12, 3))
    cohort = Cohort.build(X, names, names, known, pos_label="CN")
    assert "Scores are of CN, the positive class." in probe_section(cohort)[1]
    with pytest.raises(InputError, match="pos_label: expected one of AD, CN, got 'HC'"):
        Cohort.build(X, names, names, known, pos_label="HC")
