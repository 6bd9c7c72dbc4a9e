"""Steps of an input recipe: settings only; `spatial_steps` and others apply them."""

__all__ = [
    "STEPS",
    "Align",
    "CorrectBias",
    "CropBox",
    "CropForeground",
    "CropToMultiple",
    "FindBrain",
    "KeepBlocks",
    "MarkNonzero",
    "Orient",
    "PadOrCrop",
    "RepeatSlices",
    "Resize",
    "Scale",
    "ScaleSlices",
    "SlicesFirst",
    "Spacing",
    "Step",
    "Window",
    "ZScore",
    "read_step",
    "write_step",
]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from brainfeat.configs import (
    JsonConfig,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Relation,
    Rule,
    check_fields,
    from_plain,
    to_plain,
)
from brainfeat.exceptions import ConfigError

Shape = tuple[PositiveInt, PositiveInt, PositiveInt]
Index = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
Lengths = tuple[PositiveFloat, PositiveFloat, PositiveFloat]

Orientation = Annotated[
    str,
    Rule(
        "three directions of three axes, such as RAS",
        lambda codes: (
            {*map("LRPAIS".find, codes)} <= {*range(6)}
            and sorted("LRPAIS".find(code) // 2 for code in codes) == [0, 1, 2]
        ),
    ),
]


@dataclass(frozen=True, kw_only=True)
class Orient(JsonConfig):
    """Permute and flip the axes."""

    codes: Orientation = "RAS"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Align(JsonConfig):
    """Resample to a grid in the template's space, in RAS order.

    `origin` are the template millimetres of the first voxel.
    """

    mode: Literal["rigid", "affine"] = "rigid"
    shape: Shape
    origin: tuple[float, float, float]
    spacing: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Spacing(JsonConfig):
    """Interpolate linearly at another spacing, from the first voxel on.

    As MONAI's ``Spacing``: beyond the last voxel, its value is repeated.
    """

    spacing: Lengths

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Resize(JsonConfig):
    """Resize the whole field to a number of voxels, whatever their spacing.

    As PyTorch's ``interpolate``: ``"linear"`` is trilinear without aligned corners and
    without smoothing, ``"area"`` averages the voxels that each new one touches.
    """

    shape: Shape
    mode: Literal["linear", "area"] = "linear"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class SlicesFirst(JsonConfig):
    """Resample thick slices by cubic splines, with the axis of the slices first.

    The slices lie along the axis whose number of voxels no other axis has, the smallest
    if there are several; along the first axis if all spacings are equal.
    """

    in_plane: PositiveFloat = 1.0
    thickness: PositiveFloat = 4.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CropForeground(JsonConfig):
    """Crop to the box of the voxels of the first contrast above a value."""

    above: float = 0.0
    margin: NonNegativeInt = 0  # voxels, within the field

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CropBox(JsonConfig):
    """Keep the voxels from `start` to before `stop`."""

    start: Index
    stop: Shape

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class PadOrCrop(JsonConfig):
    """Crop or pad at both sides of each axis to a shape, as MONAI does."""

    shape: Shape
    padding: Literal["constant", "edge"] = "constant"  # zeros, or the voxel at the edge

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CropToMultiple(JsonConfig):
    """Crop at both sides of each axis to whole blocks."""

    block: Shape

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class RepeatSlices(JsonConfig):
    """Repeat each slice along the last axis, for encoders of colour images."""

    times: PositiveInt = 3

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class FindBrain(JsonConfig):
    """Find the brain, and set the other voxels to zero or leave them.

    The recipe computes the mask, since it holds the user's.
    """

    remove: bool = True  # all but the brain

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class MarkNonzero(JsonConfig):
    """Take the voxels that are not zero in a contrast as foreground."""


@dataclass(frozen=True, kw_only=True)
class KeepBlocks(JsonConfig):
    """Take the blocks as foreground whose voxels are all above a percentile."""

    block: tuple[PositiveInt, PositiveInt, PositiveInt]
    percentile: PositiveFloat = 10.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class CorrectBias(JsonConfig):
    """Correct the bias field by N4, within the foreground."""


@dataclass(frozen=True, kw_only=True)
class Window(JsonConfig):
    """Map two percentiles of a volume to two values, and clip there."""

    percentiles: tuple[float, float]
    values: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self, _window_relations)


@dataclass(frozen=True, kw_only=True)
class ZScore(JsonConfig):
    """Subtract the mean of some voxels and divide by their standard deviation.

    The others stay as they are, or are set to zero if the foreground is taken.
    """

    voxels: Literal["nonzero", "foreground"] = "nonzero"

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Scale(JsonConfig):
    """Subtract and divide by constants of the authors."""

    mean: float
    sd: PositiveFloat

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ScaleSlices(JsonConfig):
    """Map the lowest and highest value of each slice of the last axis to 0 and 1."""


Step: TypeAlias = (
    Align
    | CorrectBias
    | CropBox
    | CropForeground
    | CropToMultiple
    | FindBrain
    | KeepBlocks
    | MarkNonzero
    | Orient
    | PadOrCrop
    | RepeatSlices
    | Resize
    | Scale
    | ScaleSlices
    | SlicesFirst
    | Spacing
    | Window
    | ZScore
)
STEPS: Mapping[str, type[Step]] = {
    kind.__name__: kind
    for kind in (
        *(Orient, Align, Spacing, Resize, SlicesFirst, RepeatSlices),
        *(CropForeground, CropBox, PadOrCrop, CropToMultiple),
        *(FindBrain, MarkNonzero, KeepBlocks),
        *(CorrectBias, Window, ZScore, Scale, ScaleSlices),
    )
}


def write_step(step: Step) -> dict[str, Any]:
    """Return the settings of a step as plain JSON values, with its name."""
    return {"step": type(step).__name__, **to_plain(step)}


def read_step(values: Any) -> Any:
    """Build a step from what `write_step` returned; other values stay as they are."""
    if not isinstance(values, Mapping):
        return values
    name = str(values.get("step"))
    if name not in STEPS:
        raise ConfigError(
            f"InputRecipe.steps: expected a step of {[*STEPS]}, got {name!r}."
        )
    settings = {key: value for key, value in values.items() if key != "step"}
    return from_plain(STEPS[name], settings)


def _window_relations(step: Window) -> Iterator[Relation]:
    lower, upper = step.percentiles
    yield 0 <= lower < upper <= 100, "percentiles", "lower < upper in [0, 100]"
    smallest, largest = step.values
    yield smallest < largest, "values", "two values, the smaller first"
