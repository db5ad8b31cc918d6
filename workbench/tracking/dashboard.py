"""TensorBoard over a folder of runs, reachable from this machine alone."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.tracking.reader import find_runs, read_run
from workbench.tracking.sinks.replay import tracked
from workbench.tracking.terminal import say
from workbench.tracking.words import plural

HOST = "127.0.0.1"
FIRST_PORT = 6006
TEXTS_KEPT = 200
"""How many steps of each tag keep their completions readable; TensorBoard's own number is 10."""


def show(runs: Path, port: int | None = None) -> None:
    """Become TensorBoard, until it is interrupted. Raises WorkbenchError where the port is taken or `runs` is no
    folder.

    port: TensorBoard's own, 6006, by default. The first line says the address; TensorBoard repeats it once it answers.
    """
    if runs.exists() and not runs.is_dir():
        raise WorkbenchError(f"{runs}: found a file, allowed a folder of runs; name it with RUNS=folder")
    port = port or FIRST_PORT
    refuse_busy(port)
    say(f"http://{HOST}:{port}/  {in_words(runs)}")
    command = tensorboard_command(runs, port)
    os.execv(command[0], command)


def tensorboard_command(runs: Path, port: int) -> list[str]:
    """The program and its arguments."""
    options = ["--logdir", str(runs), "--host", HOST, "--port", str(port), "--samples_per_plugin", f"text={TEXTS_KEPT}"]
    return [str(Path(sys.executable).with_name("tensorboard")), *options]


def refuse_busy(port: int) -> None:
    """Raises WorkbenchError where TensorBoard could not listen. TensorBoard itself says so only after seconds, among
    warnings."""
    with socket.socket() as probe:
        # TensorBoard's server takes a port whose last connections are still closing as free, and so does this.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OverflowError:
            raise WorkbenchError(f"port: found {port}, allowed 1 to 65535") from None
        except OSError as error:
            raise WorkbenchError(
                f"port {port}: {error.strerror}; another dashboard may be at http://{HOST}:{port}/. "
                f"`make dashboard PORT={free_port()}` takes one that is free"
            ) from error


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def in_words(runs: Path) -> str:
    """What there is to see below a folder of runs."""
    found = find_runs(runs)
    shown = sum(any((run / "tensorboard").glob("*.tfevents.*")) for run in found)
    if not found:
        return f"no runs below {runs} yet: `make exp NAME=...` makes some, and they appear here as they train"
    if shown == len(found):
        return f"{plural(shown, 'run')} below {runs}"
    without = [run for run in found if not any((run / "tensorboard").glob("*.tfevents.*"))]
    asked = [run for run in without if "tensorboard" in tracked(read_run(run))]
    told = [f"{len(without)} of {plural(len(found), 'run')} below {runs} have no event files"]
    if asked:
        name = asked[0].relative_to(runs).parts[0]
        told.append(f"{len(asked)} of them ask for them: `make exp NAME={shlex.quote(name)}` writes what is missing")
    if len(asked) < len(without):
        told.append(f"{len(without) - len(asked)} do not: `track: [tensorboard]` in a definition asks for them")
    return "; ".join(told)
