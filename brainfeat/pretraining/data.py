"""What a user has to train on, in each of its forms, as scans or as a source."""

__all__ = ["ScanList", "collect_training_data"]

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from brainfeat.exceptions import InputError, ModalityError
from brainfeat.io.paths import expand_home
from brainfeat.pretraining.store import INDEX_NAME, VolumeStore
from brainfeat.pretraining.store_writer import Scan
from brainfeat.pretraining.subjects import SubjectSource
from brainfeat.subjects.failures import describe_failure
from brainfeat.subjects.manifest import Manifest, collect_rows
from brainfeat.subjects.subject import Outcome
from brainfeat.subjects.table import as_subjects

logger = logging.getLogger(__name__)

_FORMS = (
    "a path, a glob or a list of them (images, folders, BIDS folders, manifests), a "
    "DataFrame with a column per modality, the folder of a store, or a SubjectSource"
)


@dataclass(frozen=True, eq=False)
class ScanList:
    """Scans to preprocess, and inputs that are none.

    Parameters
    ----------
    scans : tuple of Scan
        Acquisitions; those of one subject have its name.
    modalities : tuple of str
        Modalities that any scan has, in the encoder's order.
    problems : tuple of Outcome
        Missing files, folders without images.
    """

    scans: tuple[Scan, ...]
    modalities: tuple[str, ...]
    problems: tuple[Outcome[Any], ...] = ()

    @property
    def quantities(self) -> tuple[str, ...]:
        """Known quantities: none, as images alone tell no anatomy."""
        return ()


def collect_training_data(
    data: Any, *, modalities: Sequence[str], wanted: Sequence[str] = ()
) -> ScanList | SubjectSource:
    """Read what a user has, in any of its forms; no voxel is loaded.

    Parameters
    ----------
    data : path-like, list of path-like, DataFrame or SubjectSource
        Images, globs, folders, BIDS folders and manifests; a table with a row an
        acquisition and a column a modality, whose index names the subjects (its
        first level, if it has several); the folder of a `VolumeStore`; or a
        source, such as `SimulatedSource`.
    modalities : sequence of str
        Modalities of the encoder, the one to assume first.
    wanted : sequence of str
        Modalities to use; none means all.

    Returns
    -------
    ScanList or SubjectSource
        Scans that are to be preprocessed, or a source that is ready.

    Raises
    ------
    InputError
        If there is nothing to train on, or `data` has another form.
    ModalityError
        If a wanted modality is unknown to the encoder or no scan has it.
    """
    found = _read(data, modalities, wanted)
    absent = [name for name in wanted if name not in found.modalities]
    if absent:
        raise ModalityError(
            f"expected {' and '.join(absent)}, the data have "
            f"{', '.join(found.modalities)}."
        )
    if wanted and not isinstance(found, ScanList):
        others = [name for name in found.modalities if name not in wanted]
        if others:
            raise ModalityError(
                f"the volumes are stored with {', '.join(others)} too; make a store "
                f"of {', '.join(wanted)} from the images."
            )
    return found


def _read(
    data: Any, modalities: Sequence[str], wanted: Sequence[str]
) -> ScanList | SubjectSource:
    if callable(getattr(data, "draw", None)):
        source: SubjectSource = data
        return source
    if isinstance(data, pd.DataFrame):
        used = [name for name in data.columns if not wanted or name in wanted]
        return _list_frame(data[used], modalities)
    if isinstance(data, str | os.PathLike):
        data = [data]
    paths = _paths(data)
    stores = [path for path in paths if _is_store(path)]
    if stores and len(paths) > 1:
        raise InputError(f"{stores[0]}: a store is trained on alone, not with others.")
    if stores:
        return VolumeStore(expand_home(stores[0]))
    return _list_inputs(paths, modalities, wanted)


def _paths(data: Any) -> list[str]:
    if not isinstance(data, list | tuple):
        raise InputError(f"data: expected {_FORMS}, got {type(data).__name__}.")
    for item in data:
        if not isinstance(item, str | os.PathLike):
            kinds = f"{type(data).__name__} with a {type(item).__name__}"
            raise InputError(f"data: expected {_FORMS}, got a {kinds}.")
    return [os.fspath(item) for item in data]


def _is_store(path: str) -> bool:
    return (expand_home(path) / INDEX_NAME).is_file()


def _list_frame(frame: pd.DataFrame, modalities: Sequence[str]) -> ScanList:
    table = as_subjects(frame, modality=None, modalities=modalities, allow_missing=True)
    scans = []
    for label, row in zip(frame.index.get_level_values(0), table.rows, strict=True):
        images = {}
        for name, image in row.images.items():
            if isinstance(image, Path):
                images[name] = os.fspath(image)
            elif image is not None:
                raise InputError(
                    f"data row {label!r}, {name}: expected a path, got an image in "
                    "memory."
                )
        scans.append(Scan(subject=str(label), images=images))
    return _list_scans(scans, modalities)


def _list_inputs(
    paths: Sequence[str], modalities: Sequence[str], wanted: Sequence[str]
) -> ScanList:
    manifest = collect_rows(paths, modalities=modalities, wanted=wanted)
    for name in manifest.duplicates:
        logger.warning("%s: given more than once, used once.", name)
    for problem in manifest.problems:
        logger.warning("failed: %s", describe_failure(problem))
    names = _name_subjects(manifest, paths)
    scans = [
        Scan(subject=name, images=row.paths)
        for name, row in zip(names, manifest.rows, strict=True)
    ]
    return _list_scans(scans, modalities, manifest.problems)


def _name_subjects(manifest: Manifest, paths: Sequence[str]) -> list[str]:
    """Name the subject of each row: sub-01 of two cohorts is two people."""
    names = [row.participant_id for row in manifest.rows]
    if all(path.lower().endswith((".csv", ".tsv")) for path in paths):
        return names  # a table says who is who
    namesakes = manifest.namesakes
    given = [os.path.abspath(expand_home(path)) for path in paths]  # noqa: PTH100
    places = []
    for name, row in zip(names, manifest.rows, strict=True):
        homes = {Path(place, name): place for place in namesakes.get(name, ())}
        homes |= {Path(place): place for place in given if Path(place).is_dir()}
        image = Path(row.image)
        around = (p for home, p in homes.items() if image.is_relative_to(home))
        places.append(next(around, ""))
    places_of = defaultdict(set)
    for name, place in zip(names, places, strict=True):
        places_of[name].add(place)
    several = {name: found for name, found in places_of.items() if len(found) > 1}
    if several:
        name, found = next(iter(several.items()))
        logger.warning(
            "%d names are in several datasets, such as %s in %s: each has its own "
            "person of that name, unless a manifest says otherwise.",
            len(several),
            name,
            " and ".join(sorted(filter(None, found))),
        )
    return [
        f"{place}/{name}" if place and name in several else name
        for name, place in zip(names, places, strict=True)
    ]


def _list_scans(
    scans: Iterable[Scan],
    modalities: Sequence[str],
    problems: Iterable[Outcome[Any]] = (),
) -> ScanList:
    scans = tuple(scans)
    present = {name for scan in scans for name in scan.images}
    used = tuple(name for name in modalities if name in present)
    return ScanList(scans, used, tuple(problems))
