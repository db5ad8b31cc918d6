"""SIGINT and SIGTERM: what is left at once, what is finished first, and what must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from workbench.errors import WorkbenchError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_SECONDS = 0.01

Handler = Callable[[int, FrameType | None], None]


class InterruptRequested(BaseException):
    """A signal arrived; BaseException, so that no `except Exception` swallows it."""

    def __init__(self, signal_number: int, again: Callable[[], None] | None = None) -> None:
        """again: raises it once more where it is still due; by default it always is due."""
        self.signal_number = signal_number
        self.again = again or self._raise
        super().__init__(signal_number)

    def _raise(self) -> None:
        raise self


def interrupt_behind(error: BaseException | None) -> InterruptRequested | None:
    """Returns the signal that led to an error. Some code turns whatever it meets into an exception of its own; Python's
    class creation does."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InterruptRequested):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def raise_interrupt(number: int, _frame: FrameType | None) -> None:
    """Handles a signal during work that may be left anywhere. A second signal has its default effect: the process
    stops."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise InterruptRequested(number)


@contextlib.contextmanager
def handled_by(receive: Handler) -> Iterator[None]:
    """Sends both signals to this handler, in the main thread. Python allows no handlers in other threads, and nothing
    changes there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {number: signal.signal(number, receive) for number in SIGNALS}
    previous[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    default, sys.unraisablehook = sys.unraisablehook, lambda unraisable: _raise_again(unraisable, default)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = default
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise_again(unraisable: Any, default: Callable[[Any], object]) -> None:
    """Raises anew, a moment later, what Python swallowed because it was raised in a finaliser or a weak reference's
    callback."""
    request = unraisable.exc_value
    if not isinstance(request, InterruptRequested):
        default(unraisable)
        return
    signal.signal(signal.SIGALRM, lambda _number, _frame: request.again())
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Holds signals back until the end of this section. A process that is forked in it starts with signals blocked,
    until it has said what it does with them and calls `let_in`."""
    came: list[int] = []
    # The mask serves a forked process, which has this thread alone; here another thread may receive the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with handled_by(lambda number, _frame: came.append(number)):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in came:
        signal.raise_signal(number)


def let_in() -> None:
    """Lets signals in again, in a process that was forked where they were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class Interrupts:
    """Signal handlers for the length of a training run.

    A first signal raises InterruptRequested at once inside `interruptible()` sections, and at the next one's start
    elsewhere. A second signal has its default effect: the process stops.
    """

    def __init__(self, immediate: bool = True) -> None:
        """immediate: false where other processes wait for this one in the middle of a step."""
        self.immediate = immediate
        self.received: int | None = None
        self._interruptible = False
        self._handlers = contextlib.ExitStack()

    def __enter__(self) -> Interrupts:
        self._handlers.enter_context(handled_by(self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.close()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
        self._leave()

    def _leave(self) -> None:
        """Raises the request at once in a section that may be left so."""
        if self._interruptible and self.immediate and self.received is not None:
            raise InterruptRequested(self.received, again=self._leave)

    def behind(self, error: BaseException) -> InterruptRequested | None:
        """Returns the signal that an error comes of, even where a library in C++ has made another error of it that
        bears no trace."""
        found = interrupt_behind(error)
        if found or self.received is None or not self.immediate or isinstance(error, WorkbenchError):
            return found
        return InterruptRequested(self.received)

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
