"""Settings of a fine-tuning."""

__all__ = ["FinetuningPlan"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sklearn.utils import check_random_state

from brainfeat.configs import Rule, is_integer, is_number
from brainfeat.exceptions import ConfigError
from brainfeat.finetuning.adapters import Adapt
from brainfeat.finetuning.head import HeadPooling
from brainfeat.models.protocol import EncoderSettings
from brainfeat.models.resnet_config import ResNetConfig

_POSITIVE = Rule("a positive integer", lambda v: is_integer(v, at_least=1))
_NOT_NEGATIVE = Rule("an integer of at least 0", lambda v: is_integer(v, at_least=0))
_RULES = {
    "adapt": Rule("'lora', 'last' or 'all'", lambda v: v in ("lora", "last", "all")),
    "pooling": Rule("'mean' or 'attention'", lambda v: v in ("mean", "attention")),
    "rank": _POSITIVE,
    "n_blocks": _POSITIVE,
    "n_steps": _NOT_NEGATIVE,
    "batch_size": _POSITIVE,
    "n_views": _NOT_NEGATIVE,
    "n_folds": _NOT_NEGATIVE,
    "learning_rate": Rule("a positive number", lambda v: is_number(v) and v > 0),
}
_N_PARTS = 4  # of the steps, after which held-out people are scored


@dataclass(frozen=True, kw_only=True)
class FinetuningPlan:
    """Settings of one fine-tuning."""

    adapt: Adapt
    pooling: HeadPooling
    rank: int  # of the updates of "lora"
    n_blocks: int  # that are trained, from the end
    n_steps: int
    learning_rate: float  # peak, of the encoder
    batch_size: int  # subjects of a step
    n_views: int  # augmented copies of each subject
    n_folds: int  # of people, that choose the number of steps
    seed: int

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Any], encoder: EncoderSettings
    ) -> "FinetuningPlan":
        """Check the parameters of an estimator."""
        for name, rule in _RULES.items():
            if not rule.holds(parameters[name]):
                raise ConfigError(
                    f"{name}: expected {rule.expected}, got {parameters[name]!r}."
                )
        if isinstance(encoder, ResNetConfig):
            raise ConfigError(
                "checkpoint: expected a transformer, whose blocks can be adapted, got "
                f"an encoder of kind {encoder.kind!r}."
            )
        if parameters["n_blocks"] > encoder.depth:
            raise ConfigError(
                f"n_blocks: expected at most {encoder.depth}, the blocks of the "
                f"encoder, got {parameters['n_blocks']}."
            )
        given = {name: parameters[name] for name in _RULES}
        return cls(**given, seed=_draw_seed(parameters["random_state"]))

    def first_block(self, depth: int) -> int | None:
        """Return the first trained block; None if the input is trained on."""
        return None if self.adapt == "all" else depth - self.n_blocks

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps after which held-out people are scored; the first is 0."""
        parts = (round(self.n_steps * i / _N_PARTS) for i in range(_N_PARTS + 1))
        return tuple(sorted({*parts}))


def _draw_seed(random_state: Any) -> int:
    try:
        return int(check_random_state(random_state).randint(2**31))
    except ValueError as error:
        raise ConfigError(
            "random_state: expected None, an integer or a RandomState, "
            f"got {random_state!r}."
        ) from error
