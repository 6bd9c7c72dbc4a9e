"""Hyperparameters of pretraining: presets, and JSON files over a preset."""

__all__ = ["Precision", "PresetName", "PretrainingConfig", "read_config"]

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from brainfeat.configs import (
    Fraction,
    JsonConfig,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Relation,
    Rule,
    check_fields,
)
from brainfeat.exceptions import ConfigError
from brainfeat.io.json_files import read_json
from brainfeat.io.paths import expand_home
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.presets import PRESETS, SIZES, EncoderSize, PresetName
from brainfeat.pretraining.views import ViewConfig

AgreementTeacher = Literal["frozen", "moving_average"]
AgreementReadout = Literal["none", "linear"]
Centring = Literal["sinkhorn", "moving_average"]
Parallel = Literal["ddp", "fully_shard"]
Precision = Literal["auto", "bfloat16", "float16", "float32"]
OptimizerName = Literal["adamw", "muon"]
# Weights of the distances of tokens, of mean tokens and of the class token.
Parts = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]
_NumPrototypes = Annotated[int, Rule(">= 2", lambda value: value >= 2)]
_OF_PAIRS = ("agreement", "consistency")  # objectives


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(JsonConfig):
    """Hyperparameters of one run; saved as JSON beside its checkpoints.

    An objective whose weight is 0 costs nothing: DINO-only, iBOT-only,
    InfoNCE-only and anatomy-only runs are configurations.

    Parameters
    ----------
    encoder : EncoderConfig
        Sizes of the encoder.
    views : ViewConfig
        Views of student and teacher.
    dino_weight, ibot_weight, koleo_weight, infonce_weight, anatomy_weight : float
        Weight of each objective in the loss. KoLeo is averaged over the global views,
        while DINOv2 sums it over its two. InfoNCE compares the first two global views.
    agreement_weight : float
        Weight of the distance of the tokens of each acquisition from those that the
        teacher gives for the clean acquisition of the same brain. Needs several
        acquisitions of a subject, such as `n_degraded` makes.
    consistency_weight : float
        Weight of the distance between two acquisitions of a brain.
    anatomy_whole_weight : float
        Weight, within the anatomy objective, of the error of the sum of each target
        over a view, over its spread between subjects.
    agreement_teacher : {"frozen", "moving_average"}
        Whether the teacher of the agreement keeps the initial weights or follows the
        student.
    agreement_readout : {"none", "linear"}
        Whether tokens are compared with the teacher's as they are, or after a linear
        map that is learnt, so that what the teacher tells only has to stay readable.
    agreement_parts, consistency_parts : tuple of float
        Weights of the distance of tokens, over the spread of tokens, of the mean token,
        over its spread between subjects, and of the class token from the mean token.
    n_degraded : int
        Degraded copies of each scan that are preprocessed too: thick slices, large
        voxels, noise, fields, parts of the head, without skull.
    n_prototypes : int
        Prototypes K of the DINO head and of the iBOT head.
    head_hidden_dim, head_bottleneck_dim : int
        Widths of the hidden layers and the bottleneck of the heads.
    centring : {"sinkhorn", "moving_average"}
        How collapse of the teacher's assignments is prevented.
    student_temperature : float
        Temperature of the student's assignments.
    teacher_temperature : tuple of float
        Temperature of the teacher's assignments at the start and after warm-up.
    infonce_temperature : float
        Temperature of the similarities of InfoNCE.
    teacher_momentum : tuple of float
        Fraction of the teacher that a step keeps, start and end of a cosine.
    batch_size : int
        Subjects of one step, over all processes and accumulated parts.
    accumulation_steps : int
        Parts that a step is split into, to save memory. Objectives that compare
        subjects compare those of a part.
    n_steps : int
        Steps of the run.
    optimizer : {"adamw", "muon"}
        AdamW for all parameters, or Muon [1]_ for the matrices of the blocks and AdamW
        for the rest.
    base_learning_rate : float
        Peak learning rate for 1024 subjects a step. That of a run is this times the
        square root of its batch size over 1024, as in DINOv2.
    learning_rate : float or None
        Peak learning rate of the run, in place of the scaled one.
    final_learning_rate : float
        Learning rate of the last step.
    weight_decay : tuple of float
        Weight decay, start and end of a cosine. Biases, norms, layer scales and, unlike
        in DINOv2, embeddings and tokens have none.
    layer_decay : float
        Ratio of the learning rates of a block and the one above it.
    patch_embed_lr : float
        Factor of the learning rate of the patch embedding.
    warmup_fraction : float
        Fraction of the run in which the learning rate rises.
    temperature_warmup_fraction : float
        Fraction of the run in which the teacher's temperature rises.
    freeze_last_layer_fraction : float
        Fraction of the run in which the prototypes are frozen.
    clip_grad : float
        Largest norm of the gradient of all parameters together; DINOv2 clips encoder
        and heads separately.
    precision : {"auto", "bfloat16", "float16", "float32"}
        Precision of the matrix products. "auto" is bfloat16 where the device multiplies
        it, float16 with scaled losses on older GPUs, and float32 elsewhere.
    activation_checkpointing : bool
        Whether blocks recompute their activations, to save memory.
    parallel : {"ddp", "fully_shard"}
        Whether the ranks of torchrun replicate the weights or shard them.
    seed : int
        Seed of everything random.
    log_every, checkpoint_every, probe_every : int
        Steps between log lines, checkpoints and probes.

    Raises
    ------
    ConfigError
        If a value is impossible or of the wrong type, or no objective has a weight.

    References
    ----------
    .. [1] Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
       2024; its learning rate is matched to AdamW's as in Liu et al., "Muon is
       scalable for LLM training", arXiv 2502.16982.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    dino_weight: NonNegativeFloat = 1.0
    ibot_weight: NonNegativeFloat = 1.0
    koleo_weight: NonNegativeFloat = 0.1
    infonce_weight: NonNegativeFloat = 0.0
    anatomy_weight: NonNegativeFloat = 0.0
    agreement_weight: NonNegativeFloat = 0.0
    consistency_weight: NonNegativeFloat = 0.0
    anatomy_whole_weight: NonNegativeFloat = 0.0
    agreement_teacher: AgreementTeacher = "frozen"
    agreement_readout: AgreementReadout = "none"
    agreement_parts: Parts = (1.0, 0.1, 0.1)
    consistency_parts: Parts = (0.0, 1.0, 0.1)
    n_degraded: NonNegativeInt = 0
    n_prototypes: _NumPrototypes = 4096
    head_hidden_dim: PositiveInt = 1024
    head_bottleneck_dim: PositiveInt = 256
    centring: Centring = "sinkhorn"
    student_temperature: PositiveFloat = 0.1
    teacher_temperature: tuple[PositiveFloat, PositiveFloat] = (0.04, 0.07)
    infonce_temperature: PositiveFloat = 0.1
    teacher_momentum: tuple[Fraction, Fraction] = (0.992, 1.0)
    batch_size: PositiveInt = 8
    accumulation_steps: PositiveInt = 1
    n_steps: PositiveInt = 10_000
    optimizer: OptimizerName = "adamw"
    base_learning_rate: NonNegativeFloat = 4e-3
    learning_rate: NonNegativeFloat | None = None
    final_learning_rate: NonNegativeFloat = 1e-6
    weight_decay: tuple[NonNegativeFloat, NonNegativeFloat] = (0.04, 0.4)
    layer_decay: PositiveFloat = 0.9
    patch_embed_lr: NonNegativeFloat = 0.2
    warmup_fraction: Fraction = 0.1
    temperature_warmup_fraction: Fraction = 0.3
    freeze_last_layer_fraction: Fraction = 0.01
    clip_grad: PositiveFloat = 3.0
    precision: Precision = "auto"
    activation_checkpointing: bool = False
    parallel: Parallel = "ddp"
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 200
    probe_every: PositiveInt = 1000

    def __post_init__(self) -> None:
        check_fields(self, _relations, allow_lists=True)

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate after the warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.base_learning_rate * math.sqrt(self.batch_size / 1024)

    @property
    def uses_teacher(self) -> bool:
        """Whether an objective needs the teacher's tokens."""
        return self.dino_weight > 0 or self.ibot_weight > 0

    @property
    def uses_pairs(self) -> bool:
        """Whether an objective compares acquisitions of one brain."""
        return self.agreement_weight > 0 or self.consistency_weight > 0

    @property
    def has_frozen_teacher(self) -> bool:
        """Whether an objective compares with the initial weights."""
        return self.agreement_weight > 0 and self.agreement_teacher == "frozen"

    @property
    def uses_local_views(self) -> bool:
        """Whether an objective needs the local views."""
        return self.dino_weight > 0 and self.views.n_local > 0

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> Self:
        """Return values that suit a batch size, with some fields changed.

        Parameters
        ----------
        name : {"small_batch", "large_batch", "large_batch_short", "agreement"}
            One machine with few subjects a step; many, after DINOv2's long or short
            recipe; or trained weights that learn to ignore the protocol of a scan.
        **changes : object
            Fields that replace the preset's.

        Returns
        -------
        PretrainingConfig
            The configuration.

        Raises
        ------
        ConfigError
            If the preset or a field does not exist, or a value is impossible.
        """
        if name not in PRESETS:
            raise ConfigError(f"preset: expected one of {[*PRESETS]}, got {name!r}.")
        unknown = sorted(set(changes) - {item.name for item in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"PretrainingConfig: unknown keys {unknown}.")
        return dataclasses.replace(cls.from_dict(PRESETS[name]), **changes)


def _relations(config: PretrainingConfig) -> Iterator[Relation]:
    parts = config.accumulation_steps
    weights = ("dino", "ibot", "koleo", "infonce", "anatomy", *_OF_PAIRS)
    has_weight = any(getattr(config, f"{name}_weight") for name in weights)
    yield has_weight, "dino_weight", "a weight above 0 for at least one objective"
    divides = config.batch_size % parts == 0
    yield divides, "batch_size", f"a multiple of accumulation_steps {parts}"
    has_pairs = config.infonce_weight == 0 or config.batch_size > parts
    yield has_pairs, "batch_size", "two subjects in each accumulated part for InfoNCE"
    has_spread = not config.uses_pairs or config.batch_size > parts
    spread = "two subjects in each accumulated part for agreement and consistency"
    yield has_spread, "batch_size", spread
    is_shared = not config.uses_pairs or config.views.global_boxes != "own"
    boxes = "'shared' or 'whole' for agreement and consistency"
    yield is_shared, "views.global_boxes", boxes
    for name in _OF_PAIRS:
        parts_sum = sum(getattr(config, f"{name}_parts"))
        compares = getattr(config, f"{name}_weight") == 0 or parts_sum > 0
        yield compares, f"{name}_parts", "a weight above 0"
    is_whole = config.optimizer == "adamw" or config.parallel == "ddp"
    yield is_whole, "parallel", "'ddp', since Muon needs whole matrices"
    for name in ("dino", "infonce", "consistency"):
        has_views = getattr(config, f"{name}_weight") == 0 or config.views.n_global > 1
        yield has_views, "views.n_global", "at least 2 for DINO, InfoNCE, consistency"
    for name in ("tissues", "structures"):
        names_none = not getattr(config.encoder, name)
        yield names_none, f"encoder.{name}", "none, since the data name them"
    patch = config.encoder.patch_size
    for name in ("global_crops", "local_crops"):
        fits = not any(length % patch for length in getattr(config.views, name).size)
        yield fits, f"views.{name}.size", f"multiples of patch_size {patch}"


def read_config(
    path: str | os.PathLike[str] | None,
    *,
    preset: PresetName = "small_batch",
    encoder: EncoderConfig | None = None,
    size: EncoderSize | None = None,
    n_steps: int | None = None,
) -> PretrainingConfig:
    """Read a JSON file of fields of `PretrainingConfig`, over a preset.

    Absent fields, also of the objects in it, keep the preset's values. `encoder`
    replaces the preset's encoder; crops that are no multiple of its patch size are
    resized to the same number of patches. `size` replaces its width, depth and heads.
    `n_steps` replaces the file's.

    Raises
    ------
    ConfigError
        If the file is missing or no JSON object, a key is unknown, or a value of
        the wrong type or impossible; it names the file.
    """
    values = PretrainingConfig.preset(preset).to_dict()
    if encoder is not None:
        values = _replace_encoder(values, encoder)
    if size is not None:
        values["encoder"] = _resize(values["encoder"], size)
    if path is not None:
        given = read_json(expand_home(path), "hyperparameters", error=ConfigError)
        values = _merge(values, given)
    if n_steps is not None:
        values["n_steps"] = n_steps
    try:
        return PretrainingConfig.from_dict(values)
    except ConfigError as error:
        where = "" if path is None else f"{os.fspath(path)}: "
        raise ConfigError(f"{where}{error}") from error


def _replace_encoder(values: dict[str, Any], encoder: EncoderConfig) -> dict[str, Any]:
    """Replace the encoder and resize the crops that are no multiple of its patches."""
    old, new = values["encoder"]["patch_size"], encoder.patch_size
    crops = {
        name: {"size": [length // old * new for length in crop["size"]]}
        for name, crop in values["views"].items()
        if name.endswith("_crops") and any(length % new for length in crop["size"])
    }
    return {**_merge(values, {"views": crops}), "encoder": encoder.to_dict()}


def _resize(encoder: dict[str, Any], size: EncoderSize) -> dict[str, Any]:
    """Give an encoder a named size; its slab mixing keeps its relative depth."""
    scale = SIZES[size]["depth"] / encoder["depth"]
    mixing = [round((block + 1) * scale) - 1 for block in encoder["slab_mixing"]]
    return {**encoder, **SIZES[size], "slab_mixing": mixing}


def _merge(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = {
        name: _merge(values[name], value)
        if isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        else value
        for name, value in given.items()
    }
    return {**values, **merged}
