"""Train the network that refines the edge of the brain, on synthetic and real heads.

LABELS.heads are the heads that train_brain_net.py keeps beside its output. SCANS is a
folder with a manifest as for real_heads.py, whose heads have deepbet's masks as truth;
those whose names contain one of the texts in LEFT_OUT (a file, one a line) are not
used. It prints the error of the fraction of brain near the edge, and writes the weights
that brainfeat/preprocessing/edge_net.npz holds. A run that finds OUTPUT.pt goes on from
there.

    python examples/benchmarks/train_edge_net.py LABELS.heads SCANS OUTPUT.npz
        [--minutes M] [--cache FOLDER] [--left-out FILE]
"""

import argparse
import pickle
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from edge_samples import EdgeSample, draw_samples, read_real
from numpy.typing import NDArray
from torch import Tensor, nn

CHANNELS, N_INPUTS = 16, 10
SIZE, EDGE = 20, 3  # voxels of 4 mm of a crop, and those lost at each side
BATCH, POOL, IMAGES = 6, 400, 4
REAL = 0.5  # fraction of crops of real heads
RATE, WARM_UP = 4e-3, 50


class EdgeNet(nn.Module):
    """Three convolutions on voxels of 4 mm, to log odds of brain of their eighths."""

    def __init__(self) -> None:
        super().__init__()
        widths = (N_INPUTS, CHANNELS, CHANNELS, CHANNELS)
        self.layers = nn.Sequential(*map(_layer, widths, widths[1:]))
        self.out = nn.Conv3d(CHANNELS, 8, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, channels: Tensor) -> Tensor:
        inner = slice(EDGE, -EDGE)
        known = channels[:, 8:9, inner, inner, inner]
        return self.out(self.layers(channels)) + known


def main() -> None:
    options = parse_options()
    seed = time.time_ns() % 2**32
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    heads = pickle.loads(options.heads.read_bytes())
    left_out = options.left_out.read_text().split() if options.left_out else ()
    real = [*read_real(options.scans, options.cache, tuple(left_out))]
    synthetic: list[EdgeSample] = []
    network, state = EdgeNet(), options.output.with_suffix(".pt")
    if state.exists():
        network.load_state_dict(torch.load(state, weights_only=True))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    start, errors = time.monotonic(), []
    while (done := (time.monotonic() - start) / (60.0 * options.minutes)) < 1.0:
        if len(errors) % 20 == 0:
            synthetic = (synthetic + draw_samples(rng, heads, IMAGES))[-POOL:]
        warm = min(1.0, (len(errors) + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * (0.5 + 0.5 * np.cos(np.pi * done)) + 2e-5
        is_real = rng.random(BATCH) < (REAL if real else 0.0)
        pools = [real if chosen else synthetic for chosen in is_real]
        crops = [draw_crop(rng, pool[rng.integers(len(pool))]) for pool in pools]
        errors.append(take_step(network, optimizer, crops))
        if len(errors) % 100 == 0:
            save(network, errors, options.output)
    save(network, errors, options.output)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("heads", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--cache", type=Path, help="folder for masks of deepbet")
    parser.add_argument("--left-out", type=Path, help="texts in names, one a line")
    return parser.parse_args()


def save(network: EdgeNet, errors: list[float], output: Path) -> None:
    print(f"{len(errors)} steps, error {np.mean(errors[-100:]):.3f}", flush=True)
    torch.save(network.state_dict(), output.with_suffix(".pt"))
    np.savez_compressed(output, **export(network))


def draw_crop(rng: np.random.Generator, sample: EdgeSample) -> tuple[NDArray, ...]:
    """Cut channels, truth and band out near the edge, with other looks."""
    at = np.argwhere(sample.band)
    first = at[rng.integers(len(at))] - SIZE // 2 + rng.integers(-5, 6, 3)
    shape = (SIZE, SIZE, SIZE)
    channels = np.zeros((*shape, N_INPUTS), np.float32)
    channels[..., 8:] = (-6.2, -2.0)
    truth, band = np.zeros((*shape, 8), np.float32), np.zeros(shape, np.float32)
    low, high = np.maximum(first, 0), np.minimum(first + SIZE, sample.band.shape)
    source, target = (tuple(map(slice, low - o, high - o)) for o in (0, first))
    for whole, part in zip(sample, (channels, truth, band), strict=True):
        part[target] = whole[source]
    if rng.random() < 0.5:  # mirrored; the eighths, too
        swapped = [4, 5, 6, 7, 0, 1, 2, 3]
        channels, truth, band = channels[::-1].copy(), truth[::-1], band[::-1]
        channels[..., :8], truth = channels[..., swapped], truth[..., swapped]
    change_looks(rng, channels)
    return channels, truth.copy(), band.copy()


def change_looks(rng: np.random.Generator, channels: NDArray[np.float32]) -> None:
    """Change brightness and noise, and what the first network says, in place."""
    bright, scores, depth = channels[..., :8], channels[..., 8], channels[..., 9]
    if rng.random() < 0.5:
        bright *= np.exp(rng.normal(0, 0.12))
    if rng.random() < 0.5:
        bright[:] = bright.clip(0, 3) ** np.exp(rng.normal(0, 0.2))
    if rng.random() < 0.4:
        bright += rng.normal(0, rng.uniform(0, 0.08), bright.shape)
    if rng.random() < 0.3:
        knots = torch.tensor(rng.normal(size=(1, 1, 3, 3, 3)))
        options = {"mode": "trilinear", "align_corners": True}
        field = F.interpolate(knots, size=scores.shape, **options)[0, 0].numpy()
        scores += field * rng.uniform(0, 1.2)
    if rng.random() < 0.5:
        depth[:] = (depth + rng.normal(0, 0.15)).clip(-2, 2)


def take_step(
    network: EdgeNet, optimizer: torch.optim.Optimizer, crops: list[tuple[NDArray, ...]]
) -> float:
    """Minimise cross entropy and error of volume; return the mean error."""
    channels, truth, band = (
        torch.tensor(np.stack(arrays)) for arrays in zip(*crops, strict=True)
    )
    inner = slice(EDGE, -EDGE)
    channels, truth = channels.permute(0, 4, 1, 2, 3), truth.permute(0, 4, 1, 2, 3)
    truth = truth[:, :, inner, inner, inner]
    weight = band[:, None, inner, inner, inner].expand_as(truth)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(channels.contiguous(memory_format=torch.channels_last_3d))
    logits, total = logits.float(), weight.sum().clamp(min=1)
    options = {"reduction": "sum"}
    entropy = F.binary_cross_entropy_with_logits(logits, truth, weight, **options)
    error = weight * (torch.sigmoid(logits) - truth)
    each = weight.flatten(1).sum(1).clamp(min=1)
    volume = (error.flatten(1).sum(1) / each).abs().mean()
    optimizer.zero_grad()
    (entropy / total + 0.5 * volume).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimizer.step()
    return float(error.detach().abs().sum() / total)


def _layer(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(n_in, n_out, 3, bias=False),
        nn.BatchNorm3d(n_out, momentum=0.03),
        nn.LeakyReLU(0.1),
    )


def export(network: EdgeNet) -> dict[str, NDArray]:
    """Fold the normalisation into the convolutions, and name arrays by layer."""
    arrays = {}
    for index, (convolution, norm, _) in enumerate(network.layers):
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = convolution.weight * factor[:, None, None, None, None]
        arrays[f"{index}.weight"] = weight.detach().half().numpy()
        bias = norm.bias - norm.running_mean * factor
        arrays[f"{index}.bias"] = bias.detach().numpy()
    arrays["out.weight"] = network.out.weight.detach().flatten(1).numpy()
    arrays["out.bias"] = network.out.bias.detach().numpy()
    return arrays


if __name__ == "__main__":
    main()
