"""The processes behind a WorkerPool: a keeper that ends with its parent, and the workers below it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.connection
import os
import random
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from workbench.errors import WorkbenchError
from workbench.rewards.reward import RewardFunction, judge

_DIE_WITH_PARENT, _ADOPT_ORPHANS = 1, 36  # PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
LOOK_SECONDS = 1.0
"""The seconds between two looks for orphans that have ended."""


@dataclass(frozen=True)
class Service:
    """What a worker does: load() once, then what it gave for every task."""

    name: str
    load: Callable[[], RewardFunction]
    memory_bytes: int | None


def fork() -> int:
    """Forks as os.fork does, and keeps this process's signal handlers from the child, which starts with signals blocked
    until it says what it does."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with warnings.catch_warnings():
        # The warning is of threads that a fork leaves behind; the child has one thread and takes no lock of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def keep(service: Service, pipes: Sequence[Any], control: Any, parent: int) -> NoReturn:
    """Runs in the child: starts a worker for each pipe, tells of each that ends, and ends all when the parent does."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: _leave())
        _prctl(_ADOPT_ORPHANS, 1)
        _prctl(_DIE_WITH_PARENT, signal.SIGTERM)
        _forget_descriptors({control.fileno(), *(pipe.fileno() for pipe in pipes)})
        workers = {}
        for index, pipe in enumerate(pipes):
            pid = fork()
            if pid == 0:
                _work(service, pipe, os.getppid())
            workers[pid] = index
        for pipe in pipes:
            pipe.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if os.getppid() == parent:
            _watch(workers, control)
        code = 0
    finally:
        _leave(code)


def _watch(workers: dict[int, int], control: Any) -> None:
    """Watches the workers until the parent closes its end of the pipe."""
    while True:
        handles = [os.pidfd_open(pid) for pid in workers] if hasattr(os, "pidfd_open") else []
        try:
            ready: list[Any] = multiprocessing.connection.wait([control, *handles], LOOK_SECONDS)
        finally:
            for handle in handles:
                os.close(handle)
        if control in ready:
            return
        for pid, code in _ended():
            if pid in workers:
                control.send((workers.pop(pid), code))


def _ended() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return found


def _leave(code: int = 0) -> NoReturn:
    """End every process below this one, those among them that left their group or were left by their parents."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BaseException):
        while True:
            for pid in _children():
                for end in (os.killpg, os.kill):
                    with contextlib.suppress(OSError):
                        end(pid, signal.SIGKILL)
            os.waitpid(-1, 0)  # ChildProcessError: none is left
    os._exit(code)


def _children() -> list[int]:
    """The child processes of this process."""
    own, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    text = file.read()
                if int(text[text.rindex(")") + 2 :].split()[1]) == own:
                    found.append(int(name))
    return found


def _forget_descriptors(kept: set[int]) -> None:
    """Others than the standard ones and those kept: locks and files of the parent, which a process that is left behind
    would hold. Their numbers stay taken, so that nobody who still believes in one closes or writes another's."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for number in map(int, os.listdir(folder)):
        if number > 2 and number not in kept and number != null:
            with contextlib.suppress(OSError):
                os.fstat(number)
                os.dup2(null, number, inheritable=False)


def _work(service: Service, pipe: Any, parent: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if os.getppid() == parent:
            _forget_descriptors({pipe.fileno()})
            limit_memory(service.memory_bytes)
            if "torch" in sys.modules:
                # The thread pool does not survive a fork: a product on more than one thread would wait for ever.
                sys.modules["torch"].set_num_threads(1)
            _serve(service, pipe)
        code = 0
    except BrokenPipeError:  # nobody listens any more
        code = 0
    finally:
        os._exit(code)


def _serve(service: Service, pipe: Any) -> None:
    try:
        function = service.load()
    except WorkbenchError as error:
        pipe.send((error, None))
        return
    pipe.send((None, None))
    while True:
        try:
            index, samples = pipe.recv()
        except EOFError:
            return
        state = samples[0].state
        _seed(f"{state.global_step if state else 0} {index}")
        try:
            answer: tuple[Any, str | None] = (judge(service.name, function, samples), None)
        except WorkbenchError as error:
            answer = (None, str(error))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the function may have closed it
                stream.flush()
        pipe.send(answer)


def _seed(text: str) -> None:
    """Seeds all generators by the task, so that the same task draws the same numbers, also after a resume."""
    random.seed(text)
    number = random.getrandbits(31)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def limit_memory(memory_bytes: int | None) -> None:
    """Limits the memory that this process may take beyond what it has taken."""
    if memory_bytes is not None and os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, resource.RLIM_INFINITY))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)
