"""Which launcher trains the runs: the one that the command line names, else that of this machine's own file."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from workbench.errors import DefinitionError
from workbench.experiment.definition.source import show
from workbench.experiment.running.launchers.launcher import Launcher
from workbench.experiment.running.launchers.local import LocalLauncher

VARIABLE = "WORKBENCH_MACHINE"
FILE = "~/.config/workbench/machine.yaml"
LAUNCHERS = {"local": LocalLauncher}


def choose_launcher(named: str | None, jobs: int) -> Launcher:
    """The launcher of that name; None takes the machine's. jobs: runs side by side, where it decides that. Raises
    DefinitionError for one that there is not, before anything is made."""
    name, place = (named, "command line: LAUNCHER") if named is not None else _of_machine()
    if name not in LAUNCHERS:
        raise DefinitionError(f"{place}: found {show(name)}, allowed {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name](jobs)


def _of_machine() -> tuple[str, str]:
    """What the file of the user's own machine says, and where; no result depends on it."""
    path = Path(os.environ.get(VARIABLE) or FILE).expanduser()
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if VARIABLE in os.environ:
            raise DefinitionError(f"{VARIABLE}: {path} is not there, allowed a file that is") from None
        return "local", FILE
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DefinitionError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); allowed launcher: NAME"
        ) from None
    unknown = sorted(map(str, said.keys() - {"launcher"})) if isinstance(said, dict) else ["no mapping"]
    if unknown:
        raise DefinitionError(f"{path}: found {show(unknown[0])}, allowed launcher: NAME and nothing else")
    return str(said.get("launcher", "local")), f"{path}: launcher"
