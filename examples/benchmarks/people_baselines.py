"""What else age and sex can be read from: voxels, tissue volumes, a trained network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from cohort_features import VOXEL_PREPROCESSOR, cached
from numpy.typing import NDArray
from people_cache import Item, ScanCache, read_prepared
from people_probes import ComponentProbe, LinearProbe, Probe, Question
from supervised_cnn import CnnConfig, train_and_predict, train_and_predict_numbers
from torch.nn import functional as F

from brainfeat import Preprocessor
from brainfeat.evaluation.folds import Fold
from brainfeat.evaluation.tasks import Predictions

Floats = NDArray[Any]
_N_TISSUES = 3  # fluid, grey and white matter of a T1w scan
# Selected by hand among four settings on other folds, by the errors of both labels.
_CNN = CnnConfig(n_steps=800)


def make_baselines(items: Sequence[Item], cache: ScanCache) -> Iterator[Probe]:
    """Yield the methods without an encoder, for T1w scans on a rigid grid of 2 mm."""
    usual = replace(cache, preprocessor=Preprocessor())
    paths = usual.prepare(items)
    coarse = np.stack([read_coarse(path) for path in paths.values()])
    yield ComponentProbe("voxels 4 mm, rigid, PCA", coarse.reshape(len(coarse), -1))
    affine = replace(cache, preprocessor=VOXEL_PREPROCESSOR).prepare(items)
    voxels = [read_prepared(path).voxels.ravel() for path in affine.values()]
    yield ComponentProbe("voxels 4 mm, affine, PCA", np.stack(voxels))
    volumes = [measure_tissues(path) for path in paths.values()]
    yield LinearProbe("tissue volumes, k-means of SimpleITK", np.stack(volumes))
    scans = torch.from_numpy(coarse[:, None]).float()
    yield CnnProbe("3D CNN, supervised", scans, cache.folder / "cnn", _names(paths))


def read_coarse(path: Path) -> NDArray[np.float32]:
    """Read a prepared scan at half its resolution, zero outside the brain."""
    scan = read_prepared(path)
    data = torch.from_numpy(scan.voxels.astype(np.float32) * scan.foreground)
    return F.avg_pool3d(data[None], 2)[0].numpy()


def measure_tissues(path: Path) -> NDArray[np.float64]:
    """Return the ml of three clusters of intensities, their shares, and their sum."""
    scan = read_prepared(path)
    values = scan.voxels[scan.foreground].astype(np.float32)
    means = np.quantile(values, (0.05, 0.4, 0.8)).tolist()
    labels = sitk.ScalarImageKmeans(sitk.GetImageFromArray(values[None, None]), means)
    counts = np.bincount(sitk.GetArrayFromImage(labels).ravel(), minlength=_N_TISSUES)
    ml = counts * Preprocessor().spacing ** 3 / 1e3
    return np.concatenate([ml, ml / ml.sum(), [ml.sum()]])


@dataclass(frozen=True, eq=False)
class CnnProbe:
    """A network that is trained on the labelled scans of each fold; cached."""

    name: str
    scans: torch.Tensor  # N 1 I J K
    folder: Path
    names: tuple[str, ...]  # of the scans, by content
    config: CnnConfig = _CNN
    n_repeats: int = 1

    def predict(self, question: Question, fold: Fold) -> Predictions:
        """Predict the test rows of a fold."""
        train, test = fold
        labels = question.labels[train]
        key = self.config, self.names, train.tolist(), test.tolist(), labels.tolist()
        found = cached(self.folder, key, self._compute, question, fold)
        if not question.task.classes:
            return Predictions(found[:, None], np.empty((len(test), 0)), found)
        probabilities = np.column_stack([1.0 - found, found])
        decided = probabilities.argmax(axis=1)
        return Predictions(found[:, None], probabilities, decided)

    def _compute(self, question: Question, fold: Fold) -> NDArray[np.float32]:
        train, test = fold
        labels = question.labels[train]
        given = self.scans[train], [self.scans[test]], self.config
        if question.task.classes:
            codes = labels.astype(np.int64)
            return train_and_predict(given[0], codes, *given[1:])[0]
        return train_and_predict_numbers(given[0], labels, *given[1:])[0]


def _names(paths: Mapping[Item, Path]) -> tuple[str, ...]:
    return tuple(path.stem for path in paths.values())
