"""Names of subjects that come from files: making them distinct, and checking them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from brainfeat.io.paths import image_stem
from brainfeat.subjects.bids.entities import BIDS_SUFFIXES, parse_bids_name
from brainfeat.subjects.subject import Subject

__all__ = ["add_folders_to_names", "find_namesakes", "report_other_modalities"]

_LOGGER = logging.getLogger(__name__)


def add_folders_to_names(rows: Sequence[Subject]) -> list[Subject]:
    """Name subjects by the folders of their images, too, where file names are equal.

    ``001/T1.nii`` and ``002/T1.nii`` become ``001_T1`` and ``002_T1``.
    """
    clashes: dict[str, set[str]] = {}
    for row in rows:
        if row.participant_id == image_stem(row.image):
            clashes.setdefault(row.participant_id, set()).add(row.image)
    renamed = {
        image: name
        for images in clashes.values()
        if len(images) > 1
        for image, name in _longer_names(sorted(images)).items()
    }
    return [
        replace(row, participant_id=renamed[row.image])
        if row.image in renamed and row.participant_id == image_stem(row.image)
        else row
        for row in rows
    ]


def _longer_names(images: Sequence[str]) -> dict[str, str]:
    root = os.path.commonpath(images)
    return {
        image: "_".join([*Path(image).relative_to(root).parts[:-1], image_stem(image)])
        for image in images
    }


def find_namesakes(rows: Sequence[Subject]) -> dict[str, list[str]]:
    """Return the datasets of each participant that has a folder in several.

    Names are unique in one dataset only.
    """
    datasets: dict[str, dict[str, None]] = {}
    for row in rows:
        parts = Path(row.image).parts
        if row.participant_id in parts:
            dataset = Path(*parts[: parts.index(row.participant_id)])
            datasets.setdefault(row.participant_id, {})[str(dataset)] = None
    return {name: [*folders] for name, folders in datasets.items() if len(folders) > 1}


def report_other_modalities(rows: Sequence[Subject], modalities: Sequence[str]) -> None:
    """Warn of images whose names say another modality than they are used as.

    Otherwise nobody would notice a glob that is too wide, or exchanged columns.
    """
    known = BIDS_SUFFIXES.union(map(str.casefold, modalities))
    others = [
        (path, modality)
        for row in rows
        for modality, path in row.paths.items()
        if parse_bids_name(Path(path).name).suffix.casefold()
        in known - {modality.casefold()}
    ]
    if others:
        path, modality = others[0]
        more = f" ({len(others) - 1} more like it)" if len(others) > 1 else ""
        _LOGGER.warning(
            "%s: taken for %s, which its name does not say%s", path, modality, more
        )
