"""What an experiment would do: each run's state, and why; nothing is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.config import MAX_PART_BYTES, MAX_PATH_BYTES
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.experiment.identity import Identity, identify
from workbench.experiment.named_models import refuse_misnamed
from workbench.experiment.planning.changes import change_of
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.running.scored import DECIDES, Trained, find_trained, only_measures_differ, points_text
from workbench.own_code import own_hash

State = Literal["cached", "new", "resumes", "changed", "kept", "scored", "waits", "broken", "paused"]
OTHER_CODE = "made by other code"
DEEPEST = 400
"""Bytes of the longest path that anything writes below a run's folder: W&B's tables of completions."""
DESCRIPTIONS: dict[State, str] = {
    "cached": "finished",
    "new": "to be trained",
    "resumes": "goes on from its last checkpoint",
    "changed": "changed since it was made",
    "kept": "made before, to be taken back",
    "scored": "to be scored again",
    "waits": "depends on a run that is trained first",
    "broken": "cannot run",
    "paused": "left where its search judged it",
}


@dataclass(frozen=True)
class PlannedRun:
    """One run as it stands. reason: why it is not cached, or what is notable about it."""

    spec: RunSpec
    state: State
    identity: Identity
    precision: str
    reason: str = ""
    trained: Trained | None = None
    """What is scored again; None where nothing is."""
    kept: RunFolder | None = None
    """What is taken back; None where nothing is."""

    @property
    def must_run(self) -> bool:
        """Whether it is not there yet."""
        return self.state not in ("cached", "paused")

    @property
    def trains(self) -> bool:
        """Whether there is anything to train, and so time and room to be needed."""
        return self.state not in ("cached", "paused", "kept", "scored")

    @property
    def made_model(self) -> RunFolder | None:
        """The folder whose model a run that begins from it will find in its place; None where that is made first."""
        return self.trained.folder if self.trained is not None else self.kept


def recorded_precisions(specs: Iterable[RunSpec], runs: Path) -> dict[str, str]:
    """Precisions by run key, without loading a model: only a run that was made has resolved "fastest", and what it
    found then is what it would find now."""
    found = {}
    for spec in specs:
        wanted = spec.hyperparameters.precision
        recorded = RunFolder(runs, spec.key).status().get("precision") if wanted == "fastest" else None
        found[spec.key] = recorded or wanted
    return found


def plan_runs(
    specs: Iterable[RunSpec],
    runs: Path,
    precisions: Mapping[str, str],
    *,
    fresh: frozenset[str] = frozenset(),
    commit: str | None = None,
) -> list[PlannedRun]:
    """Every run in its order. precisions: the resolved one by run key. fresh: keys that are to be trained anew."""
    specs = list(specs)
    by_key = {spec.key: spec for spec in specs}
    planned: list[PlannedRun] = []
    remade: set[str] = set()
    coming: dict[str, RunFolder] = {}
    for spec in specs:
        misnamed = _misnamed(spec, by_key)
        if misnamed is not None:
            planned.append(PlannedRun(spec, "broken", Identity(None), precisions[spec.key], misnamed))
            continue
        run = _plan_run(spec, runs, precisions[spec.key], (frozenset(remade), coming), spec.key in fresh, commit)
        if run.made_model is not None:
            coming[spec.key] = run.made_model
        elif run.must_run:
            remade.add(spec.key)
        planned.append(run)
    return planned


def _misnamed(spec: RunSpec, specs: Mapping[str, RunSpec]) -> str | None:
    try:
        refuse_misnamed(spec, specs)
    except WorkbenchError as error:
        return str(error)
    return None


def _plan_run(
    spec: RunSpec,
    runs: Path,
    precision: str,
    before: tuple[frozenset[str], Mapping[str, RunFolder]],
    fresh: bool,
    commit: str | None,
) -> PlannedRun:
    """before: of those that it may begin from, which are made anew, and which another folder takes the place of."""
    if too_long := path_too_long(runs / spec.key):
        return PlannedRun(spec, "broken", Identity(None), precision, too_long)
    try:
        identity = identify(spec, runs, precision, remade=before[0], coming=before[1])
    except WorkbenchError as error:
        return PlannedRun(spec, "broken", Identity(None), precision, str(error))
    folder = RunFolder(runs, spec.key)
    status = folder.status()
    if identity.fields is None:
        return PlannedRun(spec, "waits", identity, precision, f"{identity.waits_for} is made first")
    kept = folder.superseded_as(identity.fingerprint) if not fresh else None
    if kept is not None and status.get("fingerprint") != identity.fingerprint:
        moved = RunFolder(kept.parent, kept.name)
        return PlannedRun(spec, "kept", identity, precision, f"from {kept}", kept=moved)
    stands = status.get("fingerprint") == identity.fingerprint
    trained = find_trained(spec, identity, runs) if not fresh and not stands else None
    if trained is not None:
        change = change_of(trained.folder, spec, identity.fields)
        return PlannedRun(spec, "scored", identity, precision, f"{change}; {points_text(trained.points)}", trained)
    if not status and (folder.path / "checkpoints").exists():
        return PlannedRun(spec, "changed", identity, precision, "its status.json, which says of what it is, is damaged")
    if not status:
        return PlannedRun(spec, "new", identity, precision)
    if fresh:
        return PlannedRun(spec, "changed", identity, precision, "trained anew as asked")
    if status.get("fingerprint") != identity.fingerprint:
        reason = change_of(folder, spec, identity.fields)
        decides = spec.hyperparameters.early_stopping is not None and folder.is_finished()
        if decides and only_measures_differ(status.get("identity"), identity.fields, spec):
            reason += f"; {DECIDES}"
        return PlannedRun(spec, "changed", identity, precision, reason)
    if folder.is_paused(spec.pause):
        return PlannedRun(spec, "paused", identity, precision, f"step {status.get('step')}")
    if not folder.is_finished():
        checkpoints = sorted((folder.path / "checkpoints").glob("step_*[0-9]"))
        where = f"step {int(checkpoints[-1].name.removeprefix('step_'))}" if checkpoints else "the beginning"
        reason = f"from {where} ({status.get('state', 'unfinished')})"
        if checkpoints and status.get("code") not in (None, own_hash()):
            reason += "; refused as it stands, for the workbench's code is another now: FRESH=1, or INEXACT=1 marks it"
            reason += " where this code reads its checkpoints"
        return PlannedRun(spec, "resumes", identity, precision, reason)
    other = status.get("commit") not in (None, commit) and commit is not None
    notes = [f"{OTHER_CODE}, commit {str(status['commit'])[:10]}; FRESH=1 trains it anew"] if other else []
    scored = status.get("scored") or {}
    notes += [str(scored["note"])] if scored.get("missing") else []
    return PlannedRun(spec, "cached", identity, precision, "; ".join(notes))


def path_too_long(folder: Path) -> str:
    """Why a run's folder cannot be made, or has no room for its files' paths; nothing where it can."""
    path = os.fsencode(folder.absolute())
    for part in path.split(b"/"):
        if len(part) > MAX_PART_BYTES:
            return f"{os.fsdecode(part[:40])}...: a name of {len(part)} bytes, allowed {MAX_PART_BYTES}; shorten it"
    if len(path) > MAX_PATH_BYTES - DEEPEST:
        allowed = MAX_PATH_BYTES - DEEPEST
        return f"{os.fsdecode(path[:40])}...: a path of {len(path)} bytes, allowed {allowed}; choose RUNS=folder"
    return ""


def waves(experiment: Experiment) -> list[list[RunSpec]]:
    """All runs, those that are begun from first: each wave needs only earlier ones, and what is there already."""
    specs = {**experiment.ancestors, **{run.key: run for run in experiment.runs}}
    depth: dict[str, int] = {}

    def depth_of(key: str) -> int:
        if key not in depth:
            depth[key] = 1 + max((depth_of(need) for need in specs[key].needs if need in specs), default=-1)
        return depth[key]

    ordered: list[list[RunSpec]] = [[] for _ in range(1 + max(map(depth_of, specs), default=-1))]
    for key, spec in specs.items():
        ordered[depth[key]].append(spec)
    return ordered
