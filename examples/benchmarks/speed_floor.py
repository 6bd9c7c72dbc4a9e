"""Speed of the machine, and operations of an encoder."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from isal import igzip
from torch import Tensor
from torch.nn import functional as F

from brainfeat.models.config import EncoderConfig

_SIZES = (1024, 2048)


def seconds_of(
    work: Callable[[], object], device: torch.device, n_times: int = 3
) -> float:
    """Return the shortest of several runs, after a warm-up."""
    times = []
    for _ in range(n_times + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return multiplications and additions per second of square matrix products."""
    rates = []
    for size in _SIZES:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = seconds_of(lambda a=a, b=b: F.linear(a, b), device)
        rates.append(2 * size**3 / seconds)
    return max(rates)


def inflate_seconds(path: Path) -> float:
    """Return the seconds in which one core decompresses a file."""
    packed = path.read_bytes()
    return seconds_of(lambda: igzip.decompress(packed), torch.device("cpu"))


def arithmetic(config: EncoderConfig, foreground: Tensor, present: Tensor) -> float:
    """Count multiplications and additions of matrix products and convolutions.

    Norms, activations, padding and the stems of absent modalities do not count.
    """
    dim, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
    n_prefix = 1 + config.num_register_tokens
    patches = foreground.flatten(2).sum(2).double()  # B S
    if config.background == "kept":
        patches = torch.full_like(patches, foreground[0, 0].numel())
    lengths = patches[patches > 0] + n_prefix
    block = lengths * (8 * dim**2 + 4 * dim * hidden) + 4 * lengths**2 * dim
    mixing = 2 * 27 * dim * patches.sum() * len(config.slab_mixing)
    stem = 2 * _stem_weights(config, int(present.sum())) * patches.sum()
    return float(config.depth * block.sum() + mixing + stem)


def _stem_weights(config: EncoderConfig, n_modalities: int) -> int:
    """Count the products of the embedding of one patch."""
    size = config.patch_size
    if config.stem == "linear":
        return config.in_channels * size**2 * config.embed_dim
    n_levels = size.bit_length() - 1
    dims = [config.embed_dim >> level for level in reversed(range(n_levels))]
    dims = [config.thickness, *dims]
    products = [
        4 * dims[level] * dims[level + 1] * (size >> (level + 1)) ** 2
        for level in range(n_levels)
    ]
    return n_modalities * sum(products)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
