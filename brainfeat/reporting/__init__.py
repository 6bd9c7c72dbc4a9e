"""Reports and figures about results; estimators never draw."""

from brainfeat.reporting.embedder_report import generate_report
from brainfeat.reporting.importance import Attribution, attribution

__all__ = ["Attribution", "attribution", "generate_report"]
