"""Input recipes: the preprocessing that the authors of an encoder used."""

__all__ = ["InputRecipe", "input_recipe"]

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from brainfeat.configs import PositiveInt, check_fields, from_plain, to_plain
from brainfeat.exceptions import ConfigError, VolumeError
from brainfeat.preprocessing import brain_mask as masks
from brainfeat.preprocessing.alignment import Alignment, align_to_template
from brainfeat.preprocessing.intensities import repair
from brainfeat.preprocessing.intensity_steps import INTENSITY_STEPS
from brainfeat.preprocessing.interface import (
    AlignmentMode,
    SubjectPreprocessing,
    adding_source,
    given_volumes,
)
from brainfeat.preprocessing.known_recipes import recipe_settings
from brainfeat.preprocessing.preprocessed import PreprocessedSubject
from brainfeat.preprocessing.quality import Quality, assess_quality, measure_ml
from brainfeat.preprocessing.resampling import reorient_to_ras, resample
from brainfeat.preprocessing.scan_field import ScanField
from brainfeat.preprocessing.spatial_steps import SPATIAL_STEPS
from brainfeat.preprocessing.steps import (
    Align,
    CorrectBias,
    CropForeground,
    FindBrain,
    MarkNonzero,
    Resize,
    Step,
    read_step,
    write_step,
)
from brainfeat.volume import Geometry, Volume

_APPLY = {**SPATIAL_STEPS, **INTENSITY_STEPS}

_HEAD_MM, _BRAIN_MM = 220.0, 175.0  # extent of an adult's

# Part of the fingerprint; incremented when the same settings give other voxels.
_REVISION = 4


@dataclass(frozen=True, kw_only=True)
class InputRecipe(SubjectPreprocessing):
    """The steps by which the authors of an encoder prepared its input.

    It is used as a `Preprocessor` is. The grid may depend on the subject: then it is
    known in template millimetres by registration, which moves no voxel unless `Align`
    is a step. The first contrast decides where to crop, and all others are resampled to
    its grid if theirs differs.

    Parameters
    ----------
    kind : {"recipe"}
        Distinguishes the settings of a recipe from those of a `Preprocessor`.
    name : str
        The encoder, such as ``"brainiac"``.
    steps : tuple of Step
        Applied one after the other.
    shape : tuple of int (size_i, size_j, size_k), optional
        Voxels of the result; None if they depend on the subject.
    space : {"scanner", "template"}
        Whether images lie anywhere, or in the space of the template already, as maps of
        grey matter do. Then they are not registered.
    brain_mask : str or callable, optional
        Replaces the mask that `FindBrain` finds; as for `Preprocessor`.
    authors : str
        What the authors used where this library has its own: tools of alignment, skull
        strip and bias correction. For readers; it changes no voxel.

    Raises
    ------
    ConfigError
        If a value is of the wrong type or invalid.
    """

    kind: Literal["recipe"] = "recipe"
    name: str
    steps: tuple[Step, ...]
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    space: Literal["scanner", "template"] = "scanner"
    brain_mask: masks.BrainMask | None = None
    authors: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.steps:
            raise ConfigError("InputRecipe.steps: expected at least one, got none.")

    @property
    def grid_shape(self) -> tuple[int, int, int] | None:
        """Voxels of the result; None if they depend on the subject."""
        return self.shape

    @property
    def voxel_mm(self) -> float:
        """Longest edge of a voxel in mm, as it is for an adult's head."""
        field = np.full(3, _HEAD_MM)
        edges = np.ones(3)
        for step in self.steps:
            if isinstance(step, Align):
                field, edges = np.array(step.shape) * step.spacing, edges * step.spacing
            elif isinstance(step, CropForeground) and self.aligned != "none":
                field = np.full(3, _BRAIN_MM)
            elif isinstance(step, Resize):
                edges = field / np.array(step.shape)
        return float(edges.max())

    @property
    def geometry(self) -> None:
        """None: the grid depends on the subject."""
        return

    @property
    def aligned(self) -> AlignmentMode:
        """How much of the transform to the template is applied to the voxels."""
        modes = (step.mode for step in self.steps if isinstance(step, Align))
        return next(modes, "none")

    @property
    def knows_template(self) -> bool:
        """Whether the grid of a subject is known in template millimetres: always."""
        return True

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings that change voxels, and of the revision."""
        settings = {"revision": _REVISION, **self.to_dict()}
        del settings["authors"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def prepared(self) -> Self:
        """The recipe for images that were aligned and stripped by the authors' tools.

        The voxels that are not zero are the foreground.
        """
        done = (Align, CorrectBias)
        steps: list[Step] = [s for s in self.steps if not isinstance(s, done)]
        strips = [isinstance(s, FindBrain) and s.remove for s in steps]
        steps = [
            MarkNonzero() if strip else step
            for step, strip in zip(steps, strips, strict=True)
        ]
        return replace(self, steps=tuple(steps), brain_mask=None)

    def apply(
        self, volumes: Mapping[str, Volume | None], modalities: Sequence[str]
    ) -> PreprocessedSubject:
        """Apply the steps to the volumes of a subject.

        Parameters
        ----------
        volumes : mapping of str to Volume or None
            Volume of each modality; missing ones are None or absent.
        modalities : sequence of str
            Modalities in the order of the result.

        Returns
        -------
        PreprocessedSubject
            The subject on its grid; 0 where a modality is missing.

        Raises
        ------
        ModalityError
            If there is no volume, or one of an unexpected modality.
        VolumeError
            If a volume has no contrast, or does not suit a step.
        """
        given = [*given_volumes(volumes, modalities).items()]
        name, first = given[0]
        with adding_source(first, name):
            reference = repair(reorient_to_ras(first))
            alignment = self._locate(reference)
        for name, volume in given[1:]:
            with adding_source(volume, name):
                repair(volume)  # raises if it is damaged
        field = _start([volume for _, volume in given], alignment)
        with adding_source(first, given[0][0]):
            field, brain_ml = self._run_steps(field, reference)
            names = [name for name, _ in given]
            return self._finish(field, brain_ml, names, modalities)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values.

        Returns
        -------
        dict
            Values for `from_dict`.

        Raises
        ------
        ConfigError
            If `brain_mask` is a function that cannot be imported elsewhere.
        """
        return {
            "kind": self.kind,
            "name": self.name,
            "steps": [*map(write_step, self.steps)],
            "shape": to_plain(self.shape),
            "space": self.space,
            "brain_mask": masks.mask_reference(self.brain_mask),
            "authors": self.authors,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a recipe from JSON values.

        Parameters
        ----------
        values : mapping
            As `to_dict` returns them.

        Returns
        -------
        InputRecipe
            The recipe.

        Raises
        ------
        ConfigError
            If a key or a step is unknown, or a value is invalid.
        """
        steps = values.get("steps", ())
        if isinstance(steps, list | tuple):
            values = {**values, "steps": tuple(map(read_step, steps))}
        recipe: Self = from_plain(cls, values)
        return recipe

    def _locate(self, reference: Volume) -> Alignment:
        if self.space == "template":
            return Alignment(np.eye(4), np.eye(4), math.nan)
        return align_to_template(reference)

    def _run_steps(
        self, field: ScanField, reference: Volume
    ) -> tuple[ScanField, float]:
        """Apply the steps; also return the millilitres of the brain, where found."""
        brain_ml = math.nan
        for step in self.steps:
            if isinstance(step, FindBrain):
                found = self._find_brain(field, reference)
                field = replace(field, foreground=found)
                brain_ml = measure_ml(found, field.geometry, field.to_scanner)
            field = _APPLY[type(step)](field, step)
        return field, brain_ml

    def _find_brain(self, field: ScanField, reference: Volume) -> NDArray[np.bool_]:
        placement = masks.Placement(field.geometry, field.to_scanner)
        if self.brain_mask is not None:
            mask = reorient_to_ras(
                masks.compute_mask(field.sources[0], self.brain_mask)
            )
            fraction = Volume(mask.data.astype(np.float32), mask.geometry)
            found = np.asarray(resample(fraction, *placement) >= 0.5)
        else:
            sampled = reference.data
            if not field.lies_on(reference.geometry):
                sampled = resample(reference, *placement, outside=np.nan)
            found = masks.find_foreground(
                reference, sampled, field.alignment, placement
            )
        if not found.any():
            raise VolumeError("expected a brain mask that overlaps the brain.")
        return found

    def _finish(
        self,
        field: ScanField,
        brain_ml: float,
        given: Sequence[str],
        modalities: Sequence[str],
    ) -> PreprocessedSubject:
        shape = field.geometry.shape
        if self.shape not in {None, shape}:
            raise ConfigError(
                f"recipe {self.name!r}: expected steps to {self.shape} voxels, got "
                f"{shape}."
            )
        foreground = field.foreground
        if foreground is None:
            foreground = np.ones(shape, np.bool_)
        if not foreground.any():
            raise VolumeError(f"recipe {self.name!r}: no foreground is left.")
        data = np.zeros((len(modalities), *shape), np.float32)
        for name, values in zip(given, field.contrasts, strict=True):
            data[modalities.index(name)] = values
        present = np.array([name in given for name in modalities])
        geometry, to_scanner = self._to_template(field)
        quality = self._assess(field, brain_ml, next(iter(given)))
        return PreprocessedSubject(
            data, present, foreground, geometry, to_scanner, quality
        )

    def _assess(self, field: ScanField, brain_ml: float, modality: str) -> Quality:
        if self.space == "template" or math.isnan(brain_ml):
            return Quality(field.alignment.similarity, brain_ml, "")
        first = field.sources[0]
        return assess_quality(
            field.alignment,
            brain_ml,
            volume=reorient_to_ras(first),
            modality=modality,
            header=first.geometry.orientation,
            is_placed=self.aligned != "none",
        )

    def _to_template(self, field: ScanField) -> tuple[Geometry, NDArray[np.float64]]:
        """Return the grid in template mm, and the map from there to the scanner."""
        if self.aligned != "none":
            return field.geometry, field.to_scanner
        to_scanner = field.alignment.affine
        affine = np.linalg.inv(to_scanner) @ field.geometry.affine
        affine[3] = (0.0, 0.0, 0.0, 1.0)
        return Geometry(field.geometry.shape, affine), to_scanner


def input_recipe(name: str) -> InputRecipe:
    """Return the recipe of a public encoder.

    Parameters
    ----------
    name : str
        Such as ``"brainiac"``; `RECIPES` has all names.

    Returns
    -------
    InputRecipe
        The recipe, as its authors prepared scans.

    Raises
    ------
    ConfigError
        If there is no such recipe.
    """
    return InputRecipe.from_dict(recipe_settings(name))


def _start(volumes: Sequence[Volume], alignment: Alignment) -> ScanField:
    """Put all contrasts on the grid of the first, in its own order of axes."""
    sources = tuple(_finite(volume) for volume in volumes)
    grid = sources[0].geometry
    contrasts = tuple(
        volume.data
        if volume.geometry.is_close(grid)
        else resample(reorient_to_ras(volume), grid, np.eye(4))
        for volume in sources
    )
    return ScanField(contrasts, grid, np.eye(4), alignment, sources)


def _finite(volume: Volume) -> Volume:
    """Return float32 voxels, with 0 in place of NaN and infinity."""
    with np.errstate(over="ignore"):
        data = volume.data.astype(np.float32, copy=False)
    if not np.isfinite([data.min(), data.max()]).all():
        data = np.where(np.isfinite(data), data, np.float32(0))
    return Volume(data, volume.geometry, volume.path)
