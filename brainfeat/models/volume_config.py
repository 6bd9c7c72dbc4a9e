"""Sizes and parts of a transformer over the 3D patches of a volume."""

__all__ = ["VolumeConfig"]

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

from brainfeat.configs import (
    JsonConfig,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Relation,
    UniqueNames,
    check_fields,
)
from brainfeat.models.config import Background
from brainfeat.models.feed_forward import ExpertConfig, Gelu
from brainfeat.models.protocol import Feature, TokenGrid
from brainfeat.models.rotary import MIN_VOLUME_CHANNELS
from brainfeat.models.volume_positions import CONCATENATED_CHANNELS

Streams = Literal["averaged", "joint"]
Positions = Literal["none", "learned", "sinusoidal", "concatenated", "rotary"]
_Sizes = tuple[PositiveInt, PositiveInt, PositiveInt]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumeConfig(JsonConfig):
    """Sizes of a `VolumeEncoder`; saved as JSON beside its weights.

    Parameters
    ----------
    kind : {"volume"}
        The class of encoders.
    modalities : tuple of str
        BIDS suffixes, in the order of the volumes of a subject.
    streams : {"averaged", "joint"}
        Whether each modality is encoded alone, by the same weights, and tokens are
        averaged over those present; or each has its own patch embedding and positions,
        and attention is over the patches of all.
    patch_size : tuple of int
        Voxels of a patch along the axes of a volume.
    volume_size : tuple of int
        Voxels that stored positions cover, and for which the encoder was trained; other
        multiples of the patch size are accepted.
    embed_dim, depth, num_heads : int
        Length of a token, number of blocks, attention heads of a block.
    mlp_ratio : float
        Hidden length of the feed-forward layers over ``embed_dim``.
    positions : {"learned", "sinusoidal", "concatenated", "rotary", "none"}
        Learned embeddings, or sinusoids, are added to the tokens; sinusoids of 30
        channels are appended to tokens of the others; or queries and keys are rotated.
    has_cls_token : bool
        Whether there is a class token. Its position is part of the token.
    layer_scale : float or None
        Initial factor of the residual branches; None for branches without factors.
    norm_eps : float
        Epsilon of the layer norms.
    qkv_bias, proj_bias : bool
        Whether queries, keys and values, and the output of the attention, have a bias.
    gelu : {"exact", "tanh"}
        Kind of GELU.
    gate : bool
        Whether each token scales the output of each attention head.
    experts : ExpertConfig or None
        Blocks whose feed-forward layer is a mixture of experts, and its sizes.
    background : {"kept", "skipped"}
        Whether patches without foreground are encoded like all others, or dropped: then
        their tokens are zero.
    feature : {"cls", "first", "mean"}
        What its authors use as the feature of a subject: the class token, the token of
        the first patch, or the mean over all tokens that are encoded.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or invalid.
    """

    kind: Literal["volume"] = "volume"
    modalities: UniqueNames = ("T1w",)
    streams: Streams = "averaged"
    patch_size: _Sizes = (16, 16, 16)
    volume_size: _Sizes = (96, 96, 96)
    embed_dim: PositiveInt = 768
    depth: PositiveInt = 12
    num_heads: PositiveInt = 12
    mlp_ratio: PositiveFloat = 4.0
    positions: Positions = "learned"
    has_cls_token: bool = False
    layer_scale: float | None = None
    norm_eps: NonNegativeFloat = 1e-6
    qkv_bias: bool = True
    proj_bias: bool = True
    gelu: Gelu = "exact"
    gate: bool = False
    experts: ExpertConfig | None = None
    background: Background = "kept"
    feature: Feature = "mean"

    def __post_init__(self) -> None:
        check_fields(self, _relations)

    @property
    def grid_size(self) -> tuple[int, int, int]:
        """Patches along each axis of ``volume_size``."""
        return self.token_grid(self.volume_size).shape

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.embed_dim // self.num_heads

    @property
    def n_streams(self) -> int:
        """Patch embeddings: one, or one for each modality."""
        return 1 if self.streams == "averaged" else len(self.modalities)

    @property
    def in_dim(self) -> int:
        """Voxels of a patch."""
        return math.prod(self.patch_size)

    @property
    def summary(self) -> str:
        """Sizes of the network, for a reader."""
        size = " x ".join(map(str, self.patch_size))
        return (
            f"{self.depth} blocks of width {self.embed_dim}, patches of {size} voxels"
        )

    @property
    def multiple_of(self) -> tuple[int, int, int]:
        """Voxels of which the sizes of a volume are multiples."""
        return self.patch_size

    def token_grid(self, shape: tuple[int, int, int]) -> TokenGrid:
        """Return where tokens lie in a volume of this shape.

        Parameters
        ----------
        shape : tuple of int
            Voxels along each axis, in multiples of the patch size.

        Returns
        -------
        TokenGrid
            A token for each patch.
        """
        i, j, k = self.patch_size
        return TokenGrid(
            shape=(shape[0] // i, shape[1] // j, shape[2] // k),
            step=self.patch_size,
            first=((i - 1) / 2, (j - 1) / 2, (k - 1) / 2),
        )


def _relations(config: VolumeConfig) -> Iterator[Relation]:
    patch, dim, positions = config.patch_size, config.embed_dim, config.positions
    yield bool(config.modalities), "modalities", "at least one name"
    divides = dim % config.num_heads == 0
    yield divides, "num_heads", f"a divisor of embed_dim {dim}"
    pairs = zip(config.volume_size, patch, strict=True)
    fits = all(length % step == 0 for length, step in pairs)
    yield fits, "volume_size", f"multiples of patch_size {patch}"
    if positions == "sinusoidal":
        yield dim % 6 == 0, "embed_dim", "a multiple of 6 for sinusoidal positions"
    if positions == "concatenated":
        least = CONCATENATED_CHANNELS
        yield dim > least, "embed_dim", f"> {least} for concatenated positions"
    if positions == "rotary" and divides:
        least, head = MIN_VOLUME_CHANNELS, config.head_dim
        is_wide = head >= least and head % 2 == 0
        yield is_wide, "num_heads", f"heads of an even number >= {least} of channels"
    if config.experts is not None:
        exist = max(config.experts.blocks) < config.depth
        yield exist, "experts.blocks", f"blocks below depth {config.depth}"
    has_feature = config.has_cls_token or config.feature != "cls"
    yield has_feature, "feature", "first or mean without a class token"
