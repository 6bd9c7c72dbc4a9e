"""How long a run takes, before it starts."""

__all__ = ["describe_duration", "step_flops"]

import math
import time

import torch

from brainfeat.models.config import EncoderConfig
from brainfeat.models.device import resolve_precision
from brainfeat.pretraining.config import PretrainingConfig
from brainfeat.pretraining.ranks import world_size
from brainfeat.slabs.crops import CropConfig
from brainfeat.slabs.grid import PLANE_AXES

# Fraction of the speed of large products that a step reaches: the rest is small
# operators. 0.41 to 0.47 on a CPU with AMX, and usual for vision transformers on GPUs.
_EFFICIENCY = 0.4
_SHORT = 60.0  # seconds; shorter runs need no estimate
_SLOWEST = 2e9  # operations a second, of any device


def step_flops(config: PretrainingConfig, shape: tuple[int, int, int]) -> float:
    """Count the operations of a step, on volumes of a shape, over all ranks.

    Products of the encoder and of the prototype heads; a backward pass costs two
    forward passes.
    """
    views, encoder = config.views, config.encoder
    global_flops = _view_flops(encoder, views.global_crops)
    if views.global_boxes == "whole":
        global_flops = _whole_flops(encoder, shape, PLANE_AXES[views.planes[0]])
    student = views.n_global * global_flops
    if config.uses_local_views:
        student += views.n_local * _view_flops(encoder, views.local_crops)
    backward = 3.0 if config.activation_checkpointing else 2.0
    total = (1.0 + backward) * student
    if config.uses_teacher:
        total += views.n_global * global_flops
    if config.agreement_weight > 0:
        total += global_flops  # of the reference
    return config.batch_size * (total + _head_flops(config))


def describe_duration(
    config: PretrainingConfig,
    shape: tuple[int, int, int],
    device: torch.device,
    *,
    n_done: int = 0,
) -> str:
    """Say about how long the steps of a run take; empty for less than a minute."""
    n_steps = config.n_steps - n_done
    flops = step_flops(config, shape) / world_size()
    if n_steps * flops / _SLOWEST < _SHORT:
        return ""
    dtype = resolve_precision(config.precision, device)
    rate = _product_rate(config.encoder.embed_dim, dtype, device)
    seconds = flops / (rate * _EFFICIENCY)
    if n_steps * seconds < _SHORT:
        return ""
    in_an_hour = max(1, round(3600 / seconds))
    advice = f"; --steps {in_an_hour} takes about an hour" if seconds < 3600 else ""
    total, each = _format_seconds(n_steps * seconds), _format_seconds(seconds)
    return (
        f"{n_steps} steps of {config.batch_size} subjects in "
        f"{str(dtype).removeprefix('torch.')} take about {total}, {each} each{advice}."
    )


def _view_flops(encoder: EncoderConfig, crops: CropConfig) -> float:
    height, width = (length // encoder.patch_size for length in crops.size)
    return crops.n_slabs * _slab_flops(encoder, height * width)


def _whole_flops(
    encoder: EncoderConfig, shape: tuple[int, int, int], axes: tuple[int, int, int]
) -> float:
    n_slices, height, width = (shape[axis] for axis in axes)
    n_patches = (height // encoder.patch_size) * (width // encoder.patch_size)
    return n_slices // encoder.thickness * _slab_flops(encoder, n_patches)


def _slab_flops(encoder: EncoderConfig, n_patches: int) -> float:
    """Count the operations of one slab, forward."""
    dim = encoder.embed_dim
    n_tokens = n_patches + 1 + encoder.num_register_tokens
    weights = (4.0 + 2.0 * encoder.mlp_ratio) * dim**2
    block = n_tokens * (2.0 * weights + 4.0 * n_tokens * dim)
    pixels = encoder.in_channels * encoder.patch_size**2
    return encoder.depth * block + 2.0 * n_patches * pixels * dim


def _head_flops(config: PretrainingConfig) -> float:
    """Count the operations of the heads for one subject, student and teacher."""
    views, hidden = config.views, config.head_hidden_dim
    dim, out = config.encoder.embed_dim, config.head_bottleneck_dim
    row = 2.0 * (dim * hidden + hidden**2 + hidden * out + out * config.n_prototypes)
    total = 0.0
    if config.dino_weight > 0:
        total += row * (4.0 * views.n_global + 3.0 * views.n_local)
    if config.ibot_weight > 0:
        crops, patch = views.global_crops, config.encoder.patch_size
        n_patches = crops.n_slabs * math.prod(n // patch for n in crops.size)
        masked = views.mask_probability * sum(views.mask_ratio) / 2.0
        total += row * 4.0 * views.n_global * n_patches * masked
    return total


def _product_rate(dim: int, dtype: torch.dtype, device: torch.device) -> float:
    """Measure the operations a second of a feed-forward layer's product."""
    n_rows = 1024 if device.type == "cpu" else 16_384
    rows = torch.ones(n_rows, dim, dtype=dtype, device=device)
    weight = torch.ones(4 * dim, dim, dtype=dtype, device=device)
    fastest = math.inf
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        # Reading a number waits for the device.
        float(torch.nn.functional.linear(rows, weight)[0, 0])
        fastest = min(fastest, time.perf_counter() - started)
    return 2.0 * rows.numel() * 4 * dim / fastest


def _format_seconds(seconds: float) -> str:
    """Format a duration in its largest unit.

    >>> [_format_seconds(s) for s in (0.123, 45.0, 5400.0, 500_000.0)]
    ['0.12 s', '45 s', '1.5 h', '5.8 days']
    """
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"
