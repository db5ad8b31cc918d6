"""log.txt of a run, written by a process of its own that reads all that the run prints, child processes included.

It outlives the run, also one that is killed, until all that was printed is written; and it ends with it, also where a
process that was left behind still holds the other end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from workbench.redaction import redact

LOG_SECONDS = 5.0
"""How long the end of a run waits for its log."""
LOOK_SECONDS = 0.2
LONGEST_LINE = 1 << 16
"""Bytes that are held back until their line ends; of a longer one, KEPT are."""
KEPT = 1 << 12


def write_log(log: Path, reader: int, writer: int, pid: int) -> None:
    """Copy what comes to the file without secrets, until nobody writes any more or the run's process has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    os.setsid()
    os.close(writer)
    descriptor = _open_log(log)
    os.set_blocking(reader, False)
    rest, until = b"", None
    while True:
        if until is None and _has_ended(pid):
            until = time.monotonic() + LOG_SECONDS / 2  # of a process left behind that never stops printing
        readable, _, _ = select.select([reader], [], [], 0.0 if until is not None else LOOK_SECONDS)
        data = os.read(reader, LONGEST_LINE) if readable else None
        if data:
            rest = _write(descriptor, rest + data)
        if data == b"" or (until is not None and (data is None or time.monotonic() > until)):
            break
    _write(descriptor, rest, all_of_it=True)
    os._exit(0)


def _has_ended(pid: int) -> bool:
    """Whether the process has ended, even if nobody has asked for its exit code yet."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
        return text[text.rindex(")") + 2] in "ZX"
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return True
    return False


def _write(descriptor: int, data: bytes, *, all_of_it: bool = False) -> bytes:
    """Whole lines, for a secret may come in pieces; what is left. What a full disk does not take is lost."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if all_of_it:
        end = len(data)
    elif not end and len(data) > LONGEST_LINE:
        end = len(data) - KEPT
    text = redact(data[:end].decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    with contextlib.suppress(OSError):
        while text:
            text = text[os.write(descriptor, text) :]
    return data[end:]


def _open_log(log: Path) -> int:
    """Opens the log. Where the disk takes none, the run itself says so, in its status and exit code."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def last_line(log: Path) -> str:
    """The last whole line of a log; empty where there is none."""
    try:
        return next(reversed(log.read_text(encoding="utf-8", errors="replace").split("\n")[-9:-1]), "").strip()
    except OSError:
        return ""
