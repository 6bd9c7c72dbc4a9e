"""Contributions of voxels to a decision, by captum."""

__all__ = ["VoxelMethod", "attribute_voxels"]

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainfeat.checkpoint.sharing import shared_encoder
from brainfeat.embedding.subject_encoder import SubjectEncoder
from brainfeat.exceptions import import_optional
from brainfeat.preprocessing.preprocessed import PreprocessedSubject

VoxelMethod = Literal["occlusion", "integrated_gradients"]

_N_STEPS = 16  # along the path of the integrated gradients


def attribute_voxels(
    subject: PreprocessedSubject,
    baseline: NDArray[np.floating],  # the average subject, whose voxels replace others
    encoder: SubjectEncoder,
    gradient: NDArray[np.float64],  # the decision is its product with the features
    method: VoxelMethod,
) -> NDArray[np.float32]:
    """Return the contribution of each voxel to the decision, summed over modalities."""
    message = "maps by occlusion or integrated gradients need captum: "
    attr = import_optional("captum.attr", f'{message}pip install "captum>=0.7"')
    slabs, average = _to_slabs(subject.data, encoder), _to_slabs(baseline, encoder)
    forward = _decision(subject, encoder, gradient)
    if method == "integrated_gradients":
        contributions = attr.IntegratedGradients(forward).attribute(
            slabs, baselines=average, n_steps=_N_STEPS, internal_batch_size=1
        )
    else:
        window = encoder.grid.block_shape(slabs[0].cpu().numpy())
        with torch.no_grad():
            contributions = attr.Occlusion(forward).attribute(
                slabs, baselines=average, sliding_window_shapes=window, strides=window
            )
        # The effect of a window is that of all its voxels together.
        sizes = _window_sizes(slabs[0].shape, window).to(contributions)
        contributions = contributions / sizes
    values = encoder.grid.assemble(contributions[0].detach().cpu().numpy())  # M I J K
    return np.asarray(values.sum(axis=0), dtype=np.float32)


def _window_sizes(shape: Sequence[int], window: Sequence[int]) -> Tensor:
    """Count the voxels of each voxel's window; the last along an axis is cut off."""
    sizes = torch.ones(())
    for length, step in zip(shape, window, strict=True):
        first = torch.arange(length) // step * step
        sizes = sizes[..., None] * (length - first).clamp(max=step)
    return sizes


def _decision(
    subject: PreprocessedSubject, encoder: SubjectEncoder, gradient: NDArray[np.float64]
) -> Any:
    """Return the decision's tangent as a function of slabs of shape (B, S, C, H, W)."""
    network = shared_encoder(encoder.checkpoint, encoder.device, torch.float32)
    fractions = encoder.fractions(subject.foreground)
    foreground = torch.from_numpy(fractions > 0).to(encoder.device)[None]
    weights = torch.from_numpy(encoder.token_weights(subject)).float()
    weights = weights.to(encoder.device)
    present = torch.from_numpy(subject.present).to(encoder.device)[None]
    slopes = torch.from_numpy(gradient).float().to(encoder.device)

    def decide(slabs: Tensor) -> Tensor:
        rows = len(slabs)
        known = present.expand(rows, -1), foreground.expand(rows, -1, -1, -1)
        output = network(slabs, present=known[0], foreground=known[1])
        vectors = torch.einsum("gshw,bshwd->bgd", weights, output.patch_tokens)
        return vectors.flatten(1) @ slopes

    return decide


def _to_slabs(data: NDArray[np.floating], encoder: SubjectEncoder) -> Tensor:
    slabs = encoder.grid.extract(np.asarray(data, dtype=np.float32))
    return torch.from_numpy(slabs)[None].to(encoder.device)  # 1 S C H W
