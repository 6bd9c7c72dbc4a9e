"""Signals end a run after its step, with its state saved."""

import os
import signal
import threading
from dataclasses import replace

import pytest

from brainfeat.pretraining.interrupts import Interrupts
from brainfeat.pretraining.run_state import saved_step
from brainfeat.pretraining.trainer import train


@pytest.fixture
def received():
    """Signals that act outside of a run."""
    numbers = []
    before = {
        number: signal.signal(number, lambda n, _: numbers.append(n))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_it_is_acted_on(received, number):
    with Interrupts() as interrupts:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as torchrun and the terminal do
        assert interrupts.pending == number
        assert received == []
        interrupts.act(number)
    assert received == [number]


def test_a_later_second_signal_acts_at_once(received):
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        interrupts._noted_at -= 60
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]


def test_handlers_are_restored(received):
    with Interrupts():
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_a_run_in_another_thread_gets_no_signals():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture(autouse=True)
def _heard():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert interrupts.pending is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_an_interrupted_run_saves_its_step_and_resumes(source, small_config, tmp_path):
    config = replace(small_config, checkpoint_every=100)

    class Interrupting(type(source)):
        def draw(self, step, n_subjects, **options):
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().draw(step, n_subjects, **options)

    folders = tmp_path / "parts", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        train(Interrupting(), config, output=folders[0], device="cpu")
    assert saved_step(folders[0]) == 5
    train(source, config, output=folders[0], device="cpu", resume=True)
    train(source, config, output=folders[1], device="cpu")
    one, other = ((f / "model.safetensors").read_bytes() for f in folders)
    assert one == other
