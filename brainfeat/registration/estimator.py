"""Registration of scans to a fixed one, in scikit-learn's terms."""

__all__ = ["TEMPLATE", "RegistrationEstimator", "first_image"]

import math
import os
from typing import Any, Literal, Self

import torch
from nibabel import Nifti1Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from brainfeat.checkpoint.checkpoint import Checkpoint
from brainfeat.checkpoint.sharing import check_fingerprint, shared_checkpoint
from brainfeat.configs import is_integer
from brainfeat.exceptions import ConfigError, InputError
from brainfeat.io.volumes import read_volume, to_image
from brainfeat.models.device import resolve_device
from brainfeat.preprocessing.quality import Quality
from brainfeat.preprocessing.template import load_template
from brainfeat.progress import track
from brainfeat.registration.deformable import DeformableConfig
from brainfeat.registration.optimisation import FieldConfig
from brainfeat.registration.pair import RegisteredPair, register_pair
from brainfeat.registration.scan import AlignedScan, align_scan
from brainfeat.registration.transform import SpatialTransform
from brainfeat.subjects.doubts import Doubts
from brainfeat.subjects.failures import adding_context
from brainfeat.subjects.subject import Subject
from brainfeat.subjects.table import read_subjects, tag_images

TEMPLATE = "template"
"""What stands for the MNI152 brain."""


class RegistrationEstimator(TransformerMixin, BaseEstimator):
    """Register brain scans of any contrast to a fixed one.

    Both scans are aligned to the template, which gives the affine between them. Then a
    smooth, invertible field makes their features agree: the local structure around each
    voxel, which is alike in all contrasts, and components of the encoder's tokens.

    Parameters
    ----------
    checkpoint : str or path-like
        Name of a bundled checkpoint, a checkpoint folder, or
        ``"hf-hub:org/name@revision"``.
    deformation : {"deformable", "affine"}
        Whether scans are deformed, or only moved, turned, scaled and sheared.
    spacing : float
        Edge in mm of the voxels on which scans are compared.
    n_steps : int
        Steps of the optimisation of the field.
    smoothness : float
        Weight of the smoothness of the field.
    token_weight : float
        Weight of the encoder's tokens in the search; 0 leaves them out.
    modality : str, optional
        Modality of images that come without one; as for `BrainFoundEmbedder`.
    device : "auto", str or torch.device
        Where scans are encoded and deformed; ``"auto"`` is CUDA if it is available.
    verbose : int
        Above 0, progress is shown: a bar on a terminal or in a notebook, else lines.

    Attributes
    ----------
    checkpoint_fingerprint_ : str
        SHA-256 of the encoder's weights and configuration.

    Examples
    --------
    Bring a scan and its label map to the grid of another person::

        model = RegistrationEstimator().fit("sub-01_T1w.nii.gz")
        transform = model.register("sub-02_T2w.nii.gz")
        transform.apply_labels("sub-02_dseg.nii.gz").to_filename("labels.nii.gz")
    """

    def __init__(  # noqa: PLR0913  an estimator's options are one flat list
        self,
        checkpoint: str | os.PathLike[str] = "brainfound-tiny",
        *,
        deformation: Literal["deformable", "affine"] = "deformable",
        spacing: float = 2.0,
        n_steps: int = 50,
        smoothness: float = 3.0,
        token_weight: float = 1.0,
        modality: str | None = None,
        device: Any = "auto",
        verbose: int = 0,
    ) -> None:
        self.checkpoint = checkpoint
        self.deformation = deformation
        self.spacing = spacing
        self.n_steps = n_steps
        self.smoothness = smoothness
        self.token_weight = token_weight
        self.modality = modality
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: object = None) -> Self:
        """Align the fixed scan to the template, and encode it.

        Parameters
        ----------
        X : path-like, image, dict or list of one of them
            The fixed scan, whose first modality is taken; ``"template"`` is the MNI152
            brain at 1 mm.
        y : object
            Ignored.

        Returns
        -------
        self
            Ready to register others.

        Raises
        ------
        CheckpointError, ConfigError
            If there is no such checkpoint, or a parameter has an impossible value.
        InputError
            If there is not one fixed scan.
        ModalityError
            If its modality is unknown to the checkpoint.
        VolumeError
            If it is no usable image of a brain.
        """
        device = resolve_device(self.device)
        self._config()
        checkpoint = shared_checkpoint(self.checkpoint)
        if isinstance(X, str) and X == TEMPLATE:
            template = to_image(load_template("T1w"))
            subject = Subject("MNI152", {"T1w": template})
        else:
            rows = self._subjects([X] if _is_one(X) else X, checkpoint)
            if len(rows) != 1:
                raise InputError(f"X: expected one fixed scan, got {len(rows)}.")
            (subject,) = rows
        self._fixed = self._align(subject, checkpoint, device)
        _report([(subject, self._fixed.quality.doubt)])
        self.checkpoint_fingerprint_ = checkpoint.fingerprint
        return self

    def transform(self, X: Any) -> list[Nifti1Image]:
        """Resample scans to the fixed grid, each by its own registration.

        Parameters
        ----------
        X : list, Series, DataFrame, path-like or image
            As for `BrainFoundEmbedder`; the first modality of each is taken.

        Returns
        -------
        list of Nifti1Image
            On the fixed grid, float32; 0 outside the scan.

        Raises
        ------
        InputError, ModalityError
            If ``X`` has another form, or a modality is unknown to the checkpoint.
        VolumeError
            If a file is no usable image of a brain.
        """
        checkpoint, device = self._load()
        rows = self._subjects([X] if _is_one(X) else X, checkpoint)
        shown = track(
            rows, total=len(rows), description="registering", show=self.verbose > 0
        )
        images, doubts = [], []
        for subject in shown:
            pair = self._register(subject, checkpoint, device)
            doubts.append((subject, pair.quality.doubt))
            images.append(pair.transform.apply(first_image(subject)))
        _report(doubts)
        return images

    def register(self, X: Any) -> SpatialTransform:
        """Register one scan to the fixed one.

        Parameters
        ----------
        X : path-like, image or dict
            The moving scan, whose first modality is taken.

        Returns
        -------
        SpatialTransform
            What brings images and label maps of the scan to the fixed grid.

        Raises
        ------
        InputError, ModalityError
            If there is not one scan, or its modality is unknown to the checkpoint.
        VolumeError
            If it is no usable image of a brain.
        """
        pair = self.register_pair(X)
        name = Subject(str(X) if isinstance(X, str | os.PathLike) else "scan", {})
        _report([(name, pair.quality.doubt)])
        return pair.transform

    def register_pair(self, X: Any) -> RegisteredPair:
        """Register one scan as `register`, and assess the result.

        Parameters
        ----------
        X : path-like, image, dict or Subject
            The moving scan, whose first modality is taken.

        Returns
        -------
        RegisteredPair
            The transform, and its quality.

        Raises
        ------
        InputError
            If there is not one scan.
        ModalityError, VolumeError
            As for `register`.
        """
        checkpoint, device = self._load()
        rows = self._subjects([X] if _is_one(X) else X, checkpoint)
        if len(rows) != 1:
            raise InputError(f"X: expected one moving scan, got {len(rows)}.")
        return self._register(rows[0], checkpoint, device)

    def __sklearn_tags__(self) -> Tags:
        return tag_images(super().__sklearn_tags__())

    def _register(
        self, subject: Subject, checkpoint: Checkpoint, device: torch.device
    ) -> RegisteredPair:
        moving = self._align(subject, checkpoint, device)
        with adding_context(subject):
            return register_pair(
                self._fixed,
                moving,
                self._config(),
                token_weight=float(self.token_weight),
                device=device,
            )

    def _align(
        self, subject: Subject, checkpoint: Checkpoint, device: torch.device
    ) -> AlignedScan:
        needs_tokens = self.deformation == "deformable" and self.token_weight > 0
        with adding_context(subject):
            return align_scan(
                read_volume(first_image(subject)),
                _first_modality(subject),
                checkpoint,
                device,
                spacing=float(self.spacing),
                with_tokens=needs_tokens,
            )

    def _load(self) -> tuple[Checkpoint, torch.device]:
        check_is_fitted(self)
        checkpoint = shared_checkpoint(self.checkpoint)
        fitted = self.checkpoint_fingerprint_
        check_fingerprint(self.checkpoint, fitted, checkpoint.fingerprint)
        return checkpoint, resolve_device(self.device)

    def _subjects(self, X: Any, checkpoint: Checkpoint) -> tuple[Subject, ...]:
        return read_subjects(X, checkpoint, self.modality).rows

    def _config(self) -> DeformableConfig | None:
        if self.deformation not in {"deformable", "affine"}:
            raise ConfigError(
                "deformation: expected 'deformable' or 'affine', "
                f"got {self.deformation!r}."
            )
        if not is_integer(self.n_steps, at_least=0):
            raise ConfigError(f"n_steps: expected 0 or more, got {self.n_steps!r}.")
        if not isinstance(self.spacing, int | float) or not 0.5 <= self.spacing <= 8:
            raise ConfigError(f"spacing: expected 0.5 to 8 mm, got {self.spacing!r}.")
        for name in ("smoothness", "token_weight"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ConfigError(f"{name}: expected 0 or more, got {value!r}.")
        if self.deformation == "affine":
            return None
        field = FieldConfig(n_steps=self.n_steps, smoothness=float(self.smoothness))
        return DeformableConfig(field=field)


def _is_one(X: Any) -> bool:
    """Whether X is a scan, not a collection of them."""
    return isinstance(X, str | os.PathLike | dict | Subject) or hasattr(X, "dataobj")


def _report(doubts: list[tuple[Subject, str]]) -> None:
    """Log one warning if the brain of a scan may not have been found."""
    reported = Doubts()
    for subject, doubt in doubts:
        reported.note(subject, Quality(math.nan, math.nan, doubt))
    reported.report()


def _first_modality(subject: Subject) -> str:
    return next(name for name, image in subject.images.items() if image is not None)


def first_image(subject: Subject) -> Any:
    """Return the image of a subject that is registered."""
    return subject.images[_first_modality(subject)]
