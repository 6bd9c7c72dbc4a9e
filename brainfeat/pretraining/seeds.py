"""Seeds derived from step and rank only, so that a run can be resumed."""

__all__ = ["derive_seed", "seeded_generator"]

import numpy as np
from torch import Generator


def derive_seed(*numbers: int) -> int:
    """Mix non-negative integers, such as seed, step and rank, into a seed below 2**63.

    >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
    (True, False)
    """
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def seeded_generator(*numbers: int) -> Generator:
    """Return a generator on the CPU, seeded with `derive_seed`."""
    return Generator().manual_seed(derive_seed(*numbers))
