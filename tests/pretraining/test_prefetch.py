import threading

import pytest

from brainfeat.pretraining.prefetch import Prefetcher


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_items_come_in_order(ahead):
    with Prefetcher(lambda number: number**2, 3, 11, ahead=ahead) as items:
        assert list(items) == [number**2 for number in range(3, 11)]


def test_nothing_to_make_gives_nothing():
    with Prefetcher(lambda number: number, 5, 5) as items:
        assert list(items) == []


def test_items_are_made_ahead_and_not_further():
    made, third = [], threading.Event()

    def make(number):
        made.append(number)
        if len(made) == 3:
            third.set()
        return number

    with Prefetcher(make, 0, 50, ahead=2):
        # Two wait, and the third is in the hand of the thread.
        assert third.wait(timeout=20)
        assert made == [0, 1, 2]


def test_items_are_made_in_another_thread():
    with Prefetcher(lambda _: threading.get_ident(), 0, 3) as items:
        assert threading.get_ident() not in set(items)


def test_nothing_ahead_needs_no_thread():
    with Prefetcher(lambda _: threading.get_ident(), 0, 3, ahead=0) as items:
        assert set(items) == {threading.get_ident()}


def test_error_comes_in_its_place():
    def make(number):
        if number == 4:
            raise OSError("unreadable")
        return number

    with Prefetcher(make, 1, 9) as items:
        iterator = iter(items)
        seen = [next(iterator) for _ in range(3)]
        with pytest.raises(OSError, match="unreadable"):
            next(iterator)
    assert seen == [1, 2, 3]


def test_thread_ends_when_the_loop_is_left():
    made = []
    before = threading.active_count()
    with Prefetcher(lambda number: made.append(number) or number, 0, 9999) as items:
        for item in items:
            if item == 3:
                break
    assert threading.active_count() == before
    assert len(made) < 9


def test_thread_ends_when_the_loop_raises():
    before = threading.active_count()

    def loop():
        with Prefetcher(lambda number: number, 0, 9999) as items:
            for item in items:
                _ = 1 / (item - 2)

    with pytest.raises(ZeroDivisionError):
        loop()
    assert threading.active_count() == before
