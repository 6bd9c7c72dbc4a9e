"""Train the network that finds the brain, on heads synthesised from label maps.

FOLDER holds whole-head label maps with FreeSurfer's codes, 500 and more outside of the
brain, such as the training set of SynthSeg; the head of `simulate_cohort` is added. It
prints the overlap on new images, and writes the weights that
brainfeat/preprocessing/brain_net.npz holds. The heads and the network are kept beside
OUTPUT.npz, as OUTPUT.heads and OUTPUT.pt; a run that finds them goes on from there.
BRAIN_NET_RATE sets the first learning rate, 0.005 by default.

    python examples/benchmarks/train_brain_net.py FOLDER OUTPUT.npz [MINUTES]
"""

import os
import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from synthetic_heads import (
    LabelledHead,
    draw_anatomy,
    draw_image,
    draw_nothing,
    reorder_axes,
)
from torch import Tensor, nn

from brainfeat.io.volumes import read_labels
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.simulation.anatomy import CLASSES
from brainfeat.simulation.bases import load_base
from brainfeat.volume import Volume

# Codes of FreeSurfer by the classes of `synthetic_heads`, from white matter on.
CODES = (
    (2, 41), (3, 42), (4, 43, 5, 44, 14, 15, 72), (24,), (7, 46), (8, 47),
    (10, 49, 28, 60), (11, 50, 12, 51, 26, 58), (13, 52), (16,), (17, 53, 18, 54),
)  # fmt: skip
OTHER_BRAIN, BONE, MARROW, MUSCLE, FAT, OTHER_HEAD = 12, 13, 14, 15, 16, 17
# The same, of the classes of the simulation.
SIMULATED = (4, 2, 1, 3, 11, 8, 4, MUSCLE, BONE, MARROW, FAT)
T1W = np.array([0, 1, 0.7, 0.2, 0.2, 1, 0.65, 0.85, 0.75, 0.9, 0.95, 0.7, 0.6])
CHANNELS = (16, 24, 32)
BATCH, POOL, IMAGES = 4, 600, 4  # samples, kept samples, images of an anatomy
COORDINATE_UNIT = 100.0  # mm
REORDERED, EMPTY = 0.08, 0.03  # fractions with wrong axes, and without a head
SIMULATED_WEIGHT = 2  # relative to a label map
RATE, WARM_UP = float(os.environ.get("BRAIN_NET_RATE", "5e-3")), 50
PRECISION = torch.bfloat16


class BrainNet(nn.Module):
    """A U-Net on blocks of two voxels: logits of the brain, template coordinates."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = CHANNELS
        self.e0 = nn.Sequential(block(8, fine), block(fine, fine))
        self.e1 = nn.Sequential(block(fine, middle, 2), block(middle, middle))
        self.e2 = nn.Sequential(
            block(middle, coarse, 2), block(coarse, coarse), block(coarse, coarse)
        )
        self.p1, self.d1 = (
            nn.Conv3d(coarse, middle, 1),
            nn.Sequential(block(middle, middle)),
        )
        self.p0, self.d0 = nn.Conv3d(middle, fine, 1), nn.Sequential(block(fine, fine))
        self.out = nn.Conv3d(fine, 11, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        n, _, i, j, k = image.shape
        blocks = image.reshape(n, i // 2, 2, j // 2, 2, k // 2, 2)
        blocks = blocks.permute(0, 2, 4, 6, 1, 3, 5)
        fine = self.e0(blocks.reshape(n, 8, i // 2, j // 2, k // 2))
        middle = self.e1(fine)
        coarse = self.p1(self.e2(middle))
        middle = self.d1(middle + F.interpolate(coarse, scale_factor=2))
        fine = self.d0(fine + F.interpolate(self.p0(middle), scale_factor=2))
        result = self.out(fine)
        logits = result[:, :8].unflatten(1, (2, 2, 2)).permute(0, 4, 1, 5, 2, 6, 3)
        return logits.reshape(n, 1, i, j, k), result[:, 8:] * COORDINATE_UNIT


def main(folder: str, output: str, minutes: float = 60.0) -> None:
    seed = time.time_ns() % 2**32
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    heads = read_heads(Path(folder), Path(output).with_suffix(".heads"))
    network, state = BrainNet(), Path(output).with_suffix(".pt")
    if state.exists():
        network.load_state_dict(torch.load(state, weights_only=True))
    network.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    samples: list[tuple[NDArray, ...]] = []
    overlaps: list[float] = []
    start = time.monotonic()
    while (progress := (time.monotonic() - start) / (60.0 * minutes)) < 1.0:
        samples += draw_samples(rng, heads)
        samples = samples[-POOL:]
        warm = min(1.0, (len(overlaps) + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * (0.5 + 0.5 * np.cos(np.pi * progress)) + 2e-5
        for _ in range(IMAGES):
            # Half of them are new.
            chosen = [*rng.integers(0, len(samples), BATCH // 2)]
            chosen += [*(-1 - rng.integers(0, min(len(samples), 16), BATCH // 2))]
            batch = [samples[index] for index in chosen]
            overlaps.append(take_step(network, optimizer, batch))
        if len(overlaps) % 20 == 0:
            minute, recent = 60 * minutes * progress, np.mean(overlaps[-100:])
            print(f"{minute:.0f} s, {len(overlaps)} steps, Dice {recent:.3f}")
            save(network, state, output)
    save(network, state, output)


def save(network: BrainNet, state: Path, output: str) -> None:
    partial = state.with_suffix(".part")
    torch.save(network.state_dict(), partial)
    partial.replace(state)
    np.savez_compressed(output, **export(network))


def read_heads(folder: Path, kept: Path) -> list[LabelledHead]:
    """Read the heads, or those that an earlier run kept."""
    if kept.exists():
        heads = pickle.loads(kept.read_bytes())
    else:
        heads = [read_head(path) for path in sorted(folder.glob("*.nii.gz"))]
        heads += SIMULATED_WEIGHT * [read_simulated()]
        kept.write_bytes(pickle.dumps(heads))
    return list(heads)


def read_simulated() -> LabelledHead:
    """Return the head that cohorts are simulated from."""
    base = load_base()
    air = 1.0 - base.maps.sum(0, keepdim=True)
    largest = torch.cat([air, base.maps]).argmax(0).numpy()
    classes = np.array((0, *SIMULATED), np.uint8)[largest]
    if len(SIMULATED) != len(CLASSES):
        raise ValueError(f"expected {len(SIMULATED)} classes, got {len(CLASSES)}")
    brain = (base.labels > 0).numpy()
    return LabelledHead(classes, brain, np.asarray(base.lattice.affine))


def read_head(path: Path) -> LabelledHead:
    """Read a label map, and place the template in it."""
    labels = reorient_to_ras(read_labels(path))
    table = np.full(1000, OTHER_BRAIN, np.uint8)
    table[0], table[500:] = 0, OTHER_HEAD
    for index, codes in enumerate(CODES):
        table[list(codes)] = index + 1
    table[[515, 516, 507, 511]] = BONE, MARROW, MUSCLE, FAT
    classes = table[labels.data.astype(int)]
    classes[ndimage.binary_erosion(classes == BONE, iterations=2)] = MARROW
    inside = (labels.data > 0) & (labels.data < 500)
    image = np.where(inside, T1W[np.minimum(classes, OTHER_BRAIN)], 0.0)
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 0.6)
    affine = align_to_template(Volume(smooth, labels.geometry)).affine
    to_template = np.linalg.inv(affine)
    depth = resample(load_depth(), labels.geometry, to_template, outside=-60.0)
    # Not the fluid around the spinal cord.
    brain = ndimage.binary_opening(inside & (depth > -7.0), iterations=2)
    brain = ndimage.binary_fill_holes(brain)
    return LabelledHead(classes, brain, to_template @ labels.geometry.affine)


def draw_samples(
    rng: np.random.Generator, heads: list[LabelledHead]
) -> list[tuple[NDArray, ...]]:
    """Draw images of one anatomy, each with truth, field of view and coordinates."""
    classes, brain, template = draw_anatomy(rng, heads)
    samples = []
    for _ in range(IMAGES):
        draw = rng.random()
        if draw < EMPTY:
            samples.append((*draw_nothing(rng), template))
            continue
        sample = (*draw_image(rng, classes, brain), template)
        if draw > 1.0 - REORDERED:
            sample = tuple(reorder_axes(rng, *sample))
        samples.append(sample)
    return samples


def take_step(
    network: BrainNet,
    optimizer: torch.optim.Optimizer,
    batch: list[tuple[NDArray, ...]],
) -> float:
    """Minimise cross entropy, Dice loss and error of coordinates; return Dice."""
    image, truth, inside, template = (
        torch.tensor(np.stack(arrays), dtype=torch.float32)
        for arrays in zip(*batch, strict=True)
    )
    image = image[:, None].to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", PRECISION):
        logits, coordinates = network(image)
    logits, coordinates = logits[:, 0].float(), coordinates.float()
    weight = 0.05 + 0.95 * inside
    entropy = F.binary_cross_entropy_with_logits(logits, truth, weight)
    probability = torch.sigmoid(logits) * weight
    common = (probability * truth).flatten(1).sum(1)
    total = (probability + truth * weight).flatten(1).sum(1)
    dice = ((2 * common + 1) / (total + 1)).mean()
    brain = F.avg_pool3d((truth * inside)[:, None], 2)
    error = (coordinates - template).abs().clamp(max=80) * brain
    distance = error.sum() / (3 * brain.sum() + 1)
    optimizer.zero_grad()
    (4 * entropy / weight.mean() + 1 - dice + distance / 30).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimizer.step()
    return float(dice.detach())


def block(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(n_in, n_out, 3, stride, 1, bias=False),
        nn.BatchNorm3d(n_out, momentum=0.03),
        nn.LeakyReLU(0.1),
    )


def export(network: BrainNet) -> dict[str, NDArray]:
    """Fold the normalisation into the convolutions, and name arrays by stage.

    Most are in half precision, which is enough and takes half of the space.
    """
    arrays = {}
    for stage in ("e0", "e1", "e2", "d1", "d0"):
        for index, (convolution, norm, _) in enumerate(getattr(network, stage)):
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = convolution.weight * factor[:, None, None, None, None]
            bias = norm.bias - norm.running_mean * factor
            arrays[f"{stage}.{index}.weight"] = weight.detach().half().numpy()
            arrays[f"{stage}.{index}.bias"] = bias.detach().numpy()
    for stage in ("p1", "p0", "out"):
        projection = getattr(network, stage)
        weight = projection.weight.detach().flatten(1)
        weight = weight if stage == "out" else weight.half()
        arrays[f"{stage}.weight"] = weight.numpy()
        arrays[f"{stage}.bias"] = projection.bias.detach().numpy()
    return arrays


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
