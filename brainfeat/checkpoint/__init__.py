"""Weights with the preprocessing that they need, as folders and foreign files."""

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.config import CheckpointConfig

__all__ = ["Checkpoint", "CheckpointConfig"]


def __dir__() -> list[str]:
    return sorted(__all__)
