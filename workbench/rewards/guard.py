"""What a function leaves behind in this process is put back, so that no number of the run moves; what cannot be put
back stops the run, with the function named."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from workbench.errors import RewardError

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)


@contextlib.contextmanager
def unchanged(name: str) -> Iterator[None]:
    """Directory, environment, streams, signal handlers, random states and torch's modes are after the block as they
    were before it. Raises RewardError where it closed a descriptor."""
    restore = [take() for take in _KEPT]
    opened = _written()
    try:
        yield
    finally:
        now = _written()
        closed = sorted(opened - now - _own)
        _own.update(now - opened)
        for put_back in reversed(restore):
            put_back()
    if closed:
        raise RewardError(
            f"reward {name}: it closed descriptor {closed[0][0]}, which is not its own; allowed its own alone"
        )


def _directory() -> Callable[[], None]:
    try:
        before = os.getcwd()
    except OSError:  # it is gone
        return lambda: None
    return lambda: os.chdir(before)


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def put_back() -> None:
        if os.environ != before:
            os.environ.clear()
            os.environ.update(before)

    return put_back


def _streams() -> Callable[[], None]:
    before = sys.stdin, sys.stdout, sys.stderr

    def put_back() -> None:
        sys.stdin, sys.stdout, sys.stderr = before

    return put_back


def _signals() -> Callable[[], None]:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in _HANDLED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def put_back() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return put_back


def _python() -> Callable[[], None]:
    before, filters, limit = random.getstate(), warnings.filters[:], sys.getrecursionlimit()

    def put_back() -> None:
        random.setstate(before)
        sys.setrecursionlimit(limit)
        warnings.filters[:] = filters  # type: ignore[index]

    return put_back


def _numpy() -> Callable[[], None]:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return lambda: None
    state, errors = numpy.random.get_state(), numpy.geterr()

    def put_back() -> None:
        numpy.random.set_state(state)
        numpy.seterr(**errors)

    return put_back


def _torch() -> Callable[[], None]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return lambda: None
    state = torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    pairs = (
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (torch.get_default_device, torch.set_default_device),
        (lambda: torch.backends.cudnn.benchmark, lambda value: setattr(torch.backends.cudnn, "benchmark", value)),
    )
    before = [get() for get, _ in pairs]

    def put_back() -> None:
        for (get, put), value in zip(pairs, before, strict=True):
            if get() != value:
                put(value)
        torch.set_rng_state(state)
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)

    return put_back


_KEPT: tuple[Callable[[], Callable[[], None]], ...] = (
    _directory,
    _environment,
    _streams,
    _signals,
    _python,
    _numpy,
    _torch,
)


_own: set[tuple[int, int, int]] = set()
"""Files that functions opened themselves, and may close at a later call: descriptor, device, inode."""


def _written() -> set[tuple[int, int, int]]:
    """Open standard streams, and files that are written to."""
    found = set()
    with contextlib.suppress(OSError):  # another system
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):  # the folder's own
                mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
                at = os.fstat(number)
                if number <= 2 or (mode != os.O_RDONLY and stat.S_ISREG(at.st_mode)):
                    found.add((number, at.st_dev, at.st_ino))
    return found
