"""How the runs of an experiment stand, as plain data and as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.experiment.definition.schema import Experiment
from workbench.experiment.planning.plan_file import failures_of
from workbench.experiment.running.run_folder import FINISHED, RunFolder
from workbench.locks import is_held
from workbench.tracking.durations import format_duration
from workbench.tracking.names import EXACT_MATCH_SAMPLED, HELD_OUT_LOSS, KL_START, PAIR_ACCURACY
from workbench.tracking.reader import WARNINGS, read_rows

MAX_WARNINGS = 3
"""Notes of a run that are told with it."""
SHOWN = (EXACT_MATCH_SAMPLED, PAIR_ACCURACY, KL_START, HELD_OUT_LOSS)


def standings(experiment: Experiment, runs: Path) -> list[dict[str, Any]]:
    """One JSON object a run, those it begins from first: its state, step, newest held-out metrics and reward, seconds,
    warnings, and what it ended badly with. The names are kept, for programs read them."""
    failures = failures_of(experiment, runs)
    keys = dict.fromkeys([*experiment.ancestors, *(run.key for run in experiment.runs)])
    return [_standing(key, runs, failures.get(key)) for key in keys]


def _standing(key: str, runs: Path, failure: tuple[str, str] | None) -> dict[str, Any]:
    folder = RunFolder(runs, key)
    status = folder.status()
    if not status:
        state, message = failure or ("not started", "")
        return {"run": key, "state": state, "message": message}
    rows = read_rows(folder.path / "metrics.jsonl")
    held_out: dict[str, float] = {}
    for row in rows:
        held_out |= {name: value for name, value in row.items() if name.startswith("eval/") and value is not None}
    rewards = [row["reward"] for row in rows if row.get("reward") is not None]
    state = status.get("state", "unknown")
    if state == "running" and not is_held(runs, key):
        state = "died"  # it could not say so: its power failed, or its disk took not even that
    harms = (status.get("harms") or []) if status.get("state") == FINISHED else []
    warned = [row for row in read_rows(folder.path / WARNINGS) if row.get("warning") not in harms]
    return {
        "run": key,
        "state": state,
        "message": str(status.get("message") or ""),
        "step": rows[-1].get("step", 0) if rows else 0,
        "num_steps": status.get("num_steps"),
        "metrics": held_out | ({"reward": rewards[-1]} if rewards else {}),
        "seconds": status.get("seconds"),
        "exit_code": status.get("exit_code"),
        "scored": str(status["scored"]["note"]) if status.get("scored") else None,
        "failed_now": failure[1] if failure else None,
        "harms": list(harms),
        "warnings": [{"step": row.get("step"), "warning": row.get("warning")} for row in warned],
    }


def status_text(found: list[dict[str, Any]]) -> str:
    """What `standings` found, one line a run, and its warnings below it."""
    wide = max(len(each["run"]) for each in found)
    return "\n".join(line for each in found for line in _lines(each, wide))


def _lines(run: dict[str, Any], wide: int) -> list[str]:
    key, state = run["run"], run["state"]
    if "step" not in run:
        return [f"{key:{wide}}  {state:11}  {run['message']}".rstrip()]
    metrics, below = run["metrics"], f"{'':{wide}}  {'':11}"
    shown = [f"{name.removeprefix('eval/')} {metrics[name]:.3g}" for name in SHOWN if name in metrics]
    shown += [f"reward {metrics['reward']:.3g}"] if "reward" in metrics else []
    seconds = format_duration(run["seconds"]) if run["seconds"] else ""
    now = f"as it is defined now it failed: {run['failed_now']}" if run["failed_now"] is not None else ""
    parts = [f"step {run['step']}", *shown, seconds, run["message"], run["scored"] or "", now]
    lines = [f"{key:{wide}}  {state:11}  {'  '.join(part for part in parts if part)}"]
    lines += [f"{below}  ended badly: {harm}" for harm in run["harms"]]
    warned = run["warnings"]
    lines += [f"{below}  warning: step {each['step']}: {each['warning']}" for each in warned[:MAX_WARNINGS]]
    if len(warned) > MAX_WARNINGS:
        lines.append(f"{below}  {len(warned) - MAX_WARNINGS} further warnings stand in {WARNINGS}")
    return lines
