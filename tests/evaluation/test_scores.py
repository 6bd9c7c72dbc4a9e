from dataclasses import replace

import numpy as np

from brainfeat.evaluation.scores import (
    Calibration,
    LearningPoint,
    ProbeEvaluation,
    Score,
    SiteScore,
    format_number,
)

RESULT = ProbeEvaluation(
    classes=("CN", "AD"),
    n_rows=30,
    n_subjects=20,
    auc=Score(0.812, 0.034),
    p_value=0.005,
    corrected_auc=Score(0.5, 0.1),
    corrected_p_value=0.6,
    confound_auc=Score(0.7, 0.05),
    site_decoding=Score(0.9, 0.02),
    site_chance=0.5,
    site_association=0.4,
    leave_one_site_out=(SiteScore("north", 12, 0.55),),
    learning_curve=(LearningPoint(10, Score(0.6, 0.01)),),
    calibration=Calibration(np.zeros(2), np.zeros(2), 0.2, 0.25, 0.1),
    probabilities=np.zeros(30),
    findings=("site and label are confounded.",),
)


def test_summary_has_every_score():
    text = RESULT.summary()
    for part in (
        "AD against CN: 30 rows of 20 subjects",
        "AUC 0.81 +- 0.03 (standard error), p = 0.005",
        "confounds and site alone: AUC 0.70 +- 0.05",
        "corrected for them: AUC 0.50 +- 0.10, p = 0.600",
        "site read from the features: 0.90 +- 0.02 (chance 0.50)",
        "left-out site north: AUC 0.55 (12 rows)",
        "10 labels: AUC 0.60 +- 0.01",
        "note: site and label are confounded.",
    ):
        assert part in text.splitlines()


def test_summary_omits_missing_scores():
    plain = replace(
        RESULT,
        corrected_auc=None,
        corrected_p_value=None,
        confound_auc=None,
        site_decoding=None,
        site_chance=None,
        leave_one_site_out=(),
        learning_curve=(),
        findings=(),
    )
    assert len(plain.summary().splitlines()) == 2


def test_nan_is_undefined():
    assert format_number(0.25) == "0.25"
    assert format_number(0.25, 3) == "0.250"
    assert format_number(np.nan) == str(Score(np.nan, 0.1)) == "undefined"
    unknown = replace(
        RESULT,
        corrected_auc=Score(np.nan, np.nan),
        corrected_p_value=np.nan,
        site_decoding=Score(np.nan, np.nan),
        leave_one_site_out=(SiteScore("north", 12, np.nan),),
    )
    text = unknown.summary()
    for part in (
        "corrected for them: AUC undefined, p undefined",
        "site read from the features: undefined (chance 0.50)",
        "left-out site north: AUC undefined (12 rows)",
    ):
        assert part in text.splitlines()
    assert "nan" not in text
