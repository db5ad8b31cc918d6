"""How the runs of an experiment stand, as text."""

from __future__ import annotations

from pathlib import Path

from workbench.experiment.definition.schema import Experiment
from workbench.experiment.planning.plan_file import failures_of
from workbench.experiment.running.run_folder import FINISHED, RunFolder
from workbench.locks import is_held
from workbench.tracking.durations import format_duration
from workbench.tracking.names import EXACT_MATCH_SAMPLED, HELD_OUT_LOSS, KL_START, PAIR_ACCURACY
from workbench.tracking.reader import WARNINGS, read_rows

MAX_WARNINGS = 3
"""Notes of a run that are told with it."""


def status_text(experiment: Experiment, runs: Path) -> str:
    """One line a run: state, step, newest held-out metrics and reward, time; those it begins from first."""
    specs = {**experiment.ancestors, **{run.key: run for run in experiment.runs}}
    wide = max(map(len, specs))
    failures = failures_of(experiment, runs)
    lines = []
    for key in specs:
        folder = RunFolder(runs, key)
        status = folder.status()
        if not status:
            state, message = failures.get(key, ("not started", ""))
            lines.append(f"{key:{wide}}  {state:11}  {message}".rstrip())
            continue
        rows = read_rows(folder.path / "metrics.jsonl")
        step = rows[-1].get("step", 0) if rows else 0
        held_out: dict[str, float] = {}
        for row in rows:
            held_out |= {name: value for name, value in row.items() if name.startswith("eval/") and value is not None}
        shown = [
            f"{name.removeprefix('eval/')} {held_out[name]:.3g}"
            for name in (EXACT_MATCH_SAMPLED, PAIR_ACCURACY, KL_START, HELD_OUT_LOSS)
            if name in held_out
        ]
        rewards = [row["reward"] for row in rows if row.get("reward") is not None]
        shown += [f"reward {rewards[-1]:.3g}"] if rewards else []
        seconds = status.get("seconds")
        state = status.get("state", "unknown")
        if state == "running" and not is_held(runs, key):
            state = "died"  # it could not say so: its power failed, or its disk took not even that
        parts = [f"step {step}", *shown, format_duration(seconds) if seconds else "", str(status.get("message") or "")]
        if status.get("scored"):
            parts.append(str(status["scored"]["note"]))
        harms = (status.get("harms") or []) if status.get("state") == FINISHED else []
        warned = [row for row in read_rows(folder.path / WARNINGS) if row.get("warning") not in harms]
        if key in failures:
            parts.append(f"as it is defined now it failed: {failures[key][1]}")
        lines.append(f"{key:{wide}}  {state:11}  {'  '.join(part for part in parts if part)}")
        lines += [f"{'':{wide}}  {'':11}  ended badly: {harm}" for harm in harms]
        lines += [
            f"{'':{wide}}  {'':11}  warning: step {row.get('step')}: {row.get('warning')}"
            for row in warned[:MAX_WARNINGS]
        ]
        if len(warned) > MAX_WARNINGS:
            lines.append(f"{'':{wide}}  {'':11}  {len(warned) - MAX_WARNINGS} further warnings stand in {WARNINGS}")
    return "\n".join(lines)
