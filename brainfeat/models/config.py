"""Sizes of the encoder, and the named presets."""

__all__ = ["EncoderConfig"]

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

from brainfeat.exceptions import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PresetName = Literal["tiny", "small", "base", "large", "giant"]
FeedForward = Literal["mlp", "swiglu"]
PositionMode = Literal["bicubic", "antialiased"]
Stem = Literal["linear", "hierarchical"]
Background = Literal["kept", "skipped"]
_Fractions = TypeVar("_Fractions", "NDArray[np.float32]", "Tensor")

_DINOV2: dict[str, Any] = {"patch_size": 14, "image_size": (518, 518)}
_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"slab_mixing": (2, 5, 8), "layer_scale": 0.1},
    "small": _DINOV2 | {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": _DINOV2 | {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": _DINOV2 | {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "giant": _DINOV2
    | {"embed_dim": 1536, "depth": 40, "num_heads": 24, "ffn": "swiglu"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a `SlabEncoder`; saved as JSON beside its weights.

    Parameters
    ----------
    modalities : tuple of str
        BIDS suffixes, in channel order.
    thickness : int
        Sequential slices of each modality in one slab.
    patch_size : int
        Edge of a square patch in pixels.
    image_size : tuple of int (H, W)
        Pixels of the images that the stored position embeddings cover; other
        sizes are reached by interpolation.
    embed_dim, depth, num_heads : int
        Length of a token, number of blocks, attention heads a block.
    mlp_ratio : float
        Nominal hidden length of the feed-forward layers over ``embed_dim``.
    ffn : {"mlp", "swiglu"}
        Kind of feed-forward layer.
    num_register_tokens : int
        Extra tokens that hold no place in the image.
    position_mode : {"bicubic", "antialiased"}
        How position embeddings are interpolated.
    stem : {"linear", "hierarchical"}
        How pixels become a token: DINOv2's one linear map, or a small network for
        each modality that never looks beyond the patch.
    slab_positions : int
        Learned embeddings along the slab axis, between which a slab's own is
        interpolated; 0 is none, as in DINOv2.
    slab_mixing : tuple of int
        Blocks that are followed by a `SlabMixing` layer, counted from 0.
    background : {"kept", "skipped"}
        Whether patches without foreground are encoded like all others, as in DINOv2,
        or left out, with those of less than a tenth: they are then no keys of
        attention, slab mixing sees zeros in their place, and their tokens are zero.
    layer_scale : float
        Initial factor of the residual branches.
    drop_path : float
        Share of samples that skip the last block's branches in training; it
        grows linearly from 0 at the first block. In DINOv2's own training it is the
        same in all blocks.
    tissues : tuple of str
        Tissues and structures whose share of a patch the encoder can read from its
        token; pretraining on known anatomy sets them.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or impossible.
    """

    modalities: tuple[str, ...] = ("T1w", "T2w", "FLAIR")
    thickness: int = 4
    patch_size: int = 8
    image_size: tuple[int, int] = (104, 80)
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    ffn: FeedForward = "mlp"
    num_register_tokens: int = 0
    position_mode: PositionMode = "bicubic"
    stem: Stem = "linear"
    slab_positions: int = 0
    slab_mixing: tuple[int, ...] = ()
    background: Background = "kept"
    layer_scale: float = 1e-5  # DINOv2's start of training
    drop_path: float = 0.0
    tissues: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ConfigError(f"EncoderConfig: {problem}")

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> Self:
        """Return a named size, with some fields changed.

        Parameters
        ----------
        name : {"tiny", "small", "base", "large", "giant"}
            ``"tiny"`` is made for 2 mm brains; the others are DINOv2's sizes.
        **changes : object
            Fields that replace the preset's.

        Returns
        -------
        EncoderConfig
            The configuration.

        Raises
        ------
        ConfigError
            If the preset or a field does not exist, or a value is impossible.
        """
        if name not in _PRESETS:
            raise ConfigError(
                f"unknown preset {name!r}, expected one of {[*_PRESETS]}."
            )
        return cls.from_dict(_PRESETS[name] | changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from plain JSON values.

        Parameters
        ----------
        values : mapping
            Field names and values; absent fields take their defaults.

        Returns
        -------
        EncoderConfig
            The configuration.

        Raises
        ------
        ConfigError
            If a key is unknown or a value impossible.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ConfigError(f"EncoderConfig: unknown keys {unknown}.")
        lists = {key: tuple(v) for key, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    def count_foreground(self, fractions: _Fractions) -> _Fractions:
        """Count patches that hold a trace of foreground as those that hold none.

        Parameters
        ----------
        fractions : float32 ndarray or Tensor
            Share of each patch that is foreground.

        Returns
        -------
        float32 ndarray or Tensor
            The same, 0 for patches that are left out; unless background is skipped,
            as it was.
        """
        least = _LEAST_FRACTION if self.background == "skipped" else 0.0
        return fractions * (fractions >= least)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values.

        Returns
        -------
        dict
            What `from_dict` reads.
        """
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def in_channels(self) -> int:
        """Channels of a slab: modalities times thickness."""
        return len(self.modalities) * self.thickness

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along height and width of ``image_size``."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size


# Around a brain many patches hold a trace of it, and what lies 5 mm around it: they
# would cost as much as any, and count for as little in the mean as there is in them.
_LEAST_FRACTION = 0.1

_POSITIVE = ("thickness", "patch_size", "embed_dim", "depth", "num_heads")
_NUMBERS = ("mlp_ratio", "layer_scale", "drop_path")
_ITEM_KINDS = {
    "modalities": str,
    "image_size": int,
    "slab_mixing": int,
    "tissues": str,
}
_CHOICES = {
    "ffn": get_args(FeedForward),
    "position_mode": get_args(PositionMode),
    "stem": get_args(Stem),
    "background": get_args(Background),
}


def _problems(config: EncoderConfig) -> Iterator[str]:
    """Say what is wrong; the values are compared once each has its type."""
    yield from _number_problems(config)
    yield from _type_problems(config)
    checks = {
        f"modalities must be distinct names, got {config.modalities}.": (
            0 < len(config.modalities) == len(set(config.modalities))
        ),
        f"tissues must be distinct names, got {config.tissues}.": (
            all(config.tissues) and len(config.tissues) == len(set(config.tissues))
        ),
        f"num_heads {config.num_heads} does not divide embed_dim {config.embed_dim}.": (
            config.embed_dim % config.num_heads == 0
        ),
        f"image_size must be two multiples of the patch size {config.patch_size}, "
        f"got {config.image_size}.": len(config.image_size) == 2
        and all(n > 0 and n % config.patch_size == 0 for n in config.image_size),
        f"slab_mixing {config.slab_mixing} is not within {config.depth} blocks.": (
            set(config.slab_mixing) <= set(range(config.depth))
        ),
        f"drop_path must be in [0, 1), got {config.drop_path}.": (
            0.0 <= config.drop_path < 1.0
        ),
        "a hierarchical stem needs a patch size that is a power of 2, and embed_dim a "
        f"multiple of it, got {config.patch_size} and {config.embed_dim}.": (
            config.stem == "linear"
            or (
                config.patch_size & (config.patch_size - 1) == 0
                and config.embed_dim % config.patch_size == 0
            )
        ),
        f"mlp_ratio must be positive, got {config.mlp_ratio}.": config.mlp_ratio > 0.0,
    }
    yield from (problem for problem, holds in checks.items() if not holds)


def _number_problems(config: EncoderConfig) -> Iterator[str]:
    for name, minimum in {
        **dict.fromkeys(_POSITIVE, 1),
        "num_register_tokens": 0,
        "slab_positions": 0,
    }.items():
        value = getattr(config, name)
        # By type, because a bool is an int to isinstance.
        if type(value) is not int or value < minimum:
            yield f"{name} must be an integer of at least {minimum}, got {value!r}."
    for name in _NUMBERS:
        value = getattr(config, name)
        if type(value) not in {int, float}:
            yield f"{name} must be a number, got {value!r}."


def _type_problems(config: EncoderConfig) -> Iterator[str]:
    for name, kind in _ITEM_KINDS.items():
        items = getattr(config, name)
        if type(items) is not tuple or any(type(item) is not kind for item in items):
            yield f"{name} must be a tuple of {kind.__name__}, got {items!r}."
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            yield f"{name} must be one of {choices}, got {getattr(config, name)!r}."
