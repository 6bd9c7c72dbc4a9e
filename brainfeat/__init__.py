"""Brain MRI to features: embed, pretrain and segment in scikit-learn's terms."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainfeat.checkpoint import Checkpoint
    from brainfeat.estimators.embedder import BrainFoundEmbedder
    from brainfeat.estimators.segmentation import SegmentationEstimator
    from brainfeat.io import read_volume, write_volume
    from brainfeat.preprocessing import Preprocessor
    from brainfeat.pretraining.config import PretrainingConfig
    from brainfeat.simulation.cohort import simulate_cohort
    from brainfeat.tables import read_embeddings
    from brainfeat.training_run import pretrain
    from brainfeat.volume import Geometry, Volume

__all__ = [
    "BrainFoundEmbedder",
    "Checkpoint",
    "Geometry",
    "Preprocessor",
    "PretrainingConfig",
    "SegmentationEstimator",
    "Volume",
    "pretrain",
    "read_embeddings",
    "read_volume",
    "simulate_cohort",
    "write_volume",
]

__version__ = "0.1.0"

_HOMES = {
    "BrainFoundEmbedder": "brainfeat.estimators.embedder",
    "Checkpoint": "brainfeat.checkpoint",
    "Geometry": "brainfeat.volume",
    "Preprocessor": "brainfeat.preprocessing",
    "PretrainingConfig": "brainfeat.pretraining.config",
    "SegmentationEstimator": "brainfeat.estimators.segmentation",
    "Volume": "brainfeat.volume",
    "pretrain": "brainfeat.training_run",
    "read_embeddings": "brainfeat.tables",
    "read_volume": "brainfeat.io",
    "simulate_cohort": "brainfeat.simulation.cohort",
    "write_volume": "brainfeat.io",
}


def __getattr__(name: str) -> Any:
    # Names load on first use, so that `import brainfeat` costs no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'brainfeat' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
