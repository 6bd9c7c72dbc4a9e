"""Reports and figures about results; estimators never draw."""

from brainfeat.reporting.attribution_maps import Attribution
from brainfeat.reporting.embedder_report import EmbedderReport, generate_report
from brainfeat.reporting.importance import attribution

__all__ = ["Attribution", "EmbedderReport", "attribution", "generate_report"]


def __dir__() -> list[str]:
    return sorted(__all__)
