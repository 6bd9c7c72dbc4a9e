"""Hyperparameters of pretraining, and presets for small and large batches."""

__all__ = ["PretrainingConfig"]

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from brainfeat.configs import check_fields, from_plain, to_plain
from brainfeat.exceptions import ConfigError
from brainfeat.models.config import EncoderConfig
from brainfeat.pretraining.views import ViewConfig

PresetName = Literal["small_batch", "large_batch"]
Centring = Literal["sinkhorn", "moving_average"]
Parallel = Literal["ddp", "fully_shard"]
OptimizerName = Literal["adamw", "muon"]

_PRESETS: dict[str, dict[str, Any]] = {
    # Few subjects a step: fewer prototypes than samples, softer centring, and a
    # teacher that follows soon. Sinkhorn needs many samples to balance.
    "small_batch": {
        "encoder": {"layer_scale": 0.1, "slab_mixing": [2, 5, 8]},
        "batch_size": 8,
        "n_prototypes": 1024,
        "head_hidden_dim": 512,
        "head_bottleneck_dim": 128,
        "centring": "sinkhorn",
    },
    # After DINOv2's ViT-L: 3072 images, in stacks of four slabs, at the rate that it
    # gives for 1024 and scales by the square root.
    "large_batch": {
        "encoder": {
            "embed_dim": 1024,
            "depth": 24,
            "num_heads": 16,
            "drop_path": 0.3,
        },
        "batch_size": 768,
        "learning_rate": 2e-4,
        "n_prototypes": 131072,
        "head_hidden_dim": 2048,
        "head_bottleneck_dim": 384,
        "centring": "sinkhorn",
        "activation_checkpointing": True,
        "parallel": "fully_shard",
        "views": {"n_local": 8},
    },
}


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Hyperparameters of one run; saved as JSON beside its checkpoints.

    An objective whose weight is 0 costs nothing: DINO-only, iBOT-only,
    InfoNCE-only and anatomy-only runs are configurations.

    Parameters
    ----------
    encoder : EncoderConfig
        Sizes of the encoder.
    views : ViewConfig
        What student and teacher are shown.
    dino_weight, ibot_weight, koleo_weight, infonce_weight, anatomy_weight : float
        Weight of each objective in the loss. KoLeo is the mean over the global views;
        DINOv2 sums it over its two, so that a weight there is twice as much here.
        InfoNCE compares the first two global views.
    n_prototypes : int
        Prototypes K of the DINO head and of the iBOT head.
    head_hidden_dim, head_bottleneck_dim : int
        Lengths inside the heads.
    centring : {"sinkhorn", "moving_average"}
        How the teacher's assignments are kept from collapsing.
    student_temperature : float
        Temperature of the student's assignments.
    teacher_temperature : tuple of float
        Temperature of the teacher's at the start and after its warm-up.
    infonce_temperature : float
        Temperature of the similarities of InfoNCE.
    teacher_momentum : tuple of float
        Share of the teacher that a step keeps, start and end of a cosine.
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
    learning_rate : float or None
        Peak learning rate; None takes DINOv2's 0.004 times the square root of
        the batch size over 1024.
    final_learning_rate : float
        Learning rate of the last step.
    weight_decay : tuple of float
        Weight decay, start and end of a cosine. Biases, norms and layer scales have
        none, nor have, other than in DINOv2, embeddings and tokens.
    layer_decay : float
        Ratio of the learning rates of a block and the one above it.
    patch_embed_lr : float
        Factor of the learning rate of the patch embedding.
    warmup_fraction : float
        Share of the run in which the learning rate rises.
    temperature_warmup_fraction : float
        Share of the run in which the teacher's temperature rises.
    freeze_last_layer_fraction : float
        Share of the run in which the prototypes do not move.
    clip_grad : float
        Largest norm of the gradient of all parameters together; DINOv2 clips that
        of the encoder and that of each head.
    precision : {"bfloat16", "float32"}
        Precision of the matrix products.
    activation_checkpointing : bool
        Whether blocks recompute their activations, to save memory.
    parallel : {"ddp", "fully_shard"}
        What torchrun's processes share: gradients only, or also the weights.
    seed : int
        Seed of everything random.
    log_every, checkpoint_every, probe_every : int
        Steps between log lines, checkpoints and probes.

    Raises
    ------
    ConfigError
        If a value is impossible or of another type, or no objective has a weight.

    References
    ----------
    .. [1] Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
       2024; its learning rate is matched to AdamW's as in Liu et al., "Muon is
       scalable for LLM training", arXiv 2502.16982.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    dino_weight: float = 1.0
    ibot_weight: float = 1.0
    koleo_weight: float = 0.1
    infonce_weight: float = 0.0
    anatomy_weight: float = 0.0
    n_prototypes: int = 4096
    head_hidden_dim: int = 1024
    head_bottleneck_dim: int = 256
    centring: Centring = "sinkhorn"
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    infonce_temperature: float = 0.1
    teacher_momentum: tuple[float, float] = (0.992, 1.0)
    batch_size: int = 8
    accumulation_steps: int = 1
    n_steps: int = 10_000
    optimizer: OptimizerName = "adamw"
    learning_rate: float | None = None
    final_learning_rate: float = 1e-6
    weight_decay: tuple[float, float] = (0.04, 0.4)
    layer_decay: float = 0.9
    patch_embed_lr: float = 0.2
    warmup_fraction: float = 0.1
    temperature_warmup_fraction: float = 0.3
    freeze_last_layer_fraction: float = 0.01
    clip_grad: float = 3.0
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    activation_checkpointing: bool = False
    parallel: Parallel = "ddp"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200
    probe_every: int = 1000

    def __post_init__(self) -> None:
        check_fields(self, allow_lists=True)
        problem = _problem_in(self)
        if problem:
            raise ConfigError(f"PretrainingConfig: {problem}")

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate after the warm-up."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 4e-3 * math.sqrt(self.batch_size / 1024)

    @property
    def uses_teacher(self) -> bool:
        """Whether an objective needs the teacher's tokens."""
        return self.dino_weight > 0 or self.ibot_weight > 0

    @property
    def uses_local_views(self) -> bool:
        """Whether an objective needs the local views."""
        return self.dino_weight > 0 and self.views.n_local > 0

    @classmethod
    def preset(cls, name: PresetName, **changes: Any) -> Self:
        """Return values that suit a batch size, with some fields changed.

        Parameters
        ----------
        name : {"small_batch", "large_batch"}
            One machine with few subjects a step, or many, after DINOv2's ViT-L recipe.
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
        if name not in _PRESETS:
            raise ConfigError(
                f"unknown preset {name!r}, expected one of {[*_PRESETS]}."
            )
        unknown = sorted(set(changes) - {item.name for item in dataclasses.fields(cls)})
        if unknown:
            raise ConfigError(f"PretrainingConfig: unknown keys {unknown}.")
        return dataclasses.replace(cls.from_dict(_PRESETS[name]), **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from plain JSON values.

        Parameters
        ----------
        values : mapping
            Field names and values; absent fields take their defaults.

        Returns
        -------
        PretrainingConfig
            The configuration.

        Raises
        ------
        ConfigError
            If a key is unknown or a value impossible.
        """
        config: Self = from_plain(cls, values, where="PretrainingConfig")
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values.

        Returns
        -------
        dict
            What `from_dict` reads.
        """
        values: dict[str, Any] = to_plain(self)
        return values


_COUNTS = (
    "batch_size",
    "accumulation_steps",
    "n_steps",
    "head_hidden_dim",
    "head_bottleneck_dim",
    "log_every",
    "checkpoint_every",
    "probe_every",
)
_POSITIVE = (
    "student_temperature",
    "teacher_temperature",
    "infonce_temperature",
    "layer_decay",
    "clip_grad",
)
_WEIGHTS = (
    "dino_weight",
    "ibot_weight",
    "koleo_weight",
    "infonce_weight",
    "anatomy_weight",
)
_NOT_NEGATIVE = (
    *_WEIGHTS,
    "learning_rate",
    "final_learning_rate",
    "weight_decay",
    "patch_embed_lr",
    "seed",
)
_SHARES = (
    "teacher_momentum",
    "warmup_fraction",
    "temperature_warmup_fraction",
    "freeze_last_layer_fraction",
)


def _problem_in(config: PretrainingConfig) -> str | None:
    weights = [getattr(config, name) for name in _WEIGHTS]
    sizes = (config.views.global_crops.size, config.views.local_crops.size)
    pairs = config.dino_weight > 0 or config.infonce_weight > 0
    checks = {
        f"objective weights must not be all 0, got {weights}.": any(weights),
        **_range_checks(config),
        f"accumulation_steps {config.accumulation_steps} does not divide "
        f"batch_size {config.batch_size}.": (
            config.batch_size % max(config.accumulation_steps, 1) == 0
        ),
        "tissues are named by the data, so encoder.tissues must be empty, "
        f"got {config.encoder.tissues}.": not config.encoder.tissues,
        "muon needs whole matrices, so parallel must be 'ddp'.": (
            config.optimizer == "adamw" or config.parallel == "ddp"
        ),
        "DINO and InfoNCE need two global views.": (
            not pairs or config.views.n_global > 1
        ),
        "InfoNCE needs two subjects in each accumulated part of a batch.": (
            config.infonce_weight == 0 or config.batch_size > config.accumulation_steps
        ),
        "views.global_crops.size and views.local_crops.size must be multiples of the "
        f"encoder's patch size {config.encoder.patch_size}, got {sizes}.": not any(
            length % config.encoder.patch_size for size in sizes for length in size
        ),
    }
    return next((problem for problem, holds in checks.items() if not holds), None)


def _range_checks(config: PretrainingConfig) -> dict[str, bool]:
    """Compare each number with what it may be."""
    checks = {}
    for names, expected, low, high in (
        (_COUNTS, "at least 1", 1, math.inf),
        (("n_prototypes",), "at least 2", 2, math.inf),
        (_POSITIVE, "positive", sys.float_info.min, math.inf),
        (_NOT_NEGATIVE, "at least 0", 0, math.inf),
        (_SHARES, "within 0 and 1", 0, 1),
    ):
        for name in names:
            value = getattr(config, name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            checks[f"{name} must be {expected}, got {value}."] = value is None or all(
                low <= number <= high for number in numbers
            )
    return checks
