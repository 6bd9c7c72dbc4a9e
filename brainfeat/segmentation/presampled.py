"""Boxes of subjects that are encoded once, for long trainings of a decoder."""

__all__ = ["PresampledBoxes"]

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from brainfeat.io.atomic import atomic_write
from brainfeat.progress import track
from brainfeat.segmentation.batches import DecoderBatch
from brainfeat.segmentation.network import SegmentationNetwork
from brainfeat.segmentation.store import LabelledStore, array_paths

_BOX = (5, 5, 5)  # patches: slabs, rows and columns
# Probability that a box is around any patch with labels, not one of a drawn class.
_ANYWHERE = 0.25


@dataclass(frozen=True, eq=False)
class PresampledBoxes:
    """Cuts boxes of whole patches around classes that are drawn equally often.

    A box holds fewer voxels without labels than whole slabs, and nothing is resampled
    or encoded in a step. Subjects are not changed: the store should have several
    acquisitions of each. For a frozen encoder.
    """

    network: SegmentationNetwork
    store: LabelledStore
    rows: NDArray[np.int64]
    size: tuple[int, int, int] = _BOX

    def encode(self, *, show_progress: bool = False) -> None:
        """Compute the tokens of all subjects that have none, into the store."""
        missing = [row for row in self.rows if not self._tokens(int(row)).is_file()]
        for row in track(
            missing, total=len(missing), description="encoding", show=show_progress
        ):
            self._encode(int(row))

    def draw(self, generator: Generator) -> DecoderBatch:
        """Draw a box of one subject."""
        row = int(self.rows[_randint(len(self.rows), generator)])
        counts = np.load(self._counts(row))
        box = self._draw_box(counts, generator)
        return self._cut(row, box)

    def _draw_box(
        self, counts: NDArray[np.uint16], generator: Generator
    ) -> tuple[slice, slice, slice]:
        """Draw a class, a patch by its voxels, and where in the box it lies."""
        if float(torch.rand((), generator=generator)) < _ANYWHERE:
            weights = counts[1:].sum(axis=0) > 0
        else:
            found = np.flatnonzero(counts[1:].any(axis=(1, 2, 3))) + 1
            weights = counts[found[_randint(len(found), generator)]]
        flat = torch.from_numpy(weights.ravel().astype(np.float64))
        patch = int(torch.multinomial(flat, 1, generator=generator).item())
        start = []
        for index, size, n_patches in zip(
            np.unravel_index(patch, weights.shape),
            self.size,
            weights.shape,
            strict=True,
        ):
            first = int(index) - _randint(size, generator)
            start.append(max(0, min(first, n_patches - size)))
        first_slab, row, column = start
        return (
            slice(first_slab, first_slab + self.size[0]),
            slice(row, row + self.size[1]),
            slice(column, column + self.size[2]),
        )

    def _cut(self, row: int, box: tuple[slice, slice, slice]) -> DecoderBatch:
        network, store = self.network, self.store
        steps = (network.grid.thickness, network.patch_size, network.patch_size)
        coarse = _scaled(box, steps)
        fine = _scaled(coarse, (store.upsampling,) * 3)
        paths = array_paths(store.folder, row)
        foreground = self._read(paths[0], coarse, last=True)
        shown = self._read(paths[1], fine)
        present = torch.from_numpy(store.present[row])
        voxels = shown.new_zeros(1, len(present), *shown.shape[2:])
        voxels[:, present] = shown
        indices = np.array([store.classes.index(code) for code in store.codes])
        labels = self._read(paths[2], fine).long()
        tokens = np.load(self._tokens(row), mmap_mode="r")[:, *box].astype(np.float32)
        device = network.device
        return DecoderBatch(
            voxels=voxels.to(device),
            foreground=foreground.to(device),
            tokens=[torch.from_numpy(t[None]).to(device) for t in tokens],
            log_prior=network.log_prior[:, :, *coarse],
            present=present[None].to(device),
            labels=torch.from_numpy(indices)[labels].to(device),
        )

    def _read(
        self, path: Path, box: tuple[slice, ...], *, last: bool = False
    ) -> Tensor:
        """Read a box of slices (1, C, ...) of an array ([C,] I, J, K)."""
        stored = np.load(path, mmap_mode="r")
        stored = stored[-1:] if last else stored
        axes = self.network.grid.axes
        by_axis = [box[axes.index(axis)] for axis in range(3)]
        part = np.asarray(stored[..., *by_axis])
        part = part if part.ndim == 4 else part[None]
        part = part.transpose(0, *(1 + axis for axis in axes))
        kind = np.int32 if part.dtype.kind == "u" else np.float32
        return torch.from_numpy(np.ascontiguousarray(part, dtype=kind)[None])

    @torch.inference_mode()
    def _encode(self, row: int) -> None:
        network = self.network
        volumes = self.store.load(row).to(network.device)
        tokens = network.tokens(
            network.to_slices(volumes.coarse), volumes.encoder_present
        )
        labels = network.to_slices(volumes.labels)[0, 0].cpu().numpy().astype(np.int64)
        stacked = torch.cat(tokens).half().cpu().numpy()
        _save(self._counts(row), self._count(labels, stacked.shape[1:4]))
        _save(self._tokens(row), stacked)  # last, as a sign that both are there

    def _count(
        self, labels: NDArray[np.int64], shape: tuple[int, ...]
    ) -> NDArray[np.uint16]:
        """Count the voxels of each class in each patch, (n_classes, S, h, w)."""
        edges = [n // k for n, k in zip(labels.shape, shape, strict=True)]
        i, j, k = np.ix_(
            *(np.arange(n) // e for n, e in zip(labels.shape, edges, strict=True))
        )
        patch = (i * shape[1] + j) * shape[2] + k
        n_patches = int(np.prod(shape))
        flat = np.bincount(
            (labels * n_patches + patch).ravel(),
            minlength=len(self.store.classes) * n_patches,
        )
        return flat.reshape(-1, *shape).astype(np.uint16)

    def _tokens(self, row: int) -> Path:
        return self.store.folder / f"{row}_tokens.npy"

    def _counts(self, row: int) -> Path:
        return self.store.folder / f"{row}_patches.npy"


def _save(path: Path, array: NDArray[np.generic]) -> None:
    content = io.BytesIO()
    np.save(content, array)
    with atomic_write(path) as partial:
        partial.write_bytes(content.getbuffer())


def _scaled(
    box: tuple[slice, ...], steps: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    i, j, k = (
        slice(part.start * step, part.stop * step)
        for part, step in zip(box, steps, strict=True)
    )
    return i, j, k


def _randint(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator).item())
