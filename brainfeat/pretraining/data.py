"""Training data in each of their forms, as subjects to preprocess or as a source."""

__all__ = ["TrainingSubjects", "collect_training_data"]

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.io.paths import expand_home
from brainfeat.preprocessing.preprocessor import Preprocessor
from brainfeat.pretraining.label_maps import (
    LABEL_MAP,
    LABEL_TABLE,
    collect_structures,
    find_label_maps,
)
from brainfeat.pretraining.ranks import rank
from brainfeat.pretraining.source import SubjectSource
from brainfeat.pretraining.store import INDEX_NAME, VolumeStore
from brainfeat.subjects.bids.index import find_root
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.manifest import Manifest, collect_rows
from brainfeat.subjects.subject import Outcome, Subject
from brainfeat.subjects.table import as_subjects

logger = logging.getLogger(__name__)

_FORMS = (
    "a path, a glob or a list of them (images, folders, BIDS folders, manifests), a "
    "DataFrame with a column per modality, the folder of a store, or a SubjectSource"
)


@dataclass(frozen=True, eq=False)
class TrainingSubjects:
    """Subjects to preprocess, and inputs that have none.

    Acquisitions of one subject share its name. `modalities` are those of any subject,
    in the encoder's order; `failed` has missing files and folders without images.
    """

    subjects: tuple[Subject, ...]
    modalities: tuple[str, ...]
    failed: tuple[Outcome[Any], ...] = ()
    preprocessor: Preprocessor = field(default_factory=Preprocessor)

    @property
    def targets(self) -> tuple[str, ...]:
        """Structures of the label maps, if there are any."""
        return collect_structures(self.subjects)[0].names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of a preprocessed volume."""
        return self.preprocessor.shape


def collect_training_data(
    data: Any,
    *,
    modalities: Sequence[str],
    wanted: Sequence[str] = (),
    label_maps: str | os.PathLike[str] | None = None,
    label_table: str | os.PathLike[str] | None = None,
) -> TrainingSubjects | SubjectSource:
    """Collect training data in any form that `pretrain` takes; load no voxels.

    `modalities` are the encoder's; images that name none count as the first. `wanted`
    are those to use, by default all; those of a store that the encoder does not have
    are not read. `label_maps` and `label_table` are the folder and
    the table of `find_label_maps`.
    """
    collected = _collect(data, modalities, wanted)
    if isinstance(collected, TrainingSubjects) and collected is not data:
        subjects = find_label_maps(
            collected.subjects,
            folder=None if label_maps is None else Path(label_maps),
            table=None if label_table is None else expand_home(label_table),
            manifests=_manifests(data),
        )
        collected = replace(collected, subjects=subjects)
    elif label_maps is not None or label_table is not None:
        raise InputError(
            "label maps: expected images beside them, got a store or another source, "
            "which has its own; make a store of the images and their label maps."
        )
    if isinstance(collected, VolumeStore):
        collected = _select(collected, modalities, wanted)
    absent = [name for name in wanted if name not in collected.modalities]
    if absent:
        raise ModalityError(
            f"expected {' and '.join(absent)}, the data have "
            f"{', '.join(collected.modalities)}."
        )
    if wanted and not isinstance(collected, TrainingSubjects):
        others = [name for name in collected.modalities if name not in wanted]
        if others:
            raise ModalityError(
                f"the volumes are stored with {', '.join(others)} too; make a store "
                f"of {', '.join(wanted)} from the images."
            )
    return collected


def _collect(
    data: Any, modalities: Sequence[str], wanted: Sequence[str]
) -> TrainingSubjects | SubjectSource:
    if isinstance(data, TrainingSubjects):
        return data
    if callable(getattr(data, "draw", None)):
        source: SubjectSource = data
        return source
    if isinstance(data, pd.DataFrame):
        kept = (*wanted, LABEL_MAP, LABEL_TABLE)
        used = [name for name in data.columns if not wanted or name in kept]
        return _collect_frame(data[used], modalities)
    if isinstance(data, str | os.PathLike):
        data = [data]
    paths = _as_paths(data)
    stores = [path for path in paths if _is_store(path)]
    if stores and len(paths) > 1:
        raise InputError(
            f"{stores[0]}: a store cannot be combined with other inputs; train on it "
            "alone."
        )
    if stores:
        return VolumeStore(expand_home(stores[0]))
    return _collect_paths(paths, modalities, wanted)


def _select(
    store: VolumeStore, modalities: Sequence[str], wanted: Sequence[str]
) -> VolumeStore:
    """Leave out modalities that the encoder does not have, or that are not wanted."""
    shared = [name for name in modalities if name in store.modalities]
    used = [name for name in shared if not wanted or name in wanted]
    others = [name for name in store.modalities if name not in shared]
    if others and shared and rank() == 0:
        text = "%s: its volumes of %s are not used, the encoder is for %s."
        logger.info(text, store.folder, ", ".join(others), ", ".join(modalities))
    return store.select(used) if used else store


def _as_paths(data: Any) -> list[str]:
    if not isinstance(data, list | tuple):
        raise InputError(f"data: expected {_FORMS}, got {type(data).__name__}.")
    for item in data:
        if not isinstance(item, str | os.PathLike):
            kinds = f"{type(data).__name__} with a {type(item).__name__}"
            raise InputError(f"data: expected {_FORMS}, got a {kinds}.")
    return [os.fspath(item) for item in data]


def _manifests(data: Any) -> list[Path]:
    """Return the tables among the inputs, whose paths may be relative to them."""
    items = data if isinstance(data, list | tuple) else [data]
    paths = [expand_home(item) for item in items if isinstance(item, str | os.PathLike)]
    return [path for path in paths if path.suffix.lower() in {".csv", ".tsv"}]


def _is_store(path: str) -> bool:
    return (expand_home(path) / INDEX_NAME).is_file()


def _collect_frame(frame: pd.DataFrame, modalities: Sequence[str]) -> TrainingSubjects:
    columns = [name for name in (LABEL_MAP, LABEL_TABLE) if name in frame.columns]
    beside = frame[columns].to_dict("records")
    frame = frame.drop(columns=columns)
    table = as_subjects(frame, modality=None, modalities=modalities, allow_missing=True)
    subjects = []
    names = frame.index.get_level_values(0)
    for label, row, values in zip(names, table.rows, beside, strict=True):
        for name, image in row.images.items():
            if image is not None and not isinstance(image, str | os.PathLike):
                raise InputError(
                    f"data row {label!r}, {name}: expected a path, got an image in "
                    "memory."
                )
        metadata = {str(k): os.fspath(v) for k, v in values.items() if not pd.isna(v)}
        subjects.append(Subject(str(label), row.paths, metadata=metadata))
    return _with_present_modalities(subjects, modalities)


def _collect_paths(
    paths: Sequence[str], modalities: Sequence[str], wanted: Sequence[str]
) -> TrainingSubjects:
    manifest = collect_rows(paths, modalities=modalities, wanted=wanted)
    for name in manifest.duplicates:
        logger.warning("%s: given more than once, used once.", name)
    for problem in manifest.problems:
        logger.warning("failed: %s", describe_failure(problem))
    subjects = _distinguish_datasets(manifest, paths)
    return _with_present_modalities(subjects, modalities, manifest.problems)


def _with_present_modalities(
    subjects: Iterable[Subject],
    modalities: Sequence[str],
    failed: Iterable[Outcome[Any]] = (),
) -> TrainingSubjects:
    subjects = tuple(subjects)
    present = {name for subject in subjects for name in subject.images}
    used = tuple(name for name in modalities if name in present)
    return TrainingSubjects(subjects, used, tuple(failed))


def _distinguish_datasets(manifest: Manifest, paths: Sequence[str]) -> list[Subject]:
    """Prefix names that occur in several datasets by their folder.

    sub-01 of two datasets is two subjects, unless manifests name them.
    """
    rows = list(manifest.rows)
    if all(path.lower().endswith((".csv", ".tsv")) for path in paths):
        return rows
    datasets = [_dataset_of(row, manifest, paths) for row in rows]
    datasets_of = defaultdict(set)
    for row, dataset in zip(rows, datasets, strict=True):
        datasets_of[row.participant_id].add(dataset)
    repeated = {name: sorted(d) for name, d in datasets_of.items() if len(d) > 1}
    if repeated:
        name, folders = next(iter(repeated.items()))
        logger.warning(
            "%d names are in several datasets, such as %s in %s: they count as "
            "different subjects, unless a manifest gives them one name.",
            len(repeated),
            name,
            " and ".join(filter(None, folders)),
        )
    return [
        replace(row, participant_id=f"{dataset}/{row.participant_id}")
        if dataset and row.participant_id in repeated
        else row
        for row, dataset in zip(rows, datasets, strict=True)
    ]


def _dataset_of(row: Subject, manifest: Manifest, paths: Sequence[str]) -> str:
    """Return the folder of the dataset that a subject is from, or an empty string."""
    name, image = row.participant_id, Path(row.image)
    for folder in manifest.namesakes.get(name, ()):
        if image.is_relative_to(Path(folder, name)):
            return folder
    for path in paths:
        # Not resolved, so that links keep their name.
        folder = os.path.abspath(expand_home(path))  # noqa: PTH100
        if Path(folder).is_dir() and image.is_relative_to(folder):
            return str(find_root(Path(folder)) or folder)
    return ""
