import subprocess
import sys
import threading
import time
from itertools import count

import pytest

from brainfeat.workers import Prefetch


def double_slowly(number):
    # The first takes longest.
    time.sleep(0.02 / (1 + number))
    return 2 * number


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_items", [0, 1, 7])
def test_results_come_in_order(n_threads, n_items):
    items = range(n_items)
    with Prefetch(double_slowly, items, n_threads=n_threads, n_ahead=4) as results:
        assert list(results) == [2 * item for item in items]


@pytest.mark.parametrize("n_ahead", [1, 5])
def test_items_are_drawn_at_most_n_ahead(n_ahead):
    drawn = []
    items = (drawn.append(number) or number for number in count())
    with Prefetch(double_slowly, items, n_threads=2, n_ahead=n_ahead) as results:
        for n_done, _ in zip(range(1, 20), results, strict=False):
            assert len(drawn) <= n_done + n_ahead


def test_items_are_drawn_in_the_calling_thread():
    drawers = set()
    items = (drawers.add(threading.get_ident()) or n for n in range(5))
    with Prefetch(double_slowly, items, n_threads=2, n_ahead=2) as results:
        list(results)
    assert drawers == {threading.get_ident()}


def test_threads_work_while_a_result_is_used():
    started = threading.Semaphore(0)

    def start(number):
        started.release()
        return number

    with Prefetch(start, range(4), n_threads=1, n_ahead=3) as results:
        assert next(iter(results)) == 0
        assert all(started.acquire(timeout=5) for _ in range(3))


def test_a_result_does_not_wait_for_more_items():
    is_given = threading.Event()

    def draw():
        yield from (0, 1)
        yield is_given.wait(5)

    with Prefetch(double_slowly, draw(), n_threads=1, n_ahead=2) as results:
        iterator = iter(results)
        assert next(iterator) == 0
        is_given.set()
        assert list(iterator) == [2, 2]


def test_leaving_the_context_ends_all_threads():
    with Prefetch(double_slowly, count(), n_threads=2, n_ahead=6) as results:
        next(iter(results))
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("brainfeat") for name in names)


def test_busy_threads_are_counted():
    release = threading.Event()

    def wait(number):
        if number:
            release.wait(5)

    with Prefetch(wait, range(6), n_threads=2, n_ahead=5) as results:
        iterator = iter(results)
        next(iterator)
        assert results.n_busy == 2
        release.set()
        list(iterator)
        assert results.n_busy == 0


def test_errors_are_raised_in_the_calling_thread():
    with Prefetch([1, 2].index, [1, 3], n_threads=1, n_ahead=2) as results:
        iterator = iter(results)
        assert next(iterator) == 0
        with pytest.raises(ValueError, match="3 is not in list"):
            next(iterator)


def test_results_are_computed_in_another_thread():
    with Prefetch(
        lambda _: threading.get_ident(), range(3), n_threads=1, n_ahead=2
    ) as results:
        assert threading.get_ident() not in set(results)


def test_an_error_in_the_loop_ends_all_threads():
    before = threading.active_count()

    def loop():
        with Prefetch(abs, count(), n_threads=1, n_ahead=2) as results:
            for result in results:
                _ = 1 / (result - 2)

    with pytest.raises(ZeroDivisionError):
        loop()
    assert threading.active_count() == before


PARENT = """
import multiprocessing, time
from brainfeat.workers import end_with_parent

def work():
    end_with_parent()
    print("working", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(60)
"""


def test_a_process_ends_when_its_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"working\n"
    parent.kill()
    parent.communicate(timeout=20)  # returns once the child's stdout is closed, too
