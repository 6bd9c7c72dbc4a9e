"""Values that change with the step: learning rate, temperature, momentum."""

__all__ = ["cosine", "linear_warmup", "warmup_cosine"]

import math


def linear_warmup(step: int, n_steps: int, start: float, end: float) -> float:
    """Interpolate linearly from `start` at step 0 to `end` at `n_steps` and after.

    >>> [linear_warmup(step, 2, 0.0, 1.0) for step in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """
    if step >= n_steps:
        return end
    return start + (end - start) * step / n_steps


def cosine(step: int, n_steps: int, start: float, end: float) -> float:
    """Follow half a cosine from `start` at step 0 to `end` at `n_steps` and after.

    >>> [round(cosine(step, 2, 1.0, 0.0), 3) for step in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if step >= n_steps:
        return end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def warmup_cosine(
    step: int, n_warmup_steps: int, n_steps: int, *, peak: float, final: float
) -> float:
    """Rise linearly from 0 to `peak`, then fall along half a cosine to `final`.

    >>> [round(warmup_cosine(s, 2, 4, peak=1.0, final=0.0), 3) for s in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if step < n_warmup_steps:
        return linear_warmup(step, n_warmup_steps, 0.0, peak)
    return cosine(step - n_warmup_steps, n_steps - n_warmup_steps, peak, final)
