"""Compare `SegmentationEstimator` with a UNet trained from scratch, on few labels.

Both are trained on the same subjects of one scanner and predict those of the others,
whose anatomy (ROBEX) is not in the pretraining data. The UNet is monai's. It has the
same 1 mm voxels around the aligned brain, the augmentation of nnU-Net without mirror
images (rotation, scaling, noise, blur, brightness, gamma, low resolution), and the
processor time of the estimator, without preprocessing. Needs monai.

    python examples/benchmarks/segmentation.py work --labels 1 5 20 --json results.json
    python examples/benchmarks/segmentation.py work --labels 5 --kinds tissues \
        --checkpoints brainfound-tiny brainfound-tiny-anatomy --no-unet
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from development_cohort import robex_base
from numpy.typing import NDArray
from scipy import ndimage

from brainfeat import Preprocessor, SegmentationEstimator, simulate_cohort
from brainfeat.io.volumes import read_labels, to_image_like
from brainfeat.metrics import dice_scores, score_lesions

# The UNet gets the voxels of the estimator's decoder.
from brainfeat.segmentation.inputs import SegmentationSpace
from brainfeat.slabs.grid import SlabGrid
from brainfeat.subjects.subject import Subject

TISSUES = {"csf": (1, 4), "gray matter": (2, 5, 6), "white matter": (3,)}
STRUCTURES = range(1, 7)
LESION = 7
TRAIN_SITE = "north"
UNET_CHANNELS = (16, 32, 64, 128)
CROP = (64, 64, 64)
# The grid of brainfound-tiny, at half its spacing.
GRID = SegmentationSpace(
    preprocessor=Preprocessor(),
    slab_grid=SlabGrid(),
    encoder_modalities=("T1w", "T2w", "FLAIR"),
    modalities=("T1w",),
    allow_missing=True,
)


class UNetMethod:
    """monai's UNet on the fine grid; label maps are resampled as the estimator's."""

    def __init__(self, modality: str, seconds: float, seed: int) -> None:
        self.space = replace(GRID, modalities=(modality,))
        self.modality, self.seconds, self.seed = modality, seconds, seed

    def fit(self, scans: Sequence[str], label_maps: Sequence[str]) -> "UNetMethod":
        """Train for the processor time."""
        from monai.losses import DiceCELoss
        from monai.networks.nets import UNet

        torch.manual_seed(self.seed)
        rng = np.random.default_rng(self.seed)
        inputs = [self._read(scan) for scan in scans]
        targets = [
            self.space.to_grid(read_labels(path), subject)
            for path, subject in zip(label_maps, inputs, strict=True)
        ]
        self.classes = np.unique(np.concatenate([np.unique(t) for t in targets]))
        indices = [np.searchsorted(self.classes, t) for t in targets]
        self.network = UNet(
            3, 1, len(self.classes), UNET_CHANNELS, (2, 2, 2), num_res_units=1
        )
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=2e-3)
        loss_function = DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True
        )
        augment = _augmentation(self.seed)
        start, self.n_steps = time.process_time(), 0
        while time.process_time() - start < self.seconds:
            images, labels = self._draw_batch(inputs, indices, augment, rng)
            loss = loss_function(self.network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.n_steps += 1
        return self

    @torch.inference_mode()
    def predict(self, scans: Sequence[str]) -> list[Any]:
        """Predict label maps in native space."""
        self.network.eval()
        images = []
        for scan in scans:
            subject = self._read(scan)
            logits = self.network(torch.from_numpy(subject.voxels[None]))
            probabilities = logits.softmax(1)[0].numpy()
            native = np.stack(
                [self.space.to_native(c, subject) for c in probabilities[1:]]
            )
            all_probabilities = np.concatenate(
                [1 - native.sum(axis=0, keepdims=True), native]
            )
            labels = self.classes[all_probabilities.argmax(axis=0)].astype(np.uint8)
            images.append(to_image_like(labels, scan))
        return images

    def _draw_batch(
        self,
        inputs: Sequence[Any],
        indices: Sequence[NDArray[Any]],
        augment: Any,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        crops = []
        for subject in rng.integers(len(inputs), size=2):
            crop = _draw_crop(indices[subject], rng)
            image = torch.from_numpy(inputs[subject].voxels[:, *crop])
            label = torch.from_numpy(indices[subject][None, *crop])
            crops.append(augment({"image": image, "label": label}))
        images = torch.stack([crop["image"] for crop in crops]).float()
        return images, torch.stack([crop["label"] for crop in crops]).float()

    def _read(self, scan: str) -> Any:
        return self.space.read(Subject(scan, {self.modality: scan}))


def _augmentation(seed: int) -> Any:
    from monai import transforms

    keys, image = ["image", "label"], ["image"]
    modes = ["bilinear", "nearest"]
    border = {"mode": modes, "padding_mode": "border"}
    turned = transforms.RandAffined(keys, prob=0.2, rotate_range=[0.52] * 3, **border)
    scaled = transforms.RandAffined(keys, prob=0.2, scale_range=[0.3] * 3, **border)
    augment = transforms.Compose(
        [
            turned,
            scaled,
            transforms.RandGaussianNoised(image, prob=0.1, std=0.3),
            transforms.RandGaussianSmoothd(image, prob=0.2),
            transforms.RandScaleIntensityd(image, factors=0.25, prob=0.15),
            transforms.RandBiasFieldd(image, prob=0.3, coeff_range=(0.0, 0.3)),
            transforms.RandSimulateLowResolutiond(
                image, prob=0.25, zoom_range=(0.5, 1.0)
            ),
            transforms.RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5)),
        ]
    )
    return augment.set_random_state(seed)


def _draw_crop(labels: NDArray[Any], rng: np.random.Generator) -> tuple[slice, ...]:
    """Draw a cube around a voxel of a random class."""
    voxels = np.argwhere(labels == rng.choice(np.unique(labels)[1:]))
    center = voxels[rng.integers(len(voxels))]
    starts = [
        int(np.clip(c - size // 2, 0, whole - size))
        for c, size, whole in zip(center, CROP, labels.shape, strict=True)
    ]
    return tuple(slice(a, a + size) for a, size in zip(starts, CROP, strict=True))


def score(
    images: Sequence[Any], label_maps: Sequence[str], kind: str
) -> dict[str, Any]:
    """Return the mean Dice over subjects, overall and by class."""
    tissues, structures, lesions = [], [], []
    for image, path in zip(images, label_maps, strict=True):
        predicted, truth = np.asarray(image.dataobj), read_labels(path).data
        tissues.append(
            [
                dice_scores(np.isin(truth, c), np.isin(predicted, c), [1])[0]
                for c in TISSUES.values()
            ]
        )
        structures.append(dice_scores(truth, predicted, STRUCTURES))
        if kind == "lesions":
            lesion, in_brain = (
                dice_scores(truth, p, [LESION])[0]
                for p in (predicted, np.where(truth > 0, predicted, 0))
            )
            f1 = score_lesions(truth == LESION, predicted == LESION).f1
            outside = np.count_nonzero((predicted == LESION) & ~find_brain(truth))
            lesions.append((lesion, in_brain, f1, outside))
    result = {
        "tissues": float(np.nanmean(tissues)),
        "structures": float(np.nanmean(structures)),
        "by_structure": np.nanmean(structures, axis=0).round(3).tolist(),
    }
    if kind == "lesions":
        names = ("dice", "dice_in_brain", "f1", "voxels_outside")
        means = np.nanmean(lesions, axis=0).tolist()
        result |= {f"lesion_{k}": v for k, v in zip(names, means, strict=True)}
    return result


def find_brain(labels: NDArray[Any]) -> NDArray[Any]:
    """Return all that lies between the structures of a label map, and a voxel more."""
    return ndimage.binary_dilation(ndimage.binary_fill_holes(labels > 0))


def compare(
    folder: Path, kind: str, n_labels: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train and score both methods on the same subjects.

    Raises
    ------
    SystemExit
        If the cohort has too few subjects on a scanner.
    """
    modality = "FLAIR" if kind == "lesions" else "T1w"
    cohort = simulate_cohort(
        folder / kind,
        options.subjects,
        modalities=(modality,),
        random_state=7,
        base=robex_base(),
        disease_kind="lesions" if kind == "lesions" else "medial-temporal",
        disease=0.8 if kind == "lesions" else 0.5,
    )
    is_train_site = cohort["site"] == TRAIN_SITE
    train, test = (
        cohort[is_train_site].iloc[:n_labels],
        cohort[~is_train_site].iloc[: options.test],
    )
    if len(train) < n_labels or test.empty:
        raise SystemExit(f"{options.subjects} subjects are too few; raise --subjects.")
    scans, label_maps = train[modality].tolist(), train["dseg"].tolist()
    truth, images = test["dseg"].tolist(), test[modality].tolist()
    result: dict[str, Any] = {}
    for checkpoint in options.checkpoints:
        name = "estimator" if checkpoint == "brainfound-tiny" else Path(checkpoint).name
        estimator = SegmentationEstimator(
            checkpoint,
            n_steps=options.steps,
            n_folds=3 if kind == "lesions" else 0,
            random_state=0,
        )
        started = time.process_time(), time.perf_counter()
        estimator.fit(scans, label_maps)
        result["fit_cpu_seconds"] = time.process_time() - started[0]
        result["fit_seconds"] = time.perf_counter() - started[1]
        started = time.process_time(), time.perf_counter()
        told = [v for k, v in estimator.held_out_scores_.items() if "lesion" in k]
        result[name] = score(estimator.predict(images), truth, kind)
        if told:
            result[name]["told_lesion_dice"] = told[0]
        show(kind, n_labels, name, result[name])
        result["predict_seconds"] = (time.perf_counter() - started[1]) / len(test)
    if options.unet:
        unet = UNetMethod(modality, result["fit_cpu_seconds"], seed=0)
        unet.fit(scans, label_maps)
        result["unet"] = score(unet.predict(images), truth, kind)
        show(kind, n_labels, "unet", result["unet"])
        result["unet_steps"] = unet.n_steps
    return result


def show(kind: str, n_labels: int, name: str, scores: dict[str, Any]) -> None:
    """Print scores, of each structure after the means."""
    means = (f"{k} {v:.3f}" for k, v in scores.items() if not isinstance(v, list))
    by_structure = " ".join(f"{value:.2f}" for value in scores["by_structure"])
    line = f"{'  '.join(means)}  ({by_structure})"
    print(f"{kind:8} {n_labels:3} labels  {name:24} {line}", flush=True)


def main() -> None:
    """Print scores for each kind of label map and number of labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--kinds", nargs="+", default=["tissues", "lesions"])
    parser.add_argument("--subjects", type=int, default=66)
    parser.add_argument("--test", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--checkpoints", nargs="+", default=["brainfound-tiny"])
    parser.add_argument("--no-unet", dest="unet", action="store_false")
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for kind in options.kinds:
        for n_labels in options.labels:
            row = compare(options.folder, kind, n_labels, options)
            results[f"{kind}, {n_labels}"] = row
            print(
                f"  fit {row['fit_seconds']:.0f} s ({row['fit_cpu_seconds']:.0f} s of "
                f"CPU time), predict {row['predict_seconds']:.1f} s per volume, "
                f"UNet {row.get('unet_steps', 0)} steps",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
