import pytest

from brainfeat.pretraining.optimizer import cosine, linear_warmup, warmup_cosine


@pytest.mark.parametrize("schedule", [linear_warmup, cosine])
@pytest.mark.parametrize(("start", "end"), [(0.2, 0.7), (0.9, 0.1)])
def test_schedule_begins_at_start_and_stays_at_end(schedule, start, end):
    assert schedule(0, 7, start, end) == pytest.approx(start)
    assert schedule(7, 7, start, end) == end
    assert schedule(100, 7, start, end) == end
    assert schedule(0, 0, start, end) == end


@pytest.mark.parametrize("schedule", [linear_warmup, cosine])
def test_schedule_is_monotonic_and_symmetric_around_its_middle(schedule):
    values = [schedule(step, 10, 0.2, 0.8) for step in range(11)]
    assert values == sorted(values)
    mirrored = [1.0 - value for value in reversed(values)]
    assert values == pytest.approx(mirrored)


def test_linear_warmup_rises_in_equal_increments():
    values = [linear_warmup(step, 4, 1.0, 3.0) for step in range(6)]
    assert values == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.0])


def test_cosine_is_flat_at_both_ends():
    values = [cosine(step, 1000, 0.0, 1.0) for step in (1, 999)]
    assert values[0] < 1e-5
    assert 1 - values[1] < 1e-5


def test_warmup_cosine_is_zero_then_peak_then_final():
    values = [warmup_cosine(s, 5, 20, peak=0.4, final=0.01) for s in range(25)]
    assert values[0] == 0
    assert values[5] == max(values) == pytest.approx(0.4)
    assert values[20:] == [0.01] * 5
    assert values[:6] == sorted(values[:6])
    assert values[5:] == sorted(values[5:], reverse=True)


def test_warmup_of_no_steps_begins_at_the_peak():
    assert warmup_cosine(0, 0, 8, peak=0.4, final=0.01) == pytest.approx(0.4)


def test_run_that_is_all_warmup_ends_at_final():
    assert warmup_cosine(8, 8, 8, peak=0.4, final=0.01) == 0.01
