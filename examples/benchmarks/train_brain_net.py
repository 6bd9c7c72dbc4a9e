"""Train the network that finds the brain, on heads synthesised from label maps.

FOLDER holds whole-head label maps with FreeSurfer's codes, 500 and more outside of the
brain, such as the training set of SynthSeg. It prints the overlap on new images, and
writes the weights that brainfeat/preprocessing/brain_net.npz holds.

    python examples/benchmarks/train_brain_net.py FOLDER OUTPUT.npz [MINUTES]
"""

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
    reorder_axes,
)
from torch import Tensor, nn

from brainfeat.io.volumes import read_labels
from brainfeat.preprocessing.alignment import align_to_template
from brainfeat.preprocessing.head_model import load_depth
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.volume import Volume

# Codes of FreeSurfer by the classes of `synthetic_heads`, from white matter on.
CODES = (
    (2, 41), (3, 42), (4, 43, 5, 44, 14, 15, 72), (24,), (7, 46), (8, 47),
    (10, 49, 28, 60), (11, 50, 12, 51, 26, 58), (13, 52), (16,), (17, 53, 18, 54),
)  # fmt: skip
OTHER_BRAIN, BONE, MARROW, MUSCLE, FAT, OTHER_HEAD = 12, 13, 14, 15, 16, 17
T1W = np.array([0, 1, 0.7, 0.2, 0.2, 1, 0.65, 0.85, 0.75, 0.9, 0.95, 0.7, 0.6])
CHANNELS = (16, 24, 32)
BATCH, POOL, IMAGES = 4, 600, 4  # samples, kept samples, images of an anatomy
COORDINATE_UNIT = 100.0  # mm
REORDERED = 0.08  # fraction with wrong axes


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
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    heads = [read_head(path) for path in sorted(Path(folder).glob("*.nii.gz"))]
    network = BrainNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-4)
    samples: list[tuple[NDArray, ...]] = []
    overlaps: list[float] = []
    start = time.monotonic()
    while (progress := (time.monotonic() - start) / (60.0 * minutes)) < 1.0:
        samples += draw_samples(rng, heads)
        samples = samples[-POOL:]
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (0.5 + 0.5 * np.cos(np.pi * progress)) + 2e-5
        for _ in range(IMAGES):
            chosen = rng.integers(0, len(samples), BATCH)
            batch = [samples[index] for index in chosen]
            overlaps.append(take_step(network, optimizer, batch))
        if len(overlaps) % 100 == 0:
            print(f"{len(overlaps)} steps, Dice {np.mean(overlaps[-100:]):.3f}")
    np.savez_compressed(output, **export(network))


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
        sample = (*draw_image(rng, classes, brain), template)
        if rng.random() < REORDERED:
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
    logits, coordinates = network(image[:, None])
    logits, weight = logits[:, 0], 0.05 + 0.95 * inside
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
    """Fold the normalisation into the convolutions, and name arrays by stage."""
    arrays = {}
    for stage in ("e0", "e1", "e2", "d1", "d0"):
        for index, (convolution, norm, _) in enumerate(getattr(network, stage)):
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = convolution.weight * factor[:, None, None, None, None]
            bias = norm.bias - norm.running_mean * factor
            arrays[f"{stage}.{index}.weight"] = weight.detach().numpy()
            arrays[f"{stage}.{index}.bias"] = bias.detach().numpy()
    for stage in ("p1", "p0", "out"):
        projection = getattr(network, stage)
        arrays[f"{stage}.weight"] = projection.weight.detach().flatten(1).numpy()
        arrays[f"{stage}.bias"] = projection.bias.detach().numpy()
    return arrays


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:]))
