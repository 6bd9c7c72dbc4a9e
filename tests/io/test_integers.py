import numpy as np
import pytest

from brainfeat.io.integers import is_integer


@pytest.mark.parametrize("value", [2, 3, np.int64(2), np.uint8(2)])
def test_integers_are_pythons_and_numpys(value):
    assert is_integer(value, at_least=2)


@pytest.mark.parametrize("value", [1, -2, np.int64(1), True, 2.0, "2", None, [2]])
def test_others_and_smaller_ones_are_none(value):
    assert not is_integer(value, at_least=2)
