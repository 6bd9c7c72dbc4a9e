import logging

import pytest

from brainfeat.progress import show_steps, show_subjects


@pytest.mark.parametrize(("n", "n_lines"), [(3, 3), (10, 10), (100, 10)])
def test_subjects_pass_through_with_about_ten_lines(n, n_lines, caplog):
    caplog.set_level(logging.INFO, logger="brainfeat")
    shown = show_subjects(iter(range(n)), n, done="embedded", verbose=1)
    assert list(shown) == list(range(n))
    assert len(caplog.messages) == n_lines
    assert caplog.messages[-1] == f"embedded {n} of {n} subjects"


@pytest.mark.parametrize(("n", "n_lines"), [(3, 3), (100, 10)])
def test_steps_are_told_with_their_loss(n, n_lines, caplog):
    caplog.set_level(logging.INFO, logger="brainfeat")
    with show_steps(n, verbose=1) as tell:
        for step in range(1, n + 1):
            tell(step, 1 / step)
    assert len(caplog.messages) == n_lines
    assert caplog.messages[-1] == f"step {n} of {n}: loss {1 / n:.3f}"


def test_nothing_is_told_unasked(caplog):
    caplog.set_level(logging.INFO, logger="brainfeat")
    assert list(show_subjects([1, 2], 2, done="embedded", verbose=0)) == [1, 2]
    with show_steps(1, verbose=0) as tell:
        tell(1, 0.5)
    assert not caplog.messages
