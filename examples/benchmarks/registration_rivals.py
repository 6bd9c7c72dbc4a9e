"""Deformable registrations of others, of two volumes that lie on one grid.

Each gives the displacement (I, J, K, 3) in RAS+ mm that takes a point of the fixed
volume to the same point of the moving one, on one thread.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from brainfeat import Volume
from brainfeat.exceptions import import_optional
from brainfeat.preprocessing.resampling import to_sitk

Floats = NDArray[np.float32]

_ANTS = 'ANTs needs antspyx: pip install "antspyx>=0.6"'
_N_BINS = 32
_SAMPLED = 0.2  # of the voxels of the mask


def has_ants() -> bool:
    """Whether ANTs is installed."""
    try:
        _import_ants()
    except ImportError:
        return False
    return True


def register_splines(fixed: Volume, moving: Volume, mask: NDArray[Any]) -> Floats:
    """B-splines of 10 mm with mutual information, in three resolutions."""
    method = _method(fixed, mask)
    size = [int(s * mm / 40.0) for s, mm in _sizes(fixed)]
    start = sitk.BSplineTransformInitializer(to_sitk(fixed), size, 3)
    method.SetInitialTransformAsBSpline(start, inPlace=True, scaleFactors=[1, 2, 4])
    method.SetOptimizerAsLBFGS2(numberOfIterations=40)
    transform = method.Execute(to_sitk(fixed), to_sitk(moving))
    return _to_field(transform, fixed)


def register_demons(fixed: Volume, moving: Volume, mask: NDArray[Any]) -> Floats:
    """A smoothed displacement of each voxel with mutual information, as demons."""
    image = to_sitk(fixed)
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(image)
    start = sitk.DisplacementFieldTransform(to_field.Execute(sitk.Transform()))
    start.SetSmoothingGaussianOnUpdate(1.75, 0.5)
    method = _method(fixed, mask)
    method.SetInitialTransform(start, inPlace=True)
    method.SetOptimizerAsGradientDescent(
        learningRate=1.0,
        numberOfIterations=60,
        estimateLearningRate=method.EachIteration,
    )
    return _to_field(method.Execute(image, to_sitk(moving)), fixed)


def register_syn(
    fixed: Volume, moving: Volume, mask: NDArray[Any], *, metric: str
) -> Floats:
    """ANTs' SyN, with cross-correlation (``"CC"``) or mutual information."""
    ants: Any = _import_ants()
    images = [_to_ants(ants, volume) for volume in (fixed, moving)]
    flags = Volume(mask.astype(np.float32), fixed.geometry)
    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            *images,
            type_of_transform="SyNOnly",
            initial_transform="Identity",
            mask=_to_ants(ants, flags),
            syn_metric=metric,
            syn_sampling=2 if metric == "CC" else _N_BINS,
            reg_iterations=(100, 70, 40),
            outprefix=str(Path(folder, "syn")),
            random_seed=1,
        )
        name = next(p for p in result["fwdtransforms"] if p.endswith(".nii.gz"))
        lps = np.asarray(ants.image_read(name).numpy(), np.float32)
    return np.asarray(lps * np.float32([-1.0, -1.0, 1.0]))


def _import_ants() -> Any:
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    return import_optional("ants", _ANTS)


def _to_ants(ants: Any, volume: Volume) -> Any:
    # Its axes grow to the left and back, as ITK's.
    flip = np.diag([-1.0, -1.0, 1.0])
    affine, spacing = volume.geometry.affine, volume.geometry.spacing
    return ants.from_numpy(
        np.ascontiguousarray(volume.data, np.float32),
        origin=[float(mm) for mm in flip @ affine[:3, 3]],
        spacing=[*spacing],
        direction=flip @ affine[:3, :3] / np.array(spacing),
    )


def _sizes(volume: Volume) -> Any:
    return zip(volume.geometry.shape, volume.geometry.spacing, strict=True)


def _method(fixed: Volume, mask: NDArray[Any]) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(1)
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_N_BINS)
    method.SetMetricFixedMask(to_sitk(Volume(mask.astype(bool), fixed.geometry)))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLED, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2.0, 1.0, 0.0])
    return method


def _to_field(transform: Any, fixed: Volume) -> Floats:
    to_field = sitk.TransformToDisplacementFieldFilter()
    to_field.SetReferenceImage(to_sitk(fixed))
    field = sitk.GetArrayFromImage(to_field.Execute(transform))
    return np.asarray(field.transpose(2, 1, 0, 3), np.float32)
