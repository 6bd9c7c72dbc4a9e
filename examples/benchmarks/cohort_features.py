"""Features of each subject for a linear classifier, cached on disk."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from development_cohort import Contrast, read_scan
from numpy.typing import NDArray

from brainfeat import Checkpoint, Preprocessor
from brainfeat.models.encoder import EncoderOutput
from brainfeat.models.pooling import PoolingMode, pool_tissues, pool_tokens
from brainfeat.pretraining.store import VolumeStore
from brainfeat.slabs.grid import SlabGrid

Pooling = Literal[PoolingMode, "anatomy"]

# Voxels of all subjects are registered by an affine map.
VOXEL_PREPROCESSOR = Preprocessor(alignment="affine", shape=(40, 52, 40), spacing=4.0)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A checkpoint and its name in the tables."""

    name: str
    checkpoint: Checkpoint
    pooling: Pooling

    @classmethod
    def parse(cls, text: str) -> "Encoder":
        """Read ``NAME=CHECKPOINT[:POOLING]``.

        Raises
        ------
        SystemExit
            If there is no name.
        """
        name, separator, source = text.partition("=")
        if not separator:
            raise SystemExit(f"--encoder: expected NAME=CHECKPOINT, got {text!r}")
        location, _, pooling = source.rpartition(":")
        if pooling not in get_args(Pooling):
            location, pooling = source, ""
        checkpoint = Checkpoint.load(location)
        return cls(name, checkpoint, pooling or checkpoint.config.pooling)

    def untrained(self) -> "Encoder":
        """Return the same network with random weights."""
        config = replace(self.checkpoint.config, trained=False)
        return Encoder("untrained", Checkpoint.untrained(config, seed=0), self.pooling)

    @property
    def preprocessor(self) -> Preprocessor:
        """The preprocessing of the checkpoint."""
        return Preprocessor.from_dict(self.checkpoint.config.preprocessing)

    def accepts(self, contrast: Contrast) -> bool:
        """Whether the encoder supports these modalities without the others."""
        known = self.checkpoint.config.encoder.modalities
        is_complete = set(known) == set(contrast)
        missing = self.checkpoint.config.missing_modalities
        return set(contrast) <= set(known) and (missing or is_complete)

    def embed(self, store: VolumeStore, contrast: Contrast) -> NDArray[np.float32]:
        """Embed all scans of a store, as `BrainFoundEmbedder` does."""
        config, sizes = self.checkpoint.config, self.checkpoint.config.encoder
        grid = SlabGrid(thickness=sizes.thickness, plane=config.plane)
        modalities = sizes.modalities
        present = torch.tensor([[name in contrast for name in modalities]])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder = self.checkpoint.build_encoder().to(device)
        rows = []
        for scan in store.index.scans:
            data, foreground = read_scan(store, scan, modalities, contrast)
            slabs = torch.from_numpy(grid.extract(data))[None]  # 1 S C H W
            raw = grid.token_fractions(foreground, sizes.patch_size)
            counted = sizes.count_foreground(raw)
            fractions = torch.from_numpy(counted)[None].to(device)  # 1 S h w
            with torch.inference_mode():
                output = encoder(
                    slabs.to(device),
                    present=present.to(device),
                    foreground=fractions > 0,
                )
                row = self._pool(output, fractions)
            rows.append(row.cpu().numpy()[0])
        return np.stack(rows)

    def _pool(self, output: EncoderOutput, fractions: torch.Tensor) -> torch.Tensor:
        if self.pooling != "anatomy":
            return pool_tokens(output, fractions, self.pooling)
        state = self.checkpoint.state
        weight, bias = state["anatomy.weight"], state["anatomy.bias"]
        n_tissues = len(self.checkpoint.config.encoder.tissues)
        return pool_tissues(output, fractions, weight, bias, n_tissues)

    def cached_embed(
        self, store: VolumeStore, contrast: Contrast, folder: Path
    ) -> NDArray[np.float32]:
        """Embed all scans of a store, or read the cached rows."""
        parts = (self.checkpoint.fingerprint, self.pooling, contrast)
        return cached(folder, (*parts, scan_names(store)), self.embed, store, contrast)


def read_voxels(store: VolumeStore, contrast: Contrast) -> NDArray[np.float32]:
    """Read the voxels of each scan as one row."""
    return np.stack(
        [
            read_scan(store, scan, contrast, contrast)[0].ravel()
            for scan in store.index.scans
        ]
    )


def scan_names(store: VolumeStore) -> tuple[str, ...]:
    """File names of the arrays of a store, which contain the hash of their inputs."""
    return tuple(scan.file for scan in store.index.scans)


def cached(
    folder: Path, key: object, compute: Callable[..., NDArray[Any]], *args: Any
) -> NDArray[Any]:
    """Return the cached result of a key, or compute it."""
    path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, compute(*args))
        partial.replace(path)
    return np.load(path)
