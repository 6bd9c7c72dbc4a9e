"""Arrays of one subject in a store: its scan, degraded copies, and label maps."""

__all__ = ["CopyPlan", "store_acquisitions"]

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from brainfeat.configs import from_plain
from brainfeat.exceptions import BrainfeatError, InputError
from brainfeat.io.atomic import atomic_write
from brainfeat.io.hashing import content_hash
from brainfeat.io.json_files import read_json, write_json
from brainfeat.io.volumes import read_labels, read_volume
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.label_maps import LABEL_MAP, LABEL_TABLE, LabelCodes
from brainfeat.pretraining.store import StoredScan
from brainfeat.simulation.degradation import Degradation, DegradationConfig
from brainfeat.subjects.subject import Subject
from brainfeat.volume import Geometry, Volume

_SINGLE = 0.75  # probability that a copy of several modalities shows one of them
# Farther from that of the scan, in mm, the brain of a copy was not found.
_LARGEST_SHIFT = 15.0
_LEAST_INSIDE = 0.5  # of the voxels with labels, in the foreground


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """What a store holds beside the scans: copies of each, and label maps."""

    n_degraded: int = 0
    config: DegradationConfig = field(default_factory=DegradationConfig)
    codes: Mapping[str, LabelCodes] = field(default_factory=dict)  # by table


@dataclass(frozen=True, eq=False)
class _Work:
    """A subject to store; images are read and preprocessed when they are needed."""

    subject: Subject
    folder: Path
    preprocessor: Preprocessor
    modalities: tuple[str, ...]
    plan: CopyPlan

    @cached_property
    def name(self) -> str:
        paths = self.subject.paths
        return _array_name(paths, self.preprocessor, self.modalities)

    @cached_property
    def volumes(self) -> dict[str, Volume]:
        return {name: read_volume(p) for name, p in self.subject.paths.items()}

    @cached_property
    def result(self) -> PreprocessedSubject:
        return self.preprocessor.apply(self.volumes, self.modalities)

    @cached_property
    def brain(self) -> Volume:
        """The foreground, in scanner space."""
        affine = self.result.grid_to_scanner @ self.result.geometry.affine
        geometry = Geometry(self.result.geometry.shape, affine)
        return Volume(self.result.foreground.astype(np.uint8), geometry)

    @cached_property
    def codes(self) -> LabelCodes | None:
        """Codes of the label map; None if there is no label map."""
        if not self.subject.metadata.get(LABEL_MAP):
            return None
        return self.plan.codes[str(self.subject.metadata[LABEL_TABLE])]

    @cached_property
    def label_map(self) -> Volume:
        return read_labels(str(self.subject.metadata[LABEL_MAP]))

    @cached_property
    def key(self) -> str:
        """Hash of everything that the arrays depend on."""
        parts = [self.name, self.plan.n_degraded, self.plan.config, self.codes]
        if self.codes is not None:
            parts.append(content_hash(str(self.subject.metadata[LABEL_MAP])))
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def save(self, name: str, array: NDArray[Any]) -> str:
        """Write an array; return the name of its file."""
        content = io.BytesIO()
        np.save(content, array)  # np.save to a file gives no reason when it fails
        with atomic_write(self.folder / f"{name}.npy") as unfinished:
            unfinished.write_bytes(content.getbuffer())
        return f"{name}.npy"


def store_acquisitions(
    subject: Subject,
    folder: Path,
    preprocessor: Preprocessor,
    modalities: tuple[str, ...],
    plan: CopyPlan,
) -> tuple[StoredScan, ...]:
    """Write the arrays of a subject that do not exist yet; return its scans."""
    work = _Work(subject, folder, preprocessor, modalities, plan)
    scan = StoredScan(
        subject=subject.participant_id,
        file=f"{work.name}.npy",
        present=tuple(name in subject.paths for name in modalities),
    )
    record = folder / f"{work.key}.json"
    if not plan.n_degraded and work.codes is None:
        return (replace(scan, doubt=_store_plain(work, record)),)
    if (stored := _read_record(record, subject)) is not None:
        return stored
    _store_array(work)
    thickness = max(next(iter(work.volumes.values())).geometry.spacing)
    scan = replace(scan, thickness=round(float(thickness), 3))
    scan = replace(scan, visit=subject.session_id or "")
    labelled = _add_labels(scan, work, work.result, work.name)
    stored = (
        replace(labelled, doubt=work.result.quality.doubt),
        *_store_copies(scan, work),
    )
    write_json(record, {"scans": [asdict(acquisition) for acquisition in stored]})
    return stored


def _store_plain(work: _Work, record: Path) -> str:
    """Store a scan without copies and labels; return its doubt, which has a record."""
    if (work.folder / f"{work.name}.npy").is_file():
        stored = read_json(record, "a doubt") if record.is_file() else {}
        return str(stored.get("doubt", ""))
    doubt = work.result.quality.doubt
    if doubt:
        write_json(record, {"doubt": doubt})
    _store_array(work)
    return doubt


def _store_array(work: _Work) -> None:
    if not (work.folder / f"{work.name}.npy").is_file():
        work.save(work.name, _as_array(work.result))


def _store_copies(scan: StoredScan, work: _Work) -> Iterator[StoredScan]:
    """Preprocess copies; leave out those in which the brain is not found."""
    for number in range(work.plan.n_degraded):
        generator = np.random.default_rng([int(work.name[:15], 16), number])
        drawn = _draw(tuple(work.volumes), work.plan.config, generator)
        volumes = {m: d.apply(work.volumes[m], work.brain) for m, d in drawn.items()}
        try:
            result = work.preprocessor.apply(volumes, work.modalities)
        except BrainfeatError:
            continue
        if _shift(result, work.result) > _LARGEST_SHIFT:
            continue
        name = f"{work.key}-{number}"
        present = tuple(bool(is_present) for is_present in result.present)
        copy = replace(
            scan,
            file=work.save(name, _as_array(result)[[*present, True]]),
            present=present,
            degradation="; ".join(f"{m} {d.description}" for m, d in drawn.items()),
        )
        yield _add_labels(copy, work, result, name)


def _add_labels(
    scan: StoredScan, work: _Work, result: PreprocessedSubject, name: str
) -> StoredScan:
    """Resample the label map as an acquisition was, if there is one."""
    if work.codes is None:
        return scan
    values = work.preprocessor.apply_labels(work.label_map, result)
    labels = work.codes.apply(values)
    inside = result.foreground[labels > 0]
    if not inside.size or inside.mean() < _LEAST_INSIDE:
        raise InputError(
            f"{work.subject.metadata[LABEL_MAP]}: expected labels in the brain of "
            f"{work.subject.image}, got "
            + (f"{1 - inside.mean():.0%} outside" if inside.size else "none there")
            + "; is it in another space, or is its table another one's?"
        )
    return replace(
        scan, labels=work.save(f"{name}-labels", labels), known=work.codes.known
    )


def _draw(
    names: tuple[str, ...], config: DegradationConfig, generator: Generator
) -> dict[str, Degradation]:
    """Draw the modalities of a copy, and the protocol of each."""
    if len(names) > 1 and generator.random() < _SINGLE:
        names = (names[int(generator.integers(len(names)))],)
    drawn = {name: Degradation.draw(config, generator) for name in names}
    # Images of one visit are stripped by one mask.
    margin = next(iter(drawn.values())).mask_margin
    return {name: replace(d, mask_margin=margin) for name, d in drawn.items()}


def _shift(first: PreprocessedSubject, second: PreprocessedSubject) -> float:
    """Return the mean distance between the corners of two grids, in mm."""
    grid = first.geometry
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(grid.shape)[:, None] - 1)
    points = np.vstack([corners, np.ones(corners.shape[1])])
    apart = (first.grid_to_scanner - second.grid_to_scanner) @ grid.affine @ points
    return float(np.linalg.norm(apart[:3], axis=0).mean())


def _as_array(result: PreprocessedSubject) -> NDArray[np.float16]:
    """Join modalities and foreground: (M + 1, I, J, K)."""
    foreground = result.foreground[None].astype(np.float16)
    return np.concatenate([result.data.astype(np.float16), foreground])


def _read_record(path: Path, subject: Subject) -> tuple[StoredScan, ...] | None:
    """Return the scans of an earlier call, unless a file of them is missing."""
    if not path.is_file():
        return None
    scans = tuple(
        replace(
            from_plain(StoredScan, values, where="scan"),
            subject=subject.participant_id,
            visit=subject.session_id or "",
        )
        for values in read_json(path, "a record of stored scans")["scans"]
    )
    names = {name for scan in scans for name in (scan.file, scan.labels) if name}
    return scans if all((path.parent / name).is_file() for name in names) else None


def _array_name(
    paths: dict[str, str], preprocessor: Preprocessor, modalities: tuple[str, ...]
) -> str:
    digest = hashlib.sha256(preprocessor.fingerprint.encode())
    digest.update(repr(modalities).encode())
    for modality in sorted(paths):
        digest.update(f"{modality} {content_hash(paths[modality])}".encode())
    return digest.hexdigest()[:32]
