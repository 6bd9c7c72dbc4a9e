"""How an encoder cuts a subject's volumes, and where its tokens lie in them."""

__all__ = [
    "EncoderGrid",
    "SlabTokens",
    "VolumeTokens",
    "encoder_grid",
    "foreground_fractions",
]

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brainfeat.checkpoint.config import CheckpointConfig
from brainfeat.exceptions import GeometryError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.protocol import TokenGrid
from brainfeat.models.resnet_config import ResNetConfig
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.slabs.grid import SlabGrid

if TYPE_CHECKING:
    # It imports nibabel, which checkpoints do not need.
    from brainfeat.volume import Geometry

_N_SLABS = 2  # in a block of slabs, which is two patches wide and high
Shape = tuple[int, int, int]


class EncoderGrid(ABC):
    """From volumes (M, I, J, K) to an encoder's input, and from its tokens back."""

    @abstractmethod
    def extract(self, data: NDArray[Any]) -> NDArray[Any]:
        """Cut volumes (M, I, J, K) into the input of one subject."""

    @abstractmethod
    def assemble(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Reassemble the volumes (M, I, J, K) that an input was cut from."""

    @abstractmethod
    def token_shape(self, shape: Shape) -> Shape:
        """Return the tokens of volumes of a shape, in the encoder's order."""

    @abstractmethod
    def token_fractions(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Average voxels (I, J, K) over the block of each token."""

    @abstractmethod
    def token_geometry(self, geometry: "Geometry") -> "Geometry":
        """Return the grid of the tokens, in the array order of the volumes."""

    @abstractmethod
    def arrange_tokens(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Transpose values of tokens to the array order of the volumes."""

    @abstractmethod
    def block_shape(self, inputs: NDArray[Any]) -> tuple[int, ...]:
        """Return the shape of a block of the input, about two tokens wide."""


@dataclass(frozen=True)
class SlabTokens(EncoderGrid):
    """Tokens of slabs."""

    slabs: SlabGrid
    patch_size: int

    def extract(self, data: NDArray[Any]) -> NDArray[Any]:
        """Cut volumes into slabs (S, C, H, W)."""
        return self.slabs.extract(data)

    def assemble(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Reassemble the volumes that slabs were cut from."""
        return self.slabs.assemble(inputs)

    def token_shape(self, shape: Shape) -> Shape:
        """Return the number of slabs, and of patches along their height and width."""
        n_slabs, height, width = self.token_fractions(np.zeros(shape, np.bool_)).shape
        return n_slabs, height, width

    def token_fractions(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Average voxels over each patch of each slab: (S, h, w)."""
        return self.slabs.token_fractions(voxels, self.patch_size)

    def token_geometry(self, geometry: "Geometry") -> "Geometry":
        """Return the grid of the patches' centres."""
        return self.slabs.token_geometry(geometry, self.patch_size)

    def arrange_tokens(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Transpose values (S, h, w, ...) to the order of the volumes."""
        return self.slabs.arrange_tokens(tokens)

    def block_shape(self, inputs: NDArray[Any]) -> tuple[int, ...]:
        """Return slabs, all channels, height and width."""
        edge = 2 * self.patch_size
        return _N_SLABS, inputs.shape[1], edge, edge


@dataclass(frozen=True)
class VolumeTokens(EncoderGrid):
    """Tokens of whole volumes, in their own order of axes."""

    config: VolumeConfig | ResNetConfig

    def extract(self, data: NDArray[Any]) -> NDArray[Any]:
        """Return the volumes, contiguous in memory."""
        self._grid(data.shape[1:])
        return np.ascontiguousarray(data)

    def assemble(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the volumes."""
        return inputs

    def token_shape(self, shape: Shape) -> Shape:
        """Return the number of tokens along each axis."""
        return self._grid(shape).shape

    def token_fractions(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Average voxels over the block around the centre of each token."""
        grid = self._grid(voxels.shape)
        data = voxels.astype(np.float32, copy=False)
        counts = [np.ones(size, np.float32) for size in voxels.shape]
        for axis in range(3):
            counts[axis] = _sum_blocks(counts[axis], grid, axis, 0)
            data = _sum_blocks(data, grid, axis, axis)
        i, j, k = counts
        # A block at the edge of the volume may hold fewer voxels than others.
        voxel_counts = i[:, None, None] * j[:, None] * k
        return np.asarray(data / np.maximum(voxel_counts, 1.0), np.float32)

    def token_geometry(self, geometry: "Geometry") -> "Geometry":
        """Return the grid of the tokens' centres."""
        grid = self._grid(geometry.shape)
        to_voxel = np.diag([*map(float, grid.step), 1.0])
        to_voxel[:3, 3] = grid.first
        return replace(geometry, shape=grid.shape, affine=geometry.affine @ to_voxel)

    def arrange_tokens(self, tokens: NDArray[Any]) -> NDArray[Any]:
        """Return the values, whose order is that of the volumes."""
        return tokens

    def block_shape(self, inputs: NDArray[Any]) -> tuple[int, ...]:
        """Return all modalities, and two tokens along each axis."""
        step = self._grid(inputs.shape[1:]).step
        sizes = zip(step, inputs.shape[1:], strict=True)
        return inputs.shape[0], *(min(2 * edge, size) for edge, size in sizes)

    def _grid(self, shape: tuple[int, ...]) -> TokenGrid:
        i, j, k = shape
        steps = self.config.multiple_of
        if any(size % step for size, step in zip(shape, steps, strict=True)):
            raise GeometryError(f"expected multiples of {steps} voxels, got {shape}.")
        return self.config.token_grid((i, j, k))


def encoder_grid(config: CheckpointConfig) -> EncoderGrid:
    """Return the grid of a checkpoint's encoder."""
    encoder = config.encoder
    if isinstance(encoder, EncoderConfig):
        slabs = SlabGrid(thickness=encoder.thickness, plane=config.plane)
        return SlabTokens(slabs, encoder.patch_size)
    return VolumeTokens(encoder)


def foreground_fractions(
    config: CheckpointConfig, foreground: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the foreground of each token; 0 if the encoder skips it."""
    fractions = encoder_grid(config).token_fractions(foreground)
    if isinstance(config.encoder, EncoderConfig):
        return config.encoder.count_foreground(fractions)
    return fractions


def _sum_blocks(
    data: NDArray[np.float32], grid: TokenGrid, axis: int, along: int
) -> NDArray[np.float32]:
    """Sum an array over the blocks of `grid`'s `axis`, which is its axis `along`."""
    step, n_tokens = grid.step[axis], grid.shape[axis]
    before = step // 2 - int(grid.first[axis] + 0.5)
    after = max(0, n_tokens * step - before - data.shape[along])
    margins = [(0, 0)] * data.ndim
    margins[along] = (before, after)
    if before or after:
        data = np.pad(data, margins)
    data = np.moveaxis(data, along, 0)[: n_tokens * step]
    sums = data.reshape(n_tokens, step, *data.shape[1:]).sum(axis=1)
    return np.moveaxis(sums, 0, along)
