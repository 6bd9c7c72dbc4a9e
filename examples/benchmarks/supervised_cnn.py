"""A small 3D convolutional network, trained from scratch on few labelled scans."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from cohort_features import cached, scan_names
from development_cohort import MODALITIES, Contrast, DevelopmentCohort, read_scan
from monai.networks.nets import Classifier
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from brainfeat import Preprocessor
from brainfeat.pretraining.store import VolumeStore


@dataclass(frozen=True, kw_only=True)
class CnnConfig:
    """Training of the network; about five seconds on one core."""

    channels: tuple[int, ...] = (8, 16, 32)
    dropout: float = 0.2
    n_steps: int = 130
    batch_size: int = 8
    lr: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


# What the benchmark also trains if it is asked for the network at its best settings.
OTHER_SETTINGS = {
    "300 steps": CnnConfig(n_steps=300),
    "learning rate 0.005": CnnConfig(lr=5e-3),
    "one more layer": CnnConfig(channels=(8, 16, 32, 32)),
    "dropout 0.5": CnnConfig(dropout=0.5),
}


class SupervisedCnn:
    """The network as a method of the benchmark; predictions are cached."""

    def __init__(
        self, cohort: DevelopmentCohort, config: CnnConfig, setting: str = "supervised"
    ) -> None:
        self.name = f"3D CNN, {setting}"
        self.cohort, self.config = cohort, config
        self._scans = lru_cache(self._read)

    def accepts(self, contrast: Contrast) -> bool:
        """Accept any contrast."""
        return bool(contrast)

    def predict(
        self, trained: Contrast, tested: Sequence[Contrast], train: NDArray[np.int64]
    ) -> list[NDArray[Any]]:
        """Return the probability of disease of every subject, for each contrast."""
        # One trained network predicts all contrasts with the same number of channels.
        tested_with = (
            [(name,) for name in MODALITIES] if len(trained) == 1 else [trained]
        )
        names = [
            scan_names(self._store(contrast)) for contrast in (trained, *tested_with)
        ]
        key = (self.config, trained, names, train.tolist())
        folder = self.cohort.folder / "cnn"
        probabilities = cached(folder, key, self._compute, trained, tested_with, train)
        return [probabilities[tested_with.index(contrast)] for contrast in tested]

    def _compute(
        self, trained: Contrast, tested: Sequence[Contrast], train: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        scans, labels = self._scans(trained)[train], self.cohort.diagnosis[train]
        return train_and_predict(
            scans, labels, [self._scans(contrast) for contrast in tested], self.config
        )

    def _store(self, contrast: Contrast) -> VolumeStore:
        return self.cohort.store(contrast, Preprocessor())

    def _read(self, contrast: Contrast) -> Tensor:
        return read_coarse(self._store(contrast), contrast)


def read_coarse(store: VolumeStore, contrast: Contrast) -> Tensor:
    """Read scans at half their resolution: (N, M, I, J, K); 0 outside the brain."""
    volumes = []
    for scan in store.index.scans:
        data, foreground = read_scan(store, scan, contrast, contrast)
        volumes.append(F.avg_pool3d(torch.from_numpy(data * foreground), 2))
    return torch.stack(volumes)


def train_and_predict(
    scans: Tensor,
    labels: NDArray[np.int64],
    tested: Sequence[Tensor],
    config: CnnConfig,
) -> NDArray[np.float32]:
    """Train on labelled scans; return the probability of disease, (n_tested, N)."""
    logits = _train_and_apply(scans, torch.from_numpy(labels), tested, config)
    return logits.softmax(dim=-1)[..., 1].numpy()


def train_and_predict_numbers(
    scans: Tensor,
    numbers: NDArray[np.float64],
    tested: Sequence[Tensor],
    config: CnnConfig,
) -> NDArray[np.float32]:
    """Train on scans with a number each; return the predicted ones, (n_tested, N)."""
    mean, scale = float(numbers.mean()), float(numbers.std())
    targets = torch.from_numpy((numbers - mean) / scale).float()
    outputs = _train_and_apply(scans, targets, tested, config)[..., 0]
    return (mean + scale * outputs).numpy()


def _train_and_apply(
    scans: Tensor, targets: Tensor, tested: Sequence[Tensor], config: CnnConfig
) -> Tensor:
    """Train on codes of two classes or on numbers; return outputs (n_tested, N, K)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _train(scans, targets, config)
    with torch.inference_mode():
        return torch.stack(
            [torch.cat([network(x) for x in t.split(16)]) for t in tested]
        )


def _train(scans: Tensor, targets: Tensor, config: CnnConfig) -> Classifier:
    strides = (2,) * len(config.channels)
    has_classes = not targets.is_floating_point()
    network = Classifier(
        scans.shape[1:],
        classes=2 if has_classes else 1,
        channels=config.channels,
        strides=strides,
        num_res_units=0,
        dropout=config.dropout,
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=config.n_steps, pct_start=0.1
    )
    draw, measure = (
        (_draw_balanced, F.cross_entropy) if has_classes else (_draw, _squared_error)
    )
    for _ in range(config.n_steps):
        rows = draw(targets, config.batch_size)
        loss = measure(network(_augment(scans[rows])), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs[:, 0], targets)


def _draw(targets: Tensor, n: int) -> Tensor:
    return torch.randint(len(targets), (n,))


def _draw_balanced(labels: Tensor, n: int) -> Tensor:
    rows = [(labels == label).nonzero().flatten() for label in (0, 1)]
    return torch.cat([each[torch.randint(len(each), (n // 2,))] for each in rows])


def _augment(scans: Tensor) -> Tensor:
    """Flip left and right, shift by up to 8 mm, and change the intensities."""
    n, n_modalities = scans.shape[:2]
    flipped = torch.where(torch.rand(n, 1, 1, 1, 1) < 0.5, scans.flip(2), scans)
    # The grid is larger than the brain, so only background wraps around.
    shifts = torch.randint(-2, 3, (n, 3)).tolist()
    pairs = zip(flipped, shifts, strict=True)
    moved = [scan.roll(shift, (1, 2, 3)) for scan, shift in pairs]
    gain, offset = 0.1 * torch.randn(2, n, n_modalities, 1, 1, 1)
    return torch.stack(moved) * (1 + gain) + offset
