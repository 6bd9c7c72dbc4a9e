"""The classes of encoders, and which one a configuration is for."""

__all__ = ["EncoderKind", "build_encoder", "require_slab_config", "require_slabs"]

from typing import TypeAlias

from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoder import SlabEncoder
from brainfeat.models.protocol import Encoder
from brainfeat.models.resnet import ResNetConfig, VolumeResNet
from brainfeat.models.volume_encoder import VolumeConfig, VolumeEncoder

EncoderKind: TypeAlias = EncoderConfig | VolumeConfig | ResNetConfig


def build_encoder(config: EncoderKind) -> Encoder:
    """Return a network of a configuration, with initial weights."""
    match config:
        case EncoderConfig():
            return SlabEncoder(config)
        case VolumeConfig():
            return VolumeEncoder(config)
        case ResNetConfig():
            return VolumeResNet(config)


def require_slabs(encoder: Encoder) -> SlabEncoder:
    """Return an encoder of slabs, or raise a ConfigError for another."""
    if not isinstance(encoder, SlabEncoder):
        raise ConfigError(_describe_other(encoder.config.kind))
    return encoder


def require_slab_config(config: EncoderKind) -> EncoderConfig:
    """Return the configuration of an encoder of slabs, or raise a ConfigError."""
    if not isinstance(config, EncoderConfig):
        raise ConfigError(_describe_other(config.kind))
    return config


def _describe_other(kind: str) -> str:
    return (
        "expected an encoder of slabs, which alone can be trained, got one of kind "
        f"{kind!r}."
    )
