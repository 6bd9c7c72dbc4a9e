"""Evaluate features: cross-validation, confounds, decoding maps, reliability."""

from brainfeat.evaluation.compare import compare_embeddings
from brainfeat.evaluation.comparison import Comparison
from brainfeat.evaluation.confounds import ConfoundRegressor
from brainfeat.evaluation.decoding import DecodingMap, decode_positions
from brainfeat.evaluation.estimates import Estimate, PredictionBias
from brainfeat.evaluation.harmonization import SiteHarmonizer
from brainfeat.evaluation.leakage import warn_of_leakage
from brainfeat.evaluation.longitudinal import LongitudinalChange, longitudinal_change
from brainfeat.evaluation.outliers import CohortDistances, cohort_distances
from brainfeat.evaluation.probe import evaluate_probe
from brainfeat.evaluation.rates import OperatingPoint, RocCurve
from brainfeat.evaluation.reliability import Reliability, evaluate_reliability
from brainfeat.evaluation.scores import ProbeEvaluation, Score

__all__ = [
    "CohortDistances",
    "Comparison",
    "ConfoundRegressor",
    "DecodingMap",
    "Estimate",
    "LongitudinalChange",
    "OperatingPoint",
    "PredictionBias",
    "ProbeEvaluation",
    "Reliability",
    "RocCurve",
    "Score",
    "SiteHarmonizer",
    "cohort_distances",
    "compare_embeddings",
    "decode_positions",
    "evaluate_probe",
    "evaluate_reliability",
    "longitudinal_change",
    "warn_of_leakage",
]


def __dir__() -> list[str]:
    return sorted(__all__)
