"""Fingerprints of images by their content."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage

from brainfeat.exceptions import VolumeError, brief_reason
from brainfeat.io.image_files import ImageSource, files_of

__all__ = ["content_hash", "hash_images", "join_hashes"]


def content_hash(source: ImageSource) -> str:
    """Fingerprint an image by its content, not by its name or date.

    Parameters
    ----------
    source : path-like or nibabel image
        A file is hashed byte for byte, with those that belong to it, such as the
        ``.hdr`` of an ``.img``; an image by its stored array and affine.

    Returns
    -------
    str
        SHA-256 in hexadecimal.

    Raises
    ------
    VolumeNotFoundError
        If there is no such file.
    VolumeError
        If the file cannot be read.
    """
    if isinstance(source, SpatialImage):
        data = np.ascontiguousarray(source.dataobj)
        digest = hashlib.sha256(f"{data.dtype.str}{data.shape}".encode())
        digest.update(np.asarray(source.affine, dtype=np.float64).tobytes())
        digest.update(data.view(np.uint8).data if data.size else b"")
        return digest.hexdigest()
    digests = list(map(_file_hash, files_of(source)))
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def hash_images(images: Mapping[str, str]) -> str:
    """Fingerprint the images of one row by their content.

    Parameters
    ----------
    images : mapping of str to str
        Path of the image of each modality.

    Returns
    -------
    str
        SHA-256 in hexadecimal; for a single image in one file it is that of the file.

    Raises
    ------
    VolumeError
        If a file is missing or cannot be read.
    """
    return join_hashes({name: content_hash(path) for name, path in images.items()})


def join_hashes(hashes: Mapping[str, str]) -> str:
    """Join the hashes of a row's images; a single hash is returned as it is."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = (f"{modality} {value}\n" for modality, value in sorted(hashes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({brief_reason(error)}).") from error
