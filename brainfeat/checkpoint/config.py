"""The configuration that is stored beside the weights of a checkpoint."""

__all__ = ["CheckpointConfig"]

import dataclasses
from collections.abc import Mapping
from typing import Any

from brainfeat._version import __version__
from brainfeat.checkpoint.origin import Origin
from brainfeat.configs import JsonConfig, check_fields
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoders import EncoderKind, require_slab_config
from brainfeat.models.pooling import PoolingMode
from brainfeat.slabs.grid import Plane


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig(JsonConfig):
    """Settings with which an encoder gives the features it was trained for.

    Parameters
    ----------
    encoder : EncoderConfig, VolumeConfig or ResNetConfig
        Sizes of the network, its modalities and thickness.
    preprocessing : mapping
        Settings for ``Preprocessor.from_dict``, or for ``InputRecipe.from_dict`` if
        ``kind`` is "recipe".
    plane : {"axial", "coronal", "sagittal"}
        Plane of the slabs.
    pooling : {"mean", "cls", "cls+mean", "default"}
        Recommended pooling; ``"default"`` is what the encoder's authors use. It is
        written in the model card for the reader and is part of the fingerprint;
        embedders do not apply it.
    missing_modalities : bool
        Whether training hid modalities, so that subjects may lack some.
    trained : bool
        False for random weights.
    description : str
        What it was trained on and for, in a sentence.
    origin : Origin
        Where weights of others come from, and their licence.
    library_version : str
        Version of brainfeat that wrote it.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or invalid.
    """

    _needs_all_keys = True

    encoder: EncoderKind
    preprocessing: Mapping[str, Any]
    plane: Plane = "axial"
    pooling: PoolingMode = "mean"
    missing_modalities: bool = False
    trained: bool = True
    description: str = ""
    origin: Origin = dataclasses.field(default_factory=Origin)
    library_version: str = __version__

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def slab_encoder(self) -> EncoderConfig:
        """Sizes of an encoder of slabs; a ConfigError for another kind."""
        return require_slab_config(self.encoder)
