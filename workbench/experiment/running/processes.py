"""Work in processes forked from this warm one: torch is loaded once, and each process gets its own threads.

This process must stay free of torch's thread pool (it never computes on more than one thread) and of CUDA: neither
survives a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import RankError, WorkbenchError
from workbench.experiment.running.run_log import LOG_SECONDS, write_log
from workbench.interrupts import SIGNALS, handled_by, held, interrupt_behind, let_in, raise_interrupt
from workbench.processor import num_cores
from workbench.redaction import redact

Item = TypeVar("Item")
State = TypeVar("State")
Result = TypeVar("Result")

_FORK = multiprocessing.get_context("fork")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_KEEP_FREED_MEMORY = ((-3, 32 << 20), (-1, 512 << 20))  # mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
BUG_EXIT_CODE = 1
REMEDY = "the same command goes on (a system that is short of memory kills by SIGKILL: JOBS=1 takes less)"


def set_environment() -> None:
    """What libraries read once, when they are loaded: call it before anything imports torch."""
    # Threads that wait for work must not take the core of a process beside them.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Asking whether there is a GPU must not start CUDA, which no fork survives.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # On a GPU, memory that rows of another length have freed in pieces can be had as a whole.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def warm_up() -> None:
    """Load what every forked process needs, once, on one thread."""
    import safetensors.torch  # noqa: F401
    import torch
    import torch._dynamo

    torch.set_num_threads(1)


def fork_map(
    setup: Callable[[], State],
    work: Callable[[State, Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    threads: int,
    on_result: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """[work(setup(), item) for item in items], in `jobs` processes; setup runs once in each. A WorkbenchError is
    raised here as it was there; RankError where a process ends without having said anything. on_result: called with
    each result as it comes, in no order."""
    results: list[Any] = [None] * len(items)
    missing = len(items)
    workers = max(1, min(jobs, len(items)))
    pipes: dict[Any, Any] = {}  # each worker by the end of its pipe
    try:
        with held():
            for worker in range(workers):
                receiver, sender = _FORK.Pipe(duplex=False)
                process = _FORK.Process(target=_serve, args=(setup, work, items, worker, workers, threads, sender))
                process.start()
                sender.close()
                pipes[receiver] = process
        while pipes:
            ready: list[Any] = multiprocessing.connection.wait(list(pipes))
            for receiver in ready:
                try:
                    index, value, error = receiver.recv()
                except EOFError:
                    process = pipes.pop(receiver)
                    process.join()
                    if process.exitcode:
                        raise RankError(f"a worker process {describe_exit(process.exitcode)}; {REMEDY}") from None
                    continue
                if error is not None:
                    raise error
                results[index] = value
                missing -= 1
                on_result(value)
        if missing:  # an exit code says nothing of what was done
            raise RankError(f"worker processes ended with exit code 0 and left {missing} of {len(items)} undone")
    finally:
        for process in pipes.values():
            process.kill()
            process.join()
    return results


def _serve(
    setup: Callable, work: Callable, items: Sequence, worker: int, workers: int, threads: int, sender: Any
) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _become_worker(threads)
    try:
        state = setup()
        for index in range(worker, len(items), workers):
            sender.send((index, work(state, items[index]), None))
    except WorkbenchError as error:
        sender.send((-1, None, error))
    except Exception:
        sender.send((-1, None, RuntimeError(traceback.format_exc())))
    finally:
        sender.close()


class RunProcess:
    """One run in a process of its own, its output in log.txt."""

    def __init__(self, target: Callable[[], None], threads: int, log: Path) -> None:
        """target: raises a WorkbenchError for what it says in its own status; anything else is our bug."""
        self.log = log
        with held():
            reader, writer = os.pipe()
            self._process = _FORK.Process(target=_run, args=(target, threads, (reader, writer)))
            self._process.start()
            self._log_writer = _FORK.Process(target=write_log, args=(log, reader, writer, self.pid))
            self._log_writer.start()
            os.close(reader)
            os.close(writer)

    @property
    def sentinel(self) -> int:
        """Ready for multiprocessing.connection.wait when the process has ended."""
        return self._process.sentinel

    @property
    def pid(self) -> int:
        """The number that the system gives the process."""
        return self._process.pid or 0

    def exit_code(self) -> int | None:
        """None while it runs; 128 + n where signal n killed it."""
        code = self._process.exitcode
        return 128 - code if code is not None and code < 0 else code

    def send(self, number: int) -> None:
        """Pass a signal on."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, and for that of its log."""
        self._process.join(timeout)
        if not self._process.is_alive():
            self._log_writer.join(LOG_SECONDS)
            if self._log_writer.is_alive():  # a disk that hangs
                self._log_writer.kill()
                self._log_writer.join()


def _run(target: Callable[[], None], threads: int, log: tuple[int, int]) -> None:
    code = 0
    try:
        with handled_by(raise_interrupt):
            _become_worker(threads)
            _write_to(*log)
            target()
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except BaseException as error:  # the traceback belongs in the log, not on the user's screen
        request = interrupt_behind(error)
        code = 128 + request.signal_number if request else BUG_EXIT_CODE
        if not request:
            traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _write_to(reader: int, writer: int) -> None:
    """All that this process prints, and what its libraries and child processes print."""
    os.close(reader)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stdout = sys.stderr = io.TextIOWrapper(_Printed(2, "w", closefd=False), encoding="utf-8", write_through=True)


class _Printed(io.FileIO):
    """A run's output without the secrets of this process, whose environment may have changed. A run does not end for a
    line of its log."""

    def write(self, data: Any, /) -> int:
        told = redact(bytes(data).decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        with contextlib.suppress(OSError):
            super().write(told)
        return len(data)


def _become_worker(threads: int) -> None:
    """A session of its own, so that Ctrl-C reaches it only through its parent; its end follows its parent's. It has
    said what it does with signals, and from here on they come."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it died before it could be said
            os._exit(128 + signal.SIGTERM)
    work_alone(threads)
    let_in()


def work_alone(threads: int) -> None:
    """Make this process, forked or not, one that computes on so many threads."""
    # What came with a fork is never garbage, and counting it would copy its pages.
    gc.freeze()
    gc.enable()
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        # glibc gives large blocks back to the kernel at once, and every step would fault them in again (15 % of one).
        for option, value in _KEEP_FREED_MEMORY if hasattr(library, "mallopt") else ():
            library.mallopt(option, value)
    import torch

    torch.set_num_threads(threads)


def describe_exit(code: int) -> str:
    """How a process ended, by the exit code that multiprocessing gives it: -n where signal n killed it."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def default_jobs(threads: int) -> int:
    """Runs side by side: cores / threads on a CPU, one on a GPU."""
    import torch

    if torch.cuda.is_available():
        return 1
    return max(1, num_cores() // threads)
