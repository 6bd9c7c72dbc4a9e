"""Names of image files: the contrast, the subject, and whether it is a label map."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainfeat.io.paths import image_stem
from brainfeat.subjects.bids.entities import BIDS_SUFFIXES

__all__ = ["CONTRAST_AGENT", "ImageName", "find_channels", "read_image_name"]

# A T1w image with contrast agent, which no public encoder knows as a modality.
CONTRAST_AGENT = "T1ce"

# Words of a name, without a leading "3d" or a trailing resolution, by what they mean.
_CONTRASTS = {
    **dict.fromkeys(("t1", "t1n", "t1w", "t1wi", "mprage", "mpr", "spgr"), "T1w"),
    **dict.fromkeys(("t1mprage", "mprage1", "fspgr", "t1weighted"), "T1w"),
    **dict.fromkeys(("t1ce", "t1c", "t1gd", "t1wce", "t1post", "t1km"), CONTRAST_AGENT),
    **dict.fromkeys(("t2", "t2w", "t2wi", "t2tse", "t2weighted"), "T2w"),
    **dict.fromkeys(("flair", "t2f", "t2flair", "tirm", "darkfluid"), "FLAIR"),
    **dict.fromkeys(("pd", "pdw", "pdwi"), "PDw"),
}
_AGENTS = frozenset({"gd", "gad", "gado", "gadolinium", "ce"})
# Only after "T1": "post" may also be a time, "c" a control.
_AGENTS_AFTER_T1 = frozenset({"post", "postcontrast", "c", "contrast", "km"})
_OTHER_CONTRASTS = frozenset({"mra", "dti", "adc", "ct", "t2star"}) | BIDS_SUFFIXES
_LABEL_MAPS = frozenset(
    {"seg", "segm", "segmentation", "segmentations", "dseg", "probseg", "label"}
    | {"labels", "roi", "rois", "mask", "masks", "aseg", "aparc", "brainmask"}
    | {"wmparc", "parcellation", "gt", "groundtruth", "dlmuse", "lesionmask"}
)
_LABEL_FOLDERS = frozenset({"labelstr", "labelsts", "labelsval"})
_CHANNEL_FOLDERS = frozenset({"imagestr", "imagests", "imagesval"})

# Entities of BIDS, whose values say nothing of the contrast.
_ENTITIES = frozenset(
    {"sub", "ses", "acq", "ce", "rec", "dir", "run", "echo", "part", "space", "desc"}
    | {"res", "den", "task", "inv", "mt", "flip", "chunk", "tpl", "split", "from"}
)
# The images of one session may differ in these.
_NOT_OF_SUBJECT = frozenset({"acq", "ce"})
_SEPARATORS = r"_\-.+\s"
_ENTITY = re.compile(rf"(?:(?<=_)|^)([a-z]+)-([^_\-]+)(?=[{_SEPARATORS}]|$)")
_WORD = re.compile(rf"[^{_SEPARATORS}]+")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_MAX_CHANNELS = 10


@dataclass(frozen=True)
class ImageName:
    """What the name of an image file says.

    The contrast is a BIDS suffix such as ``"T1w"``, `CONTRAST_AGENT`, or another kind
    of image as it is written; None if the name says nothing.
    """

    contrast: str | None
    is_label_map: bool  # a segmentation or a mask
    rest: str  # without contrast and extension: images of one subject share it

    def find_modality(self, modalities: Iterable[str]) -> str | None:
        """Return the modality, as it is written there, or None if it is another."""
        known = {modality.casefold(): modality for modality in modalities}
        return known.get((self.contrast or "").casefold())


def read_image_name(path: str | os.PathLike[str]) -> ImageName:
    """Read the contrast and the subject off the name of an image file.

    The last contrast that is named counts, as in ``T2_study_007_T1``. Names of BIDS,
    BraTS, IXI and FreeSurfer are known.

    >>> read_image_name("BraTS-GLI-00001-000-t2f.nii.gz")
    ImageName(contrast='FLAIR', is_label_map=False, rest='BraTS-GLI-00001-000')
    >>> read_image_name("sub-01_acq-T2_label-GM_probseg.nii.gz").is_label_map
    True
    """
    path = Path(path)
    stem = image_stem(path)
    entities = [m for m in _ENTITY.finditer(stem) if m[1] in _ENTITIES]
    words = [*_find_words(stem, entities)]
    keys = [_normalize(word[0]) for word in words]
    contrast, used = _find_contrast(keys)
    if contrast == "T1w" and any(m[1] == "ce" for m in entities):
        contrast = CONTRAST_AGENT
    if contrast is None and keys and keys[-1] in _OTHER_CONTRASTS:
        contrast, used = words[-1][0], [len(words) - 1]
    spans = [words[index].span() for index in used]
    spans += [m.span() for m in entities if m[1] in _NOT_OF_SUBJECT]
    is_label_map = bool(_LABEL_MAPS.intersection(keys))
    is_label_map |= path.parent.name.lower() in _LABEL_FOLDERS
    return ImageName(contrast, is_label_map, _cut(stem, spans))


def find_channels(paths: Sequence[str]) -> set[str]:
    """Return the images that nnU-Net would take for numbered contrasts of a case.

    ``case_0000`` and ``case_0001`` are; ``scan_0001`` to ``scan_0060`` are subjects.
    """
    cases: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        match = _CHANNEL.fullmatch(image_stem(path))
        name = read_image_name(path)
        if match and name.contrast is None and not name.is_label_map:
            cases[str(Path(path).parent), match[1]][int(match[2])] = path
    return {
        path
        for (folder, _), images in cases.items()
        if max(images) < _MAX_CHANNELS
        and (0 in images or Path(folder).name.lower() in _CHANNEL_FOLDERS)
        for path in images.values()
    }


def _find_words(
    stem: str, entities: Sequence["re.Match[str]"]
) -> Iterator["re.Match[str]"]:
    """Yield the words of a name that belong to no entity."""
    for word in _WORD.finditer(stem):
        if not any(m.start() <= word.start() < m.end() for m in entities):
            yield word


def _normalize(word: str) -> str:
    word = re.sub(r"\d+(p\d+)?mm$", "", word.lower())
    return word.removeprefix("3d").removeprefix("2d")


def _find_contrast(keys: Sequence[str]) -> tuple[str | None, list[int]]:
    """Return the contrast, and the indices of the words that say it."""
    found = {
        index: _CONTRASTS[key]
        for index, key in enumerate(keys)
        # What follows "to" is the image that it was aligned to.
        if key in _CONTRASTS and (index == 0 or keys[index - 1] not in {"to", "in"})
    }
    agents = [
        index
        for index, key in enumerate(keys)
        if key in _AGENTS or (key in _AGENTS_AFTER_T1 and found.get(index - 1) == "T1w")
    ]
    named = [*found.values()]
    if not named:
        # "ce" alone may be anything.
        alone = [index for index in agents if keys[index] != "ce"]
        return (CONTRAST_AGENT, alone) if alone else (None, [])
    contrast = named[-1]
    if contrast == "T2w" and "FLAIR" in named:
        contrast = "FLAIR"
    if contrast == "T1w" and (agents or CONTRAST_AGENT in named):
        return CONTRAST_AGENT, [*found, *agents]
    return contrast, [*found]


def _cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Remove parts of a name, each with one of the separators beside it."""
    for start, end in sorted(spans, reverse=True):
        before, after = text[:start], text[end:]
        if before:
            before = before.rstrip("_-.+ ")
        else:
            after = after.lstrip("_-.+ ")
        text = before + after
    return text
