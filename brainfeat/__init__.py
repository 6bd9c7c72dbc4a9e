"""Brain MRI to features: embed, pretrain and segment in scikit-learn's terms."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from brainfeat._version import __version__ as __version__

if TYPE_CHECKING:
    from brainfeat.checkpoint.checkpoint import Checkpoint
    from brainfeat.embedding.embedder import BrainFoundEmbedder
    from brainfeat.finetuning.classifier import BrainFoundClassifier
    from brainfeat.finetuning.regressor import BrainFoundRegressor
    from brainfeat.io.volumes import read_volume, write_volume
    from brainfeat.preprocessing.preprocessor import Preprocessor
    from brainfeat.pretraining.config import PretrainingConfig
    from brainfeat.pretraining.run import pretrain
    from brainfeat.segmentation.estimator import SegmentationEstimator
    from brainfeat.simulation.cohort import simulate_cohort
    from brainfeat.subjects.bids_frame import load_bids
    from brainfeat.tables.embedding_table import read_embeddings
    from brainfeat.volume import Geometry, Volume

__all__ = [
    "BrainFoundClassifier",
    "BrainFoundEmbedder",
    "BrainFoundRegressor",
    "Checkpoint",
    "Geometry",
    "Preprocessor",
    "PretrainingConfig",
    "SegmentationEstimator",
    "Volume",
    "load_bids",
    "pretrain",
    "read_embeddings",
    "read_volume",
    "simulate_cohort",
    "write_volume",
]

_HOMES = {
    "BrainFoundClassifier": "brainfeat.finetuning.classifier",
    "BrainFoundEmbedder": "brainfeat.embedding.embedder",
    "BrainFoundRegressor": "brainfeat.finetuning.regressor",
    "Checkpoint": "brainfeat.checkpoint.checkpoint",
    "Geometry": "brainfeat.volume",
    "Preprocessor": "brainfeat.preprocessing.preprocessor",
    "PretrainingConfig": "brainfeat.pretraining.config",
    "SegmentationEstimator": "brainfeat.segmentation.estimator",
    "Volume": "brainfeat.volume",
    "load_bids": "brainfeat.subjects.bids_frame",
    "pretrain": "brainfeat.pretraining.run",
    "read_embeddings": "brainfeat.tables.embedding_table",
    "read_volume": "brainfeat.io.volumes",
    "simulate_cohort": "brainfeat.simulation.cohort",
    "write_volume": "brainfeat.io.volumes",
}


def __getattr__(name: str) -> Any:
    # Names load on first use, so that `import brainfeat` costs no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'brainfeat' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
