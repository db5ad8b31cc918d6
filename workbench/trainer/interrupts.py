"""SIGINT and SIGTERM while training: stop at once where a step can be thrown away, wait where it cannot."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class InterruptRequested(BaseException):
    """Raised inside an interruptible section; BaseException, so that no `except Exception` swallows it."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(signal_number)


class Interrupts:
    """Signal handlers for the length of a training run.

    A first signal raises InterruptRequested at once inside `interruptible()` sections, and at the next one's start
    elsewhere. A second signal has its default effect: the process stops.
    """

    def __init__(self, immediate: bool = True) -> None:
        """immediate: False where other processes wait for this one in the middle of a step."""
        self.immediate = immediate
        self.received: int | None = None
        self._interruptible = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
        if self._interruptible and self.immediate:
            self._interruptible = False
            raise InterruptRequested(number)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A section whose work is thrown away when a signal comes."""
        if self.received is not None and self.immediate:
            raise InterruptRequested(self.received)
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False
