"""Names of subjects that come from files: making them distinct, and checking them."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from brainfeat.io.paths import image_stem
from brainfeat.subjects.image_names import CONTRAST_AGENT, ImageName, read_image_name
from brainfeat.subjects.subject import Subject

__all__ = ["add_folders_to_names", "find_namesakes", "report_other_modalities"]

_LOGGER = logging.getLogger(__name__)


def add_folders_to_names(
    rows: Sequence[Subject], *, without_contrast: bool = False
) -> list[Subject]:
    """Name subjects by the folders of their images, too, where file names are equal.

    ``001/T1.nii`` and ``002/T1.nii`` become ``001_T1`` and ``002_T1``;
    ``without_contrast``, which is for rows of several images, ``001`` and ``002``.
    """
    own_names = {
        row.image: read_image_name(row.image).rest
        if without_contrast
        else image_stem(row.image)
        for row in rows
        if row.participant_id == image_stem(row.image)
    }
    clashes: dict[str, list[str]] = {}
    for image, name in own_names.items():
        clashes.setdefault(name, []).append(image)
    renamed = own_names | {
        image: longer
        for name, images in clashes.items()
        if len(images) > 1 or not name
        for image, longer in _longer_names(images, own_names).items()
    }
    return [
        replace(row, participant_id=renamed[row.image])
        if row.participant_id == image_stem(row.image)
        else row
        for row in rows
    ]


def _longer_names(images: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    folders = [str(Path(image).parent) for image in images]
    # The folder of a single subject is a part of its name, too.
    root = os.path.commonpath(folders)
    if not names[images[0]] and root in folders:
        root = str(Path(root).parent)
    return {
        image: "_".join(
            [*Path(folder).relative_to(root).parts, *filter(None, [names[image]])]
        )
        for image, folder in zip(images, folders, strict=True)
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


def report_other_modalities(rows: Sequence[Subject]) -> None:
    """Warn of images whose names say another modality than they are used as.

    Otherwise nobody would notice a glob that is too wide, or exchanged columns.
    """
    others = [
        (path, modality)
        for row in rows
        for modality, path in row.paths.items()
        if _says_otherwise(read_image_name(path), modality)
    ]
    if others:
        path, modality = others[0]
        more = f" ({len(others) - 1} more like it)" if len(others) > 1 else ""
        _LOGGER.warning(
            "%s: taken for %s, which its name does not say%s", path, modality, more
        )


def _says_otherwise(name: ImageName, modality: str) -> bool:
    if name.is_label_map:
        return True
    same = {modality.casefold()}
    if modality == "T1w":  # images with contrast agent have a note of their own
        same.add(CONTRAST_AGENT.casefold())
    return name.contrast is not None and name.contrast.casefold() not in same
