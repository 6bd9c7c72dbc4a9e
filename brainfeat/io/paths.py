"""Paths as users write them, and names of image files."""

import os
from pathlib import Path

__all__ = [
    "IMAGE_SUFFIXES",
    "NIFTI_SUFFIXES",
    "expand_home",
    "has_image_suffix",
    "image_stem",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii.zst", ".nii")
IMAGE_SUFFIXES = (
    *NIFTI_SUFFIXES,
    *(".mgz", ".mgh", ".img", ".nrrd", ".nhdr", ".mha", ".mhd"),
)
# Read when named, but not searched for in folders.
_OTHER_SUFFIXES = (".hdr", ".mnc", ".head", ".brik", ".brik.gz", ".par", ".rec")


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Replace a leading ``~`` by the home folder.

    Unlike ``Path.expanduser``, keeps a ``~name`` that is no user: it may be a file.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111  # see the docstring


def has_image_suffix(name: str) -> bool:
    """Whether a file name has the suffix of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_stem(path: str | os.PathLike[str]) -> str:
    """Return the name of an image file without its suffix.

    >>> image_stem("scans/sub-1_acq-0.8mm_T1w.nii.gz")
    'sub-1_acq-0.8mm_T1w'
    """
    name = Path(path).name
    known = (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES)
    suffix = next((s for s in known if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] or name
