"""A scan that is aligned to the template, with its brain and its tokens."""

__all__ = ["AlignedScan", "TokenMap", "align_scan"]

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.encoder_grid import encoder_grid
from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.models.device import resolve_dtype
from brainfeat.preprocessing.intensities import repair
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.preprocessing.quality import Quality
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.preprocessing.settings import preprocessing_from_dict
from brainfeat.preprocessing.template import BRAIN_CENTER
from brainfeat.volume import Geometry, Volume

Affine = NDArray[np.float64]

_EXTENT = (160.0, 208.0, 160.0)  # mm around the centre of the template's brain


class TokenMap(NamedTuple):
    """The patch tokens of a scan."""

    values: NDArray[np.float32]  # (i, j, k, D)
    inside: NDArray[np.bool_]  # (i, j, k), tokens of the brain
    geometry: Geometry  # in scanner mm


@dataclass(frozen=True, eq=False, kw_only=True)
class AlignedScan:
    """One image of a person and where the template lies in it."""

    volume: Volume  # closest to RAS, finite
    native: Geometry  # of the file
    template: Geometry  # grid around the brain, in template mm
    to_scanner: Affine  # template mm to scanner mm
    foreground: NDArray[np.bool_]  # the brain, on the template's grid
    tokens: TokenMap | None
    quality: Quality

    @property
    def grid(self) -> Geometry:
        """The template's grid, turned and moved onto the brain but not scaled."""
        left, _, right = np.linalg.svd(self.to_scanner[:3, :3])
        center = np.array(BRAIN_CENTER)
        rigid = np.eye(4)
        rigid[:3, :3] = left @ right
        middle = self.to_scanner[:3, :3] @ center + self.to_scanner[:3, 3]
        rigid[:3, 3] = middle - rigid[:3, :3] @ center
        return Geometry(self.template.shape, rigid @ self.template.affine)

    def sample(self, grid: Geometry, to_scanner: Affine) -> NDArray[np.float32]:
        """Sample the scan on a grid of which `to_scanner` gives the scanner mm."""
        return np.asarray(resample(self.volume, grid, to_scanner), np.float32)

    def sample_brain(self, grid: Geometry, to_scanner: Affine) -> NDArray[np.bool_]:
        """Sample the mask of the brain, as `sample` does."""
        fraction = Volume(self.foreground.astype(np.float32), self.template)
        to_template = np.linalg.inv(self.to_scanner) @ to_scanner
        return np.asarray(resample(fraction, grid, to_template) >= 0.5)


def align_scan(
    volume: Volume,
    modality: str,
    checkpoint: Checkpoint,
    device: torch.device,
    *,
    spacing: float,
    with_tokens: bool,
) -> AlignedScan:
    """Align a scan to the template, and encode it.

    Scans are compared on a grid of ``spacing`` mm.
    Raises a VolumeError if the volume has no contrast, or no brain.
    """
    modalities = checkpoint.config.encoder.modalities
    # An even number of voxels, as the search takes blocks of two.
    i, j, k = (2 * round(size / (2 * spacing)) for size in _EXTENT)
    aligner = Preprocessor(shape=(i, j, k), spacing=spacing, alignment="affine")
    processed = aligner.apply({modality: volume}, modalities)
    tokens = None
    if with_tokens:
        stored = preprocessing_from_dict(checkpoint.config.preprocessing)
        if isinstance(stored, Preprocessor):
            # Aligned affinely at once, which changes the size of the brain only.
            own = replace(stored, alignment="affine")
            encoded = (
                processed
                if own == aligner
                else own.apply({modality: volume}, modalities)
            )
        else:
            encoded = stored.apply({modality: volume}, modalities)
        tokens = _encode(encoded, checkpoint, device)
    return AlignedScan(
        volume=repair(reorient_to_ras(volume)),
        native=volume.geometry,
        template=processed.geometry,
        to_scanner=processed.grid_to_scanner,
        foreground=processed.foreground,
        tokens=tokens,
        quality=processed.quality,
    )


@torch.inference_mode()
def _encode(
    processed: PreprocessedSubject, checkpoint: Checkpoint, device: torch.device
) -> TokenMap:
    grid = encoder_grid(checkpoint.config)
    dtype = resolve_dtype("auto", device)
    encoder = shared_encoder(checkpoint, device, dtype)
    fractions = grid.token_fractions(processed.foreground)
    inputs, present, foreground = (
        torch.from_numpy(np.ascontiguousarray(array)[None]).to(device)
        for array in (grid.extract(processed.data), processed.present, fractions > 0)
    )
    output = encoder(inputs.to(dtype), present=present, foreground=foreground)
    tokens = output.patch_tokens[0].float().cpu().numpy()
    geometry = grid.token_geometry(processed.geometry)
    return TokenMap(
        grid.arrange_tokens(tokens),
        grid.arrange_tokens(fractions) > 0,
        Geometry(geometry.shape, processed.grid_to_scanner @ geometry.affine),
    )
