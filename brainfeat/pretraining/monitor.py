"""Detection of collapse and divergence.

References
----------
.. [1] Roy and Vetterli, "The effective rank: a measure of effective
   dimensionality", EUSIPCO 2007.
"""

__all__ = ["Monitor", "effective_rank", "relative_entropy"]

import logging
import math
from collections import deque

import torch
from torch import Tensor

from brainfeat.exceptions import TrainingError

logger = logging.getLogger(__name__)

_N_ROWS = 256  # class tokens for the effective rank
_COLLAPSED_RANK = 2.0
_LOW_RANK = 10.0
_COLLAPSED_ENTROPY = 0.01
_LOW_ENTROPY = 0.1
_LOW_SPREAD = 0.3  # of the variance at the start; less is what agreement must not cost


def effective_rank(rows: Tensor) -> float:
    """Compute the effective rank [1]_ of centred rows (N, D).

    From 1 (all on a line, or all equal) to the smaller of N - 1 and D.
    """
    rows = rows.double()
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    total = values.sum()
    if float(total) < 1e-9:
        return 1.0
    return float(torch.special.entr(values / total).sum().exp())


def relative_entropy(logits: Tensor, temperature: float) -> float:
    """Compute the mean entropy of the assignments of logits (..., K), over log K.

    0 is one prototype per sample, 1 a uniform distribution.
    """
    assignments = (logits.float() / temperature).softmax(dim=-1)
    entropy = torch.special.entr(assignments).sum(dim=-1).mean()
    return float(entropy) / math.log(logits.shape[-1])


class Monitor:
    """Warn when a run begins to collapse, and stop it when it has.

    The first `n_grace_steps` are not checked: class tokens start almost equal.
    """

    def __init__(self, n_grace_steps: int) -> None:
        self._n_grace_steps = n_grace_steps
        self._rows: deque[Tensor] = deque()
        self._n_rows = 0
        self._warned: set[str] = set()

    def check_finite(self, step: int, **values: float) -> None:
        """Raise TrainingError if a loss or norm is not finite."""
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"step {step}: {', '.join(broken)} not finite. Lower learning_rate or "
                "clip_grad, lengthen warmup_fraction, or use precision='float32', in a "
                "new run in another folder; --init starts it from the last checkpoint "
                "of this one, which is from before this step."
            )

    def observe(self, class_tokens: Tensor) -> None:
        """Add class tokens (B, D), which stay on their device."""
        self._rows.append(class_tokens.detach().float())
        self._n_rows += len(class_tokens)
        while self._n_rows - len(self._rows[0]) >= _N_ROWS:
            self._n_rows -= len(self._rows.popleft())

    def effective_rank(self) -> float | None:
        """Return the effective rank of the last class tokens; None for too few."""
        if self._n_rows < _N_ROWS:
            return None
        return effective_rank(torch.cat(list(self._rows)).cpu())

    def check_collapse(
        self, step: int, *, effective_rank: float | None, teacher_entropy: float | None
    ) -> None:
        """Raise TrainingError if rank or relative entropy show a collapse."""
        rank, entropy = effective_rank, teacher_entropy
        if step < self._n_grace_steps:
            return
        if rank is not None and rank < _COLLAPSED_RANK:
            raise TrainingError(
                f"step {step}: collapse, the class tokens have effective rank "
                f"{rank:.1f}. Raise koleo_weight or batch_size, lower learning_rate, "
                "use centring='sinkhorn', or start from weights with --init."
            )
        if entropy is not None and entropy < _COLLAPSED_ENTROPY:
            raise TrainingError(
                f"step {step}: collapse, the teacher's entropy is {entropy:.3f} of "
                "its maximum. Raise teacher_temperature, lower n_prototypes, or use "
                "centring='sinkhorn'."
            )
        self._warn_once(step, "effective rank", rank, _LOW_RANK, "%.1f")
        self._warn_once(step, "teacher entropy", entropy, _LOW_ENTROPY, "%.3f")

    def check_spread(self, step: int, subject_spread: float | None) -> None:
        """Warn when mean tokens vary much less between subjects than at the start."""
        name = "spread between subjects, relative to the initial weights,"
        self._warn_once(step, name, subject_spread, _LOW_SPREAD, "%.2f")

    def _warn_once(
        self, step: int, name: str, value: float | None, low: float, form: str
    ) -> None:
        """Warn when a value becomes low, and not again before it has recovered."""
        if value is None:
            return
        if value >= low:
            self._warned.discard(name)
        elif name not in self._warned:
            self._warned.add(name)
            logger.warning(f"step %d: %s is low, {form}.", step, name, value)
