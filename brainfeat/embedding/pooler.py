"""From the tokens of subjects to their embeddings, by each kind of pooling."""

__all__ = ["NOT_FINITE", "Pooler", "Pooling"]

from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.encoder_grid import encoder_grid
from brainfeat.embedding.regions import RegionAtlas
from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.models.encoders import require_slab_config
from brainfeat.models.pooling import (
    PoolingMode,
    pool_feature,
    pool_regions,
    pool_tissues,
    pool_tokens,
    pool_volumes,
)
from brainfeat.models.protocol import EncoderOutput
from brainfeat.models.volume_config import VolumeConfig
from brainfeat.preprocessing.interface import SubjectPreprocessing
from brainfeat.volume import Geometry

Pooling = Literal[
    "mean", "cls", "cls+mean", "anatomy", "anatomy_ml", "regions", "default"
]
_Floats = NDArray[np.float32]

NOT_FINITE = "the encoder gives values that are not finite."


class Pooler:
    """A kind of pooling, and the regions of an atlas that it averages over."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        preprocessor: SubjectPreprocessing,
        pooling: Pooling,
        labels_img: Any,
    ) -> None:
        self.config = checkpoint.config.encoder
        self.grid = encoder_grid(checkpoint.config)
        self.pooling = pooling
        self._voxel_mm = preprocessor.voxel_mm
        self._check()
        self._check_volumes(preprocessor)
        self.atlas = None if pooling != "regions" else RegionAtlas.load(labels_img)
        self._state = checkpoint.state
        self._weighed: tuple[Geometry, _Floats] | None = None
        self._weighing = Lock()

    @property
    def region_names(self) -> tuple[str, ...]:
        """Regions in the order of their features; none without an atlas."""
        return self.atlas.names if self.atlas else ()

    @property
    def anatomy_names(self) -> tuple[str, ...]:
        """Tissues and structures that the encoder reads from its tokens."""
        config = self.config
        return config.anatomy_names if isinstance(config, EncoderConfig) else ()

    @property
    def reads_anatomy(self) -> bool:
        """Whether features are volumes of what they are named for."""
        return self.pooling in {"anatomy", "anatomy_ml"}

    @property
    def n_features(self) -> int:
        """Length of an embedding."""
        if self.reads_anatomy:
            return len(self.anatomy_names)
        parts = {"cls+mean": 2, "regions": len(self.region_names)}
        return self.config.embed_dim * parts.get(self.pooling, 1)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Name of each number of an embedding."""
        if self.reads_anatomy:
            return tuple(f"emb_{name}" for name in self.anatomy_names)
        prefixes = [f"{name}_" for name in self.region_names] or [""]
        n_each = self.n_features // len(prefixes)
        return tuple(f"{p}emb_{index:03d}" for p in prefixes for index in range(n_each))

    def weigh_regions(self, geometry: Geometry) -> _Floats | None:
        """Return the weights (R, tokens) of regions on a grid in template mm.

        Those of the last grid are kept; None without an atlas.
        """
        return None if self.atlas is None else self._weigh(self.atlas, geometry)

    def pool(
        self, output: EncoderOutput, fractions: Tensor, regions: Tensor | None
    ) -> Tensor:
        """Pool tokens to embeddings (B, n_features); `regions` are (B, R, tokens)."""
        if self.reads_anatomy:
            return self._pool_anatomy(output, fractions)
        if regions is not None:
            return pool_regions(output, regions, fractions > 0)
        if self._is_mean:
            return pool_tokens(output, fractions, "mean")
        if self.pooling == "default":
            encoded = self._encoded(fractions)
            return pool_feature(output, encoded, self.config.feature)
        mode: PoolingMode = "cls" if self.pooling == "cls" else "cls+mean"
        return pool_tokens(output, fractions, mode)

    def token_weights(
        self, fractions: _Floats, regions: _Floats | None
    ) -> NDArray[np.float64]:
        """Return weights of the patch tokens: (1, tokens), or one set per region."""
        self.check_positions()
        if regions is not None:
            weights = regions * (fractions > 0).astype(np.float64)
        elif self._is_mean:
            weights = fractions[None].astype(np.float64)
        elif self.config.feature == "first":
            weights = np.zeros((1, *fractions.shape))
            weights[0, 0, 0, 0] = 1.0
        else:
            encoded = self._encoded(torch.from_numpy(fractions))
            weights = encoded.numpy()[None].astype(np.float64)
        totals = weights.sum(axis=(1, 2, 3), keepdims=True)
        return np.asarray(weights / np.where(totals > 0, totals, 1.0))

    def explain_not_finite(self, fractions: _Floats, regions: _Floats | None) -> str:
        """Say why an embedding is not finite: a region may hold no brain."""
        if regions is not None:
            totals = regions[:, fractions > 0].sum(axis=1)
            empty = [n for n, t in zip(self.region_names, totals, strict=True) if not t]
            if empty:
                return (
                    "expected some of the brain in each region of labels_img, got none "
                    f"in {', '.join(empty)}."
                )
        return NOT_FINITE

    def check_positions(self) -> None:
        """Check that embeddings are sums of patch tokens, which have a position."""
        of_tokens = self.pooling == "default" and self.config.feature != "cls"
        if self.pooling != "regions" and not (self._is_mean or of_tokens):
            raise ConfigError(
                "expected an embedder that pools patch tokens, by 'mean' or "
                f"'regions', got pooling={self.pooling!r}: only these have a position."
            )

    def _pool_anatomy(self, output: EncoderOutput, fractions: Tensor) -> Tensor:
        """Read volumes in ml, or in fractions of that of all tissues."""
        config = require_slab_config(self.config)
        weight, bias = self._state["anatomy.weight"], self._state["anatomy.bias"]
        if self.pooling == "anatomy":
            n_tissues = len(config.tissues)
            return pool_tissues(output, fractions, weight, bias, n_tissues)
        voxels = config.thickness * config.patch_size**2
        patch_ml = voxels * self._voxel_mm**3 / 1000.0
        return patch_ml * pool_volumes(output, fractions, weight, bias)

    @property
    def _is_mean(self) -> bool:
        """Whether tokens are averaged over the brain, as for slabs by default."""
        is_slab = isinstance(self.config, EncoderConfig)
        return self.pooling == "mean" or (self.pooling == "default" and is_slab)

    def _encoded(self, fractions: Tensor) -> Tensor:
        """Return the tokens that the encoder computes: all, or the foreground."""
        config = self.config
        if isinstance(config, VolumeConfig) and config.background == "skipped":
            return fractions > 0
        return torch.ones_like(fractions, dtype=torch.bool)

    def _check(self) -> None:
        names = get_args(Pooling)
        if self.pooling not in names:
            raise ConfigError(
                f"pooling: expected one of {names}, got {self.pooling!r}."
            )
        if self.reads_anatomy and not self.anatomy_names:
            raise ConfigError(
                f"pooling={self.pooling!r}: expected a checkpoint that learnt to read "
                "anatomy, got one that names no tissues."
            )
        if "cls" in self.pooling and not self.config.has_cls_token:
            raise ConfigError(
                f"pooling={self.pooling!r}: expected an encoder with a class token, "
                "got one without; use 'mean', or 'default' for what its authors use."
            )

    def _check_volumes(self, preprocessor: SubjectPreprocessing) -> None:
        """Check that volumes on the grid are those of the subject."""
        if self.pooling == "anatomy_ml" and preprocessor.aligned == "affine":
            raise ConfigError(
                "pooling='anatomy_ml': expected a preprocessor with alignment='rigid' "
                "or 'none', got 'affine', which scales each brain to the template: use "
                "pooling='anatomy' for fractions of the brain."
            )

    def _weigh(self, atlas: RegionAtlas, geometry: Geometry) -> _Floats:
        with self._weighing:
            if self._weighed is None or not _is_same(self._weighed[0], geometry):
                self._weighed = geometry, atlas.weights(geometry, self.grid)
            return self._weighed[1]


def _is_same(first: Geometry, second: Geometry) -> bool:
    same_shape = first.shape == second.shape
    return same_shape and np.array_equal(first.affine, second.affine)
