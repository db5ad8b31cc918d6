"""The process in which chat templates are rendered: started where one is needed, ended where a template spends too
much in it."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SANDBOX = Path(__file__).with_name("sandbox.py")
MAX_SECONDS = 5.0
"""Seconds that one rendering may take."""
MAX_MEGABYTES = 512
"""Megabytes that the whole process may take, which takes 50 itself."""


class TemplateRefusal(ValueError):
    """What a template says to turns that it does not take."""


class TemplateFailure(ValueError):
    """What goes wrong in a template: in all renderings, or in that of these turns."""


class TemplateOverspent(TemplateFailure):
    """A template that takes too long, or too much memory."""


@dataclass(frozen=True)
class Rendering:
    """marks: (start, end) of what the template marks as the assistant's own. dated: it wrote the date."""

    text: str
    marks: tuple[tuple[int, int], ...]
    dated: bool


def render_template(template: str, variables: dict[str, Any]) -> Rendering:
    """Raises TemplateRefusal, TemplateFailure."""
    request = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
    with _lock:
        line = _ask(request)
        # A process that was asked nothing for long has ended by itself, without fault.
        if line is None and close() == 0:
            line = _ask(request)
            if line is None:
                close()
    if line is None:
        raise TemplateOverspent(f"it runs for more than {MAX_SECONDS:g} seconds, or ends the process that it runs in")
    answer = json.loads(line)
    if "refused" in answer:
        raise TemplateRefusal(answer["refused"])
    if "overspent" in answer:
        raise TemplateOverspent(answer["overspent"])
    if "failed" in answer:
        raise TemplateFailure(answer["failed"])
    return Rendering(answer["text"], tuple((start, end) for start, end in answer["marks"]), answer["dated"])


_lock = threading.Lock()
_processes: dict[int, subprocess.Popen[bytes]] = {}
"""One for each process that renders: a fork does not share its parent's."""


def _ask(request: bytes) -> bytes | None:
    """The answer's line; None where the process ended without one."""
    process = _processes.get(os.getpid())
    if process is None:
        process = _processes[os.getpid()] = _start()
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    try:
        process.stdin.write(request)
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    except BaseException:  # an interrupt: its answer is never taken for that to another question
        process.kill()
        close()
        raise
    return line if line.endswith(b"\n") else None


def _start() -> subprocess.Popen[bytes]:
    # Where jinja and what it rests on are; besides, the process is given nothing of this one: no environment, no
    # folder, no terminal.
    specs = [importlib.util.find_spec(package) for package in ("jinja2", "markupsafe")]
    packages = list(dict.fromkeys(str(Path(str(spec.origin)).parents[1]) for spec in specs if spec is not None))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, str(SANDBOX), str(MAX_SECONDS), str(MAX_MEGABYTES), *packages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )


_BOOT = (
    "import runpy, sys; sys.path += sys.argv[4:]; sys.argv = sys.argv[1:4]; "
    "runpy.run_path(sys.argv[0], None, '__main__')"
)


@atexit.register
def close() -> int:
    """End the process, if there is one; its exit code."""
    process = _processes.pop(os.getpid(), None)
    if process is None:
        return 0
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()  # at which it ends, unless it is in the middle of a rendering
    process.stdout.close()
    return process.wait()


os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]
