"""Sizes of a residual network over volumes."""

__all__ = ["ResNetConfig"]

import dataclasses
from collections.abc import Iterator
from typing import Literal

from brainfeat.configs import (
    JsonConfig,
    PositiveInt,
    Relation,
    UniqueNames,
    check_fields,
)
from brainfeat.models.protocol import Feature, TokenGrid

_Sizes = tuple[PositiveInt, PositiveInt, PositiveInt]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig(JsonConfig):
    """Sizes of a `VolumeResNet`; saved as JSON beside its weights.

    Parameters
    ----------
    kind : {"resnet"}
        The class of encoders.
    modalities : tuple of str
        BIDS suffixes, in the order of the volumes of a subject. Each is encoded alone,
        and tokens are averaged over those present.
    volume_size : tuple of int
        Voxels for which the encoder was trained; others are accepted.
    widths : tuple of int
        Channels of each stage; all but the first halve the resolution.
    num_blocks : int
        Residual blocks of a stage.
    stem_stride : int
        Voxels from one output of the first convolution to the next.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or invalid.
    """

    kind: Literal["resnet"] = "resnet"
    modalities: UniqueNames = ("T1w",)
    volume_size: _Sizes = (96, 96, 96)
    widths: tuple[PositiveInt, ...] = (64, 128, 256, 512)
    num_blocks: PositiveInt = 2
    stem_stride: PositiveInt = 2

    def __post_init__(self) -> None:
        check_fields(self, _relations)

    @property
    def embed_dim(self) -> int:
        """Length of a token."""
        return self.widths[-1]

    @property
    def depth(self) -> int:
        """Stages whose tokens have this length: the last."""
        return 1

    @property
    def feature(self) -> Feature:
        """The mean over all tokens."""
        return "mean"

    @property
    def has_cls_token(self) -> bool:
        """Whether there is a class token: no."""
        return False

    @property
    def summary(self) -> str:
        """Sizes of the network, for a reader."""
        n_layers = 2 + 2 * len(self.widths) * self.num_blocks
        return f"residual network of {n_layers} layers, width {self.embed_dim}"

    @property
    def multiple_of(self) -> tuple[int, int, int]:
        """Voxels of which the sizes of a volume are multiples."""
        return (1, 1, 1)

    def token_grid(self, shape: tuple[int, int, int]) -> TokenGrid:
        """Return where tokens lie in a volume of this shape.

        Parameters
        ----------
        shape : tuple of int
            Voxels along each axis.

        Returns
        -------
        TokenGrid
            The voxels on which the last convolution is centred.
        """
        step = self.stem_stride * 2 ** len(self.widths)
        i, j, k = (-(-size // step) for size in shape)
        return TokenGrid((i, j, k), (step, step, step), (0.0, 0.0, 0.0))


def _relations(config: ResNetConfig) -> Iterator[Relation]:
    yield bool(config.modalities), "modalities", "at least one name"
    yield bool(config.widths), "widths", "at least one stage"
