"""Reports and figures about results; estimators never draw."""

from brainfeat.reporting.embedder_report import EmbedderReport, generate_report
from brainfeat.reporting.importance import Attribution, attribution

__all__ = ["Attribution", "EmbedderReport", "attribution", "generate_report"]


def __dir__() -> list[str]:
    return sorted(__all__)
