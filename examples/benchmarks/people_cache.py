"""Scans on the encoder's grid and their embeddings, cached by content."""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from people_changes import STRIPPED, change_head
from people_scans import Person

from brainfeat import Checkpoint, Preprocessor, write_volume
from brainfeat.embedding.pooler import Pooler
from brainfeat.embedding.subject_encoder import EncoderInput, SubjectEncoder
from brainfeat.exceptions import BrainfeatError
from brainfeat.io.hashing import known_hash
from brainfeat.subjects.reading import read_and_preprocess
from brainfeat.subjects.subject import Subject

_VERSION = 1  # of the changes and of what is kept
_BATCH = 4
Floats = NDArray[np.float32]


class Item(NamedTuple):
    """A scan that is embedded: of a person, in a modality, maybe changed."""

    person: Person
    modality: str
    change: str = ""


class Prepared(NamedTuple):
    """A scan on the grid; the foreground counts as brain."""

    voxels: NDArray[np.float16]
    foreground: NDArray[np.bool_]
    seconds: float


class Features(NamedTuple):
    """What an encoder says of each scan: a row each."""

    mean: Floats
    ml: Floats  # of each structure; no columns without structures

    def shares(self, n_tissues: int) -> Floats:
        """Return structures as shares of all tissues, as `pooling="anatomy"`."""
        return self.ml / self.ml[:, :n_tissues].sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class ScanCache:
    """Prepares scans, or reads what it prepared before.

    `masks` is a folder of deepbet's masks, `n_jobs` a number of processes.
    """

    folder: Path
    preprocessor: Preprocessor
    masks: Path | None = None
    n_jobs: int = 1
    seconds: list[float] = field(default_factory=list)  # of each scan that was prepared

    def prepare(self, items: Sequence[Item]) -> dict[Item, Path]:
        """Prepare scans; return the files of those that can be."""
        paths = {item: self._path(item) for item in items}
        missing = [item for item in items if not paths[item].exists()]
        work = (delayed(self._prepare)(item, paths[item]) for item in missing)
        self.seconds.extend(s for s in Parallel(self.n_jobs)(work) if s)
        found = {item: path for item, path in paths.items() if path.exists()}
        # A changed scan is compared with the original.
        originals = {item._replace(change="") for item in found if item.change}
        lost = {item for item in originals if item in paths and item not in found}
        return {i: p for i, p in found.items() if i._replace(change="") not in lost}

    def _path(self, item: Item) -> Path:
        masks = [item.person.stripped, item.person.label_map]
        sources = [item.person.scans[item.modality].path]
        if item.change == STRIPPED:
            sources += [path for path in masks if path is not None]
        hashes = [known_hash(path) for path in sources]
        key = (_VERSION, *hashes, item.change, self.preprocessor.fingerprint)
        return self.folder / "scans" / f"{_digest(key)}.npz"

    def _prepare(self, item: Item, path: Path) -> float:
        scan = item.person.scans[item.modality]
        if path.exists():  # another run was faster
            return 0.0
        with tempfile.TemporaryDirectory() as folder:
            source = scan.path
            if item.change:
                volume = change_head(item.person, item.change, self.masks)
                if volume is None:
                    return 0.0
                source = Path(folder) / f"changed_{item.modality}.nii.gz"
                write_volume(volume, source)
            start = time.perf_counter()
            subject = Subject(item.person.name, {item.modality: source})
            given = subject, self.preprocessor, (item.modality,)
            try:
                _, processed = read_and_preprocess(*given)
            except BrainfeatError as error:
                print(f"left out: {scan.name} {item.change}: {error}")
                return 0.0
            seconds = time.perf_counter() - start
        _save(
            path,
            voxels=processed.data[0].astype(np.float16),
            foreground=processed.foreground,
            seconds=np.array(seconds),
        )
        return seconds


def read_prepared(path: Path) -> Prepared:
    with np.load(path) as kept:
        return Prepared(
            kept["voxels"], kept["foreground"].astype(bool), float(kept["seconds"])
        )


@dataclass(frozen=True, eq=False)
class PeopleEncoder:
    """A checkpoint that embeds prepared scans, as `BrainFoundEmbedder` does."""

    name: str
    checkpoint: Checkpoint
    dtype: str = "auto"

    @property
    def preprocessor(self) -> Preprocessor:
        """The preprocessing of the checkpoint."""
        return Preprocessor.from_dict(self.checkpoint.config.preprocessing)

    @property
    def tissues(self) -> tuple[str, ...]:
        """Structures whose shares sum to one; none if anatomy was not learnt."""
        return tuple(getattr(self.checkpoint.config.encoder, "tissues", ()))

    @property
    def structures(self) -> tuple[str, ...]:
        """All structures that are read from tokens: tissues, then others."""
        return tuple(getattr(self.checkpoint.config.encoder, "anatomy_names", ()))

    def embed(self, paths: Mapping[Item, Path], folder: Path) -> Features:
        """Embed prepared scans in order, or read the cached rows."""
        encoder = SubjectEncoder(self.checkpoint, dtype=self.dtype)
        key = (_VERSION, self.checkpoint.fingerprint, encoder.precision)
        kept = folder / "rows" / _digest(key)
        files = {
            item: kept / f"{path.stem}_{item.modality}.npz"
            for item, path in paths.items()
        }
        missing = [item for item, file in files.items() if not file.exists()]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            inputs = [_to_input(encoder, item, paths[item]) for item in batch]
            for item, *row in zip(batch, *self._encode(encoder, inputs), strict=True):
                _save(files[item], **dict(zip(Features._fields, row, strict=True)))
        rows = [_read_row(file) for file in files.values()]
        return Features(*(np.stack(part) for part in zip(*rows, strict=True)))

    @torch.inference_mode()
    def _encode(
        self, encoder: SubjectEncoder, inputs: Sequence[EncoderInput]
    ) -> tuple[Floats, Floats]:
        """Return mean tokens and the volumes of structures in ml."""
        voxels, present, fractions = (
            torch.from_numpy(np.stack(part))
            for part in list(zip(*inputs, strict=True))[:3]
        )
        output = encoder.forward(voxels, present, fractions)
        mean = encoder.pooler.pool(output, fractions, None).float()
        ml = torch.zeros(len(mean), 0)
        if self.structures:
            known = self.checkpoint, encoder.preprocessor
            ml = Pooler(*known, "anatomy_ml", None).pool(output, fractions, None)
        return mean.numpy(), ml.float().numpy()


def _to_input(encoder: SubjectEncoder, item: Item, path: Path) -> EncoderInput:
    """Return a prepared scan as the only modality that is present."""
    prepared = read_prepared(path)
    present = np.array([name == item.modality for name in encoder.modalities])
    data = np.zeros((len(present), *prepared.voxels.shape), np.float32)
    data[present] = prepared.voxels
    fractions = encoder.fractions(prepared.foreground)
    return EncoderInput(encoder.grid.extract(data), present, fractions)


def _read_row(path: Path) -> tuple[Floats, Floats]:
    with np.load(path) as kept:
        return kept["mean"], kept["ml"]


def _digest(key: object) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:32]


def _save(path: Path, **arrays: Any) -> None:
    """Write arrays so that an interrupted run leaves no incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)
