"""What every encoder offers to pooling, dense maps and segmentation."""

__all__ = [
    "Encoder",
    "EncoderOutput",
    "EncoderSettings",
    "EncoderState",
    "Feature",
    "TokenGrid",
]

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from brainfeat.exceptions import InputError

# What the authors of an encoder use as the feature of a subject: the class token, the
# token of the first patch, or the mean over all tokens that are encoded.
Feature = Literal["cls", "first", "mean"]


class EncoderOutput(NamedTuple):
    """Tokens after the final norm.

    Attributes
    ----------
    cls_token : Tensor of shape (B, S, D) or (B, D), or None
        Class token of each slab, or of each volume if it has one.
    patch_tokens : Tensor of shape (B, S, h, w, D) or (B, i, j, k, D)
        Token of each patch, on the grid of the slabs or of the volume.
    """

    cls_token: Tensor | None
    patch_tokens: Tensor

    def require_cls_token(self) -> Tensor:
        """Return the class token of an encoder that has one.

        Returns
        -------
        Tensor of shape (B, S, D) or (B, D)
            The class token.

        Raises
        ------
        InputError
            If the encoder has none.
        """
        if self.cls_token is None:
            raise InputError(
                "expected an encoder with a class token, got one without; take the "
                "mean of its patch tokens."
            )
        return self.cls_token


class EncoderState(NamedTuple):
    """Tokens between two blocks, and what the blocks that follow need of the input."""

    x: Tensor
    layout: Any  # of the encoder that made it


class TokenGrid(NamedTuple):
    """Where tokens lie, in voxels of the encoder's input, along its three axes.

    With the affine of the input, this gives the affine of the tokens: `step` scales its
    axes, and `first` is its origin.
    """

    shape: tuple[int, int, int]  # tokens
    step: tuple[int, int, int]  # voxels from one token to the next
    first: tuple[float, float, float]  # voxel at the centre of the first token


class EncoderSettings(Protocol):
    """Configuration of an encoder; `kind` names its class in JSON."""

    @property
    def kind(self) -> str:
        """Name of the class of encoders."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """BIDS suffixes, in the order of the input."""

    @property
    def embed_dim(self) -> int:
        """Length of a token."""

    @property
    def depth(self) -> int:
        """Blocks whose tokens `Encoder.forward_intermediates` can return."""

    @property
    def feature(self) -> Feature:
        """What the authors use as the feature of a subject."""

    @property
    def has_cls_token(self) -> bool:
        """Whether the output has a class token."""

    @property
    def summary(self) -> str:
        """Sizes of the network, for a reader."""

    def token_grid(self, shape: tuple[int, int, int]) -> TokenGrid:
        """Return where tokens lie in an input of this shape, along its axes."""


class Encoder(nn.Module):
    """Base of all encoders."""

    config: EncoderSettings

    def forward(
        self,
        inputs: Tensor,
        /,
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode inputs of the `present` modalities (B, M); foreground of patches."""
        raise NotImplementedError

    def forward_intermediates(
        self,
        inputs: Tensor,
        /,
        blocks: Sequence[int],
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> list[EncoderOutput]:
        """Encode inputs and return the output of some of the blocks."""
        raise NotImplementedError

    def forward_until(
        self,
        inputs: Tensor,
        /,
        n_blocks: int,
        *,
        present: Tensor | None = None,
        foreground: Tensor | None = None,
    ) -> EncoderState:
        """Run the first blocks, whose results can be kept while others are trained."""
        return self._forward_until(inputs, n_blocks, present, foreground)

    def forward_from(self, state: EncoderState, n_blocks: int) -> EncoderOutput:
        """Run all but the first blocks on what `forward_until` returned."""
        return self._forward_from(state, n_blocks)

    def _forward_until(
        self,
        inputs: Tensor,
        n_blocks: int,
        present: Tensor | None,
        foreground: Tensor | None,
    ) -> EncoderState:
        raise NotImplementedError

    def _forward_from(self, state: EncoderState, n_blocks: int) -> EncoderOutput:
        raise NotImplementedError
