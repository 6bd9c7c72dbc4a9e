"""The input recipe of each public encoder."""

__all__ = ["RECIPES", "KnownRecipe", "recipe_settings"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from brainfeat.exceptions import ConfigError
from brainfeat.preprocessing.steps import (
    Align,
    CorrectBias,
    CropBox,
    CropForeground,
    CropToMultiple,
    FindBrain,
    KeepBlocks,
    MarkNonzero,
    Orient,
    PadOrCrop,
    RepeatSlices,
    Resize,
    Scale,
    ScaleSlices,
    SlicesFirst,
    Spacing,
    Step,
    Window,
    ZScore,
    write_step,
)


@dataclass(frozen=True, kw_only=True)
class KnownRecipe:
    """Settings of an `InputRecipe`; this module loads no image library."""

    name: str
    steps: tuple[Step, ...]
    shape: tuple[int, int, int] | None = None
    space: str = "scanner"
    authors: str  # what they used where this library has its own

    def resized(self, shape: tuple[int, int, int]) -> Self:
        """Resize to another shape, if the recipe ends at the shape of a resize."""
        last = Resize(shape=self.shape) if self.shape else None
        if last not in self.steps:
            return self
        steps = (replace(s, shape=shape) if s == last else s for s in self.steps)
        return replace(self, steps=tuple(steps), shape=shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the values of `InputRecipe.from_dict`."""
        return {
            "kind": "recipe",
            "name": self.name,
            "steps": [*map(write_step, self.steps)],
            "shape": None if self.shape is None else [*self.shape],
            "space": self.space,
            "brain_mask": None,
            "authors": self.authors,
        }


_BRAINIAC = KnownRecipe(
    name="brainiac",
    steps=(
        # The field of the NIHPD templates, which have the voxels of ICBM 2009a.
        Align(mode="rigid", shape=(197, 233, 189), origin=(-98.0, -134.0, -72.0)),
        FindBrain(),
        Resize(shape=(96, 96, 96)),
        # After the resize, where it takes a tenth of the time: bias is smooth.
        CorrectBias(),
        ZScore(voxels="nonzero"),
    ),
    shape=(96, 96, 96),
    authors="N4, rigid registration to an adolescent template (NIHPD), HD-BET",
)
_3DINO = KnownRecipe(
    name="3dino",
    steps=(
        Orient(codes="RAS"),
        FindBrain(remove=False),
        Window(percentiles=(0.05, 99.95), values=(-1.0, 1.0)),
        CropForeground(above=-1.0),
        Resize(shape=(112, 112, 112)),
    ),
    shape=(112, 112, 112),
    authors="no alignment or skull strip",
)
_MED3DINO = KnownRecipe(
    name="med3dino",
    steps=(*_3DINO.steps[:-1], Resize(shape=(96, 96, 96))),
    shape=(96, 96, 96),
    authors=_3DINO.authors,
)
_BM_MAE = KnownRecipe(
    name="bm-mae",
    steps=(
        # The field of SRI24 as BraTS has it, about the brain of our template.
        Align(mode="rigid", shape=(240, 240, 155), origin=(-119.5, -136.5, -72.0)),
        FindBrain(),
        Orient(codes="LPS"),
        Spacing(spacing=(1.0, 1.0, 1.0)),
        PadOrCrop(shape=(128, 128, 128)),
        ZScore(voxels="nonzero"),
    ),
    shape=(128, 128, 128),
    authors="as in BraTS: rigid registration to SRI24, skull strip of BraTS",
)
_NEUROVFM = KnownRecipe(
    name="neurovfm",
    steps=(
        Orient(codes="RPI"),
        FindBrain(remove=False),  # for its quality; the blocks below are encoded
        SlicesFirst(in_plane=1.0, thickness=4.0),
        CropToMultiple(block=(4, 16, 16)),
        KeepBlocks(block=(4, 16, 16), percentile=10.0),
        Window(percentiles=(0.5, 99.5), values=(0.0, 1.0)),
        Scale(mean=0.3141, sd=0.2623),
    ),
    authors="no alignment or skull strip",
)
_NEURO_JEPA = KnownRecipe(
    name="neuro-jepa",
    steps=(
        # The field of FSL's MNI152 at 1 mm. At this spacing, the authors' spline
        # resampling to 1 mm changes nothing.
        Align(mode="affine", shape=(182, 218, 182), origin=(-91.0, -126.0, -72.0)),
        FindBrain(),
        Orient(codes="RAS"),
        Window(percentiles=(0.5, 99.5), values=(0.0, 1.0)),
        PadOrCrop(shape=(180, 216, 180), padding="edge"),
        CropForeground(above=0.0, margin=4),
        Resize(shape=(100, 120, 100), mode="area"),
        PadOrCrop(shape=(96, 108, 96)),
    ),
    shape=(96, 108, 96),
    authors="affine registration to MNI152 1 mm, skull strip",
)
_NEURO_SIMCLR = KnownRecipe(
    name="neuro-simclr",
    steps=(
        # The field of ICBM 2009c.
        Align(mode="rigid", shape=(193, 229, 193), origin=(-96.0, -132.0, -78.0)),
        FindBrain(),
        Orient(codes="SAR"),
        CropBox(start=(10, 19, 1), stop=(160, 211, 193)),
        ZScore(voxels="foreground"),
    ),
    shape=(150, 192, 192),
    authors="TurboPrep: N4, rigid registration to MNI152 2009c, SynthSeg's brain mask",
)
_ANATCL = KnownRecipe(
    name="anatcl",
    steps=(PadOrCrop(shape=(121, 128, 121)), MarkNonzero()),
    shape=(121, 128, 121),
    space="template",
    authors="maps of grey matter by CAT12, not scans",
)
_MRI_CORE = KnownRecipe(
    name="mri-core",
    steps=(
        Orient(codes="RAS"),
        FindBrain(remove=False),
        Resize(shape=(224, 224, 48)),
        ScaleSlices(),
        RepeatSlices(times=3),
    ),
    shape=(224, 224, 144),
    authors="single slices of any plane, without alignment or skull strip",
)

RECIPES: Mapping[str, KnownRecipe] = {
    recipe.name: recipe
    for recipe in (
        *(_BRAINIAC, _3DINO, _MED3DINO, _BM_MAE, _NEUROVFM),
        *(_NEURO_JEPA, _NEURO_SIMCLR, _ANATCL, _MRI_CORE),
    )
}


def recipe_settings(
    name: str, shape: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """Return the settings of a public encoder's recipe, or raise a ConfigError.

    A recipe that resizes ends at `shape`, for weights trained on another size.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe: expected one of {[*RECIPES]}, got {name!r}.")
    recipe = RECIPES[name]
    return (recipe if shape is None else recipe.resized(shape)).to_dict()
