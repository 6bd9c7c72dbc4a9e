"""Sizes of the encoder, and the named presets."""

__all__ = ["NORM_EPS", "EncoderConfig"]

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from brainfeat.configs import (
    JsonConfig,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Relation,
    Rule,
    UniqueNames,
    check_fields,
)
from brainfeat.exceptions import ConfigError
from brainfeat.models.protocol import Feature, TokenGrid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PresetName = Literal["tiny", "small", "base", "large", "giant"]
FeedForward = Literal["mlp", "swiglu"]
Positions = Literal["learned", "rotary"]
PositionMode = Literal["bicubic", "antialiased"]
Stem = Literal["linear", "hierarchical"]
Background = Literal["kept", "skipped"]
_DropRate = Annotated[float, Rule("in [0, 1)", lambda value: 0 <= value < 1)]
_Fractions = TypeVar("_Fractions", "NDArray[np.float32]", "Tensor")

# Many patches around a brain contain a trace of foreground: they cost as much as any
# other, and have little weight in the mean.
_MIN_FRACTION = 0.1

NORM_EPS = 1e-6  # DINOv2's; PyTorch's default of 1e-5 changes the tokens

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
class EncoderConfig(JsonConfig):
    """Sizes of a `SlabEncoder`; saved as JSON beside its weights.

    Parameters
    ----------
    kind : {"slab"}
        The class of encoders.
    modalities : tuple of str
        BIDS suffixes, in channel order.
    thickness : int
        Sequential slices of each modality in one slab.
    patch_size : int
        Edge of a square patch in pixels.
    image_size : tuple of int (H, W)
        Pixels of the images that the stored position embeddings cover; they are
        interpolated for other sizes.
    embed_dim, depth, num_heads : int
        Length of a token, number of blocks, attention heads of a block.
    mlp_ratio : float
        Nominal hidden length of the feed-forward layers over ``embed_dim``.
    ffn : {"mlp", "swiglu"}
        Kind of feed-forward layer.
    num_register_tokens : int
        Extra tokens without a position in the image.
    positions : {"learned", "rotary"}
        Whether embeddings of positions are added to the tokens, as in DINOv2, or
        queries and keys of patches are rotated, as in DINOv3.
    position_mode : {"bicubic", "antialiased"}
        Interpolation of the position embeddings.
    stem : {"linear", "hierarchical"}
        How pixels become a token: DINOv2's one linear map, or a small network for
        each modality, within the patch.
    slab_positions : int
        Number of learned embeddings along the slab axis, which are interpolated for
        each slab; 0 for none, as in DINOv2.
    slab_mixing : tuple of int
        Blocks that are followed by a `SlabMixing` layer, counted from 0.
    background : {"kept", "skipped"}
        Whether patches without foreground are encoded like all others, as in DINOv2,
        or skipped, with those of less than a tenth: then attention ignores them, slab
        mixing sees zeros, and their tokens are zero.
    layer_scale : float
        Initial factor of the residual branches.
    norm_eps : float
        Epsilon of the layer norms.
    drop_path : float
        Fraction of samples that skip the last block's branches in training; it
        grows linearly from 0 at the first block. DINOv2 was trained with the same
        rate in all blocks.
    tissues : tuple of str
        Tissues whose fraction of a patch the encoder estimates from its token; those of
        a brain sum to the volume within the skull. Set by pretraining on known anatomy.
    structures : tuple of str
        Further structures that it estimates, which may overlap with tissues and with
        each other.
    projection : bool
        Whether a linear map of all tokens follows the final norm.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or invalid.
    """

    kind: Literal["slab"] = "slab"
    modalities: UniqueNames = ("T1w", "T2w", "FLAIR")
    thickness: PositiveInt = 4
    patch_size: PositiveInt = 8
    image_size: tuple[PositiveInt, PositiveInt] = (104, 80)
    embed_dim: PositiveInt = 192
    depth: PositiveInt = 12
    num_heads: PositiveInt = 3
    mlp_ratio: PositiveFloat = 4.0
    ffn: FeedForward = "mlp"
    num_register_tokens: NonNegativeInt = 0
    positions: Positions = "learned"
    position_mode: PositionMode = "bicubic"
    stem: Stem = "linear"
    slab_positions: NonNegativeInt = 0
    slab_mixing: tuple[int, ...] = ()
    background: Background = "kept"
    layer_scale: float = 1e-5  # DINOv2's start of training
    norm_eps: PositiveFloat = NORM_EPS
    drop_path: _DropRate = 0.0
    tissues: UniqueNames = ()
    structures: UniqueNames = ()
    projection: bool = False

    def __post_init__(self) -> None:
        check_fields(self, _relations)

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> Self:
        """Return a named size, with some fields changed.

        Parameters
        ----------
        name : {"tiny", "small", "base", "large", "giant"}
            ``"tiny"`` is made for brains at 2 mm; the others are DINOv2's sizes.
        **changes : object
            Fields that replace the preset's.

        Returns
        -------
        EncoderConfig
            The configuration.

        Raises
        ------
        ConfigError
            If the preset or a field does not exist, or a value is invalid.
        """
        if name not in _PRESETS:
            raise ConfigError(f"preset: expected one of {[*_PRESETS]}, got {name!r}.")
        return cls.from_dict(_PRESETS[name] | changes)

    def count_foreground(self, fractions: _Fractions) -> _Fractions:
        """Zero the foreground fractions of patches that are skipped.

        Parameters
        ----------
        fractions : float32 ndarray or Tensor
            Fraction of each patch that is foreground.

        Returns
        -------
        float32 ndarray or Tensor
            Zero for skipped patches; unchanged unless background is skipped.
        """
        minimum = _MIN_FRACTION if self.background == "skipped" else 0.0
        return fractions * (fractions >= minimum)

    @property
    def anatomy_names(self) -> tuple[str, ...]:
        """Tissues, then structures: the outputs of the encoder's anatomy map."""
        return self.tissues + self.structures

    @property
    def feature(self) -> Feature:
        """What `Checkpoint` recommends: the mean over all tokens."""
        return "mean"

    @property
    def has_cls_token(self) -> bool:
        """Whether there is a class token: one for each slab."""
        return True

    @property
    def summary(self) -> str:
        """Sizes of the network, for a reader."""
        return (
            f"{self.depth} blocks of width {self.embed_dim}, patches of "
            f"{self.patch_size} pixels, slabs of {self.thickness} slices"
        )

    def token_grid(self, shape: tuple[int, int, int]) -> TokenGrid:
        """Return where tokens lie in a stack of slices (n_slices, H, W).

        Parameters
        ----------
        shape : tuple of int
            Slices, in multiples of the thickness, and their pixels, in multiples of the
            patch size.

        Returns
        -------
        TokenGrid
            A token for each patch of each slab.
        """
        step = (self.thickness, self.patch_size, self.patch_size)
        i, j, k = (size // length for size, length in zip(shape, step, strict=True))
        p, q, r = ((length - 1) / 2 for length in step)
        return TokenGrid((i, j, k), step, (p, q, r))

    @property
    def in_channels(self) -> int:
        """Channels of a slab: modalities times thickness."""
        return len(self.modalities) * self.thickness

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along height and width of ``image_size``."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size


def _relations(config: EncoderConfig) -> Iterator[Relation]:
    patch = config.patch_size
    yield bool(config.modalities), "modalities", "at least one name"
    divides = config.embed_dim % config.num_heads == 0
    yield divides, "num_heads", f"a divisor of embed_dim {config.embed_dim}"
    if config.positions == "rotary":
        is_split = config.embed_dim % (4 * config.num_heads) == 0
        rotary = "for rotary positions"
        yield is_split, "embed_dim", f"a multiple of 4 for each head {rotary}"
    is_new = not set(config.structures) & set(config.tissues)
    yield is_new, "structures", "other names than those of tissues"
    is_relative = bool(config.tissues) or not config.structures
    yield is_relative, "tissues", "at least one name beside structures"
    fits = all(length % patch == 0 for length in config.image_size)
    yield fits, "image_size", f"multiples of patch_size {patch}"
    exist = set(config.slab_mixing) <= set(range(config.depth))
    yield exist, "slab_mixing", f"blocks below depth {config.depth}"
    if config.stem == "hierarchical":
        stem = "for a hierarchical stem"
        yield patch & (patch - 1) == 0, "patch_size", f"a power of 2 {stem}"
        is_multiple = config.embed_dim % patch == 0
        yield is_multiple, "embed_dim", f"a multiple of patch_size {patch} {stem}"
