"""Names of image files, whatever the case of their suffix."""

import os
from pathlib import Path

__all__ = ["IMAGE_SUFFIXES", "bids_suffix", "has_image_suffix", "image_stem"]

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".img")
# Read where they are named, and not looked for in folders.
_OTHERS = (".hdr", ".mnc", ".head", ".brik", ".brik.gz", ".par", ".rec")


def bids_suffix(name: str) -> str:
    """Read what kind of image a file is by its BIDS name.

    Parameters
    ----------
    name : str
        File name.

    Returns
    -------
    str
        What follows the last underscore, without endings; the whole name if it has no
        underscore.

    Examples
    --------
    >>> bids_suffix("sub-01_acq-0.8mm_T1w.nii.gz")
    'T1w'
    """
    # A dot may belong to a label before it.
    return name.split("_")[-1].split(".")[0]


def has_image_suffix(name: str) -> bool:
    """Whether a file is an image by its name.

    Parameters
    ----------
    name : str
        File name.

    Returns
    -------
    bool
        True for ``a.nii.gz`` and ``A.NII.GZ``.
    """
    return name.lower().endswith(IMAGE_SUFFIXES)


def image_stem(path: str | os.PathLike[str]) -> str:
    """Cut off the suffix of an image file, but no other dot.

    Parameters
    ----------
    path : path-like
        Any file.

    Returns
    -------
    str
        Its name without the suffix, if it has one of an image.

    Examples
    --------
    >>> image_stem("scans/sub-1_acq-0.8mm_T1w.nii.gz")
    'sub-1_acq-0.8mm_T1w'
    """
    name = Path(path).name
    known = (*IMAGE_SUFFIXES, *_OTHERS)
    suffix = next((s for s in known if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] or name
