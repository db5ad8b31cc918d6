"""plan.json: what an experiment consists of, so that a report also tells of runs that nobody made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.disk import make_folder
from workbench.errors import DefinitionError
from workbench.experiment.definition.overrides import join_settings
from workbench.experiment.definition.schema import Experiment, Search, dump
from workbench.experiment.definition.source import show
from workbench.experiment.running.run_folder import write_json
from workbench.redaction import redact
from workbench.tracking.reader import read_json, read_sealed, sealed
from workbench.tracking.terminal import visible


def write_plan(
    experiment: Experiment, runs: Path, notes: list[str], failures: Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Write runs/<experiment>/plan.json. failures: state and message by key of runs that have no folder to say so.
    Raises StorageError when the disk fails."""
    starts = dict.fromkeys(key for run in experiment.runs for key in run.needs)
    plan = redact(_plan(experiment, list(starts), notes))
    for run in [*plan["runs"], *plan["starts"]]:
        if run["folder"] in (failures or {}):
            run["state"], run["message"] = redact((failures or {})[run["folder"]])
    path = plan_path(experiment, runs)
    if read_json(path) != (plan := sealed(plan)):  # its time says when the plan changed
        make_folder(path.parent)
        write_json(path, plan)


def _plan(experiment: Experiment, starts: list[str], notes: list[str]) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "question": experiment.question,
        "command": command_of(experiment),
        "definition": experiment.definition,
        "overrides": list(experiment.overrides),
        "definition_file": experiment.file,
        "axes": [{"name": name, "values": list(values)} for name, values in experiment.axes.items()],
        "arms": list(experiment.arms),
        **({"search": _search(experiment.search)} if experiment.search is not None else {}),
        "runs": [_run(run) for run in experiment.runs],
        "starts": [{"folder": key} for key in starts],
        "notes": [*experiment_notes(experiment), *notes],
    }


def failures_of(experiment: Experiment, runs: Path) -> dict[str, tuple[str, str]]:
    """What the last command wrote of runs that failed before they had a folder: state and message by key."""
    plan = read_sealed(plan_path(experiment, runs)) or {}
    entries = [*plan.get("runs", []), *plan.get("starts", [])]
    return {run["folder"]: (str(run["state"]), str(run.get("message"))) for run in entries if "state" in run}


def plan_path(experiment: Experiment, runs: Path) -> Path:
    """The path of the plan's file."""
    return runs / experiment.name / "plan.json"


def as_planned(name: str, runs: Path) -> tuple[str, list[str]]:
    """The definition and the overrides that a name stands for: NAME+overrides is the folder of an experiment that was
    run with them, and its plan holds what they were. Raises DefinitionError where no such plan is there."""
    if "+" not in name or "/" in name:
        return name, []
    plan = read_sealed(runs / name / "plan.json") or {}
    definition, overrides = plan.get("definition"), plan.get("overrides")
    if not isinstance(definition, str) or not isinstance(overrides, list):
        raise DefinitionError(
            f"command line: NAME: found {show(name)}, of which {runs} holds no plan, allowed NAME={name.split('+')[0]} "
            "and its overrides: SET=..."
        )
    return definition, [str(override) for override in overrides]


def command_of(experiment: Experiment) -> str:
    """The command that makes the experiment, quoted for a shell; make hands on what it is given as it is."""
    overrides = join_settings(experiment.overrides)
    command = f"make exp NAME={experiment.definition}"
    return f"{command} SET={_quoted(overrides)}" if overrides else command


def _quoted(text: str) -> str:
    """Writes a text as one word of a shell, on one line and without a character that acts on a terminal."""
    if visible(text) == text and text.isprintable():
        return shlex.quote(text)
    shown = "".join(c if c.isprintable() and c not in "\\'" else _as_escape(c) for c in text)
    return f"$'{shown}'"


def _as_escape(character: str) -> str:
    return f"\\{character}" if character in "\\'" else f"\\U{ord(character):08x}"


def experiment_notes(experiment: Experiment) -> list[str]:
    """The comments at the head of the definition file: what its author wanted readers to know."""
    lines = []
    for line in experiment.text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# yaml-language-server"):
            lines.append(line.lstrip("# ").strip())
    text = " ".join(line for line in lines if line)
    return [text] if text else []


def _run(run: Any) -> dict[str, Any]:
    return {
        "variant": run.variant,
        "arm": run.arm,
        "seed": run.seed,
        "point": dict(run.point),
        "folder": run.folder,
        "trainer": run.trainer,
    }


def _search(search: Search) -> dict[str, Any]:
    """What a report must know of a search: runs of its fresh seeds confirm, all others are of trials."""
    return {
        **dump(search.settings),
        "spaces": [
            {"arm": arm, "space": {name: dimension.said for name, dimension in space.items()}}
            for arm, space in search.spaces.items()
        ],
        "fresh_seeds": list(search.fresh_seeds),
        "complete": search.chosen.complete,
    }
