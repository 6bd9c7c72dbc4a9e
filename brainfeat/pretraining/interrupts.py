"""Ctrl-C and SIGTERM, which a run answers after its step."""

__all__ = ["Interrupts"]

import logging
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# torchrun passes on a signal that a terminal sends to its processes, too.
_REPEATED_WITHIN = 5.0  # seconds


class Interrupts:
    """Hold back Ctrl-C and SIGTERM until the run has saved its state.

    A second signal, some seconds after the first, acts at once. Outside of the main
    thread, which alone gets signals, this has no effect.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._noted_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = (n for n in _SIGNALS if signal.getsignal(n) != signal.SIG_IGN)
            for number in heard:  # nohup, for one, lets a process ignore some
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        # Another rank that was interrupted too may have broken the connection.
        if isinstance(error, Exception) and self.pending is not None:
            signal.raise_signal(self.pending)

    def act(self, number: int) -> None:
        """Do what a signal does outside of this context, such as to end the process."""
        self._restore()
        self.pending = None
        signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.pending is None:
            self.pending, self._noted_at = number, time.monotonic()
            # The signal may have interrupted a write to the same stream.
            text = "interrupted: the run stops after this step and saves its state."
            threading.Thread(target=logger.warning, args=(text,), daemon=True).start()
        elif time.monotonic() - self._noted_at > _REPEATED_WITHIN:
            self.act(number)
