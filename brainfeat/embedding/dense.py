"""Patch tokens as 4D images for nilearn."""

from collections.abc import Sequence
from typing import Literal, get_args

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainfeat.configs import is_integer
from brainfeat.embedding.tokens import SubjectTokens
from brainfeat.exceptions import ConfigError
from brainfeat.volume import Geometry

__all__ = ["DenseSpace", "check_dense_options", "to_dense_images"]

DenseSpace = Literal["native", "template"]


def check_dense_options(space: object, n_components: object, n_features: int) -> None:
    """Check the options of `BrainFoundEmbedder.transform_dense`."""
    spaces = get_args(DenseSpace)
    if space not in spaces:
        raise ConfigError(f"space: expected one of {spaces}, got {space!r}.")
    if n_components is not None and not (
        is_integer(n_components, at_least=1) and n_components <= n_features
    ):
        raise ConfigError(
            f"n_components: expected None or 1 to {n_features}, got {n_components!r}."
        )


def to_dense_images(
    subjects: Sequence[SubjectTokens], *, space: DenseSpace, n_components: int | None
) -> list[nib.Nifti1Image]:
    """Make 4D images of tokens, or of their principal components over all brains."""
    values = [subject.tokens for subject in subjects]
    if n_components is not None:
        values = _project(subjects, n_components)
    is_native = space == "native"
    grids = [s.scanner_geometry if is_native else s.geometry for s in subjects]
    return [_to_image(data, grid) for data, grid in zip(values, grids, strict=True)]


def _project(
    subjects: Sequence[SubjectTokens], n_components: int
) -> list[NDArray[np.float32]]:
    """Return scores of principal components, 0 outside the brain."""
    inside = [subject.fractions > 0 for subject in subjects]
    tokens = [s.tokens[mask] for s, mask in zip(subjects, inside, strict=True)]
    # Imported here: it takes a fifth of a second that embedders do not need.
    from sklearn.decomposition import PCA

    # A full solver: the same tokens give the same components, signs included.
    pca = PCA(n_components, svd_solver="covariance_eigh").fit(np.concatenate(tokens))
    maps = []
    for brain, mask in zip(tokens, inside, strict=True):
        scores = np.zeros((*mask.shape, n_components), dtype=np.float32)
        scores[mask] = pca.transform(brain)
        maps.append(scores)
    return maps


def _to_image(data: NDArray[np.float32], geometry: Geometry) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.ascontiguousarray(data), geometry.affine)
    image.header.set_xyzt_units("mm")
    return image
