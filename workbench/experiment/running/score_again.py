"""A finished run scored again with other held-out settings, in this process; nothing is trained.

The new record is made beside the run, with the same weights, as a finished run of the new identity. Whole, it takes the
run's place; the old one goes where superseded runs are, from where it is taken back when the change is undone. A kill
or an error on the way leaves the run as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.disk import writing
from workbench.errors import DataError, ModelError
from workbench.evaluation.named import OfSet, labels_of_set
from workbench.experiment.identity import measuring_versions, versions_of_others
from workbench.experiment.planning import leaks
from workbench.experiment.running.held_out import held_out_notes
from workbench.experiment.running.prepared import PreparedRun
from workbench.experiment.running.run import build_trainer, find_overlaps, made_of
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.running.scored import Points, Trained, checkpoint_path, find_trained, scored_note
from workbench.inputs import REMEDY, Inputs
from workbench.locks import hold
from workbench.models.adapters import has_adapter, saved_adapter, saves_adapter_alone
from workbench.models.load import load_model
from workbench.tracking.names import SET, is_measured, is_of_set, seconds_of_set
from workbench.tracking.reader import Row, is_held_out, read_rows, read_sealed
from workbench.tracking.terminal import complain
from workbench.trainer import checkpoint
from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.records.output_folder import COMPLETIONS, RECORDS, WARNINGS
from workbench.trainer.records.surroundings import CODE
from workbench.trainer.tensors import load_model_tensors, model_tensors

METRICS = RECORDS[0]
COSTS = "cost/"
"""The prefix of a row's entries that stand after its held-out measures."""


def score_again(prepared: PreparedRun, runs: Path, provenance: Mapping[str, Any]) -> None:
    """Put a run that holds what is measured now in the place of one that differs in nothing else."""
    key = prepared.spec.key
    folder = RunFolder(runs, key)
    with hold(runs, key, on_wait=lambda holder: complain(f"waiting for {holder}"), inside=True):
        if folder.is_finished() and folder.status().get("fingerprint") == prepared.identity.fingerprint:
            return  # another command did it while this one waited
        trained = find_trained(prepared.spec, prepared.identity, runs)
        if trained is None:
            raise DataError(f"{folder.path}: the finished run was taken away before it was scored again; {REMEDY}")
        trained.folder.verify_model()
        made = folder.workshop()
        try:
            _make(made, trained, prepared, runs, provenance)
            kept = folder.beside()
            with writing(kept):
                made.path.rename(kept)
        finally:
            shutil.rmtree(made.path, ignore_errors=True)
        folder.take_back(kept)


def _make(made: RunFolder, trained: Trained, prepared: PreparedRun, runs: Path, provenance: Mapping[str, Any]) -> None:
    """The run as it was trained, with a new record, in the folder `made`; its status, written last, makes it one."""
    started, old = time.monotonic(), trained.folder
    with Inputs.verified(prepared.inputs).unchanged():
        trainer = build_trainer(prepared, made.path, rewarded=False)
        found = find_overlaps(prepared, runs)
        notes = [*prepared.notes, *held_out_notes(prepared), *leaks.notes(found)]
    rows, under = _measure(trainer, trained)
    points = {name: _come_of(own, rows) for name, own in trained.points.items()}
    with writing(made.path):
        for name in (COMPLETIONS, "pairs.jsonl", "losses.jsonl"):
            _merge(old.path / name, made.path / name, points)
        _write_metrics(old.path / METRICS, made.path / METRICS, rows, points)
        judged = _judge(old, made, trainer)
        for path in (made.path / name for name in RECORDS if (made.path / name).exists()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        for name in ("model", "checkpoints"):
            if (old.path / name).is_dir():
                shutil.copytree(old.path / name, made.path / name, copy_function=_link)
        if old.log.is_file():
            shutil.copyfile(old.log, made.log)
    note = scored_note(points, (text for text in under if not text.startswith(CODE)))
    if any(own.missing for own in points.values()):
        notes.append(note)
    scored = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "steps": sorted({step for own in points.values() for step in own.taken + own.measured}),
        "missing": sorted({step for own in points.values() for step in own.missing}),
        "note": note,
        "under": under,
        "seconds": time.monotonic() - started,
        **{name: provenance.get(name) for name in ("commit", "code")},
    }
    status = old.status() | {"fingerprint": prepared.identity.fingerprint, "identity": prepared.identity.fields}
    status |= judged | {"notes": notes, "overlaps": leaks.record(found), "scored": scored}
    before = read_sealed(old.path / "provenance.json") or {}
    measured_by = _measured_by(before.get("measured_by") or {}, measuring_versions(prepared.spec))
    own = made_of(prepared, runs) | {"measured_by": measured_by, "scored": scored | {"by": dict(provenance)}}
    own |= versions_of_others(prepared.spec)
    before.pop("measured_by_other_sets", None)
    made.begin(prepared.spec, {**before, **own}, status)


def _judge(old: RunFolder, made: RunFolder, trainer: BaseTrainer) -> dict[str, Any]:
    """The harms and warnings of the new record, written beside it: those that training saw in what was measured then
    give way to those of what is measured now."""
    before, _ = _harms(old.path / METRICS, trainer)
    now, standing = _harms(made.path / METRICS, trainer)
    told = [row for row in read_rows(old.path / WARNINGS) if (row["step"], row["warning"]) not in before]
    told = sorted([*({"step": step, "warning": text} for step, text in now), *told], key=lambda row: row["step"])
    (made.path / WARNINGS).unlink(missing_ok=True)
    if told:
        (made.path / WARNINGS).write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    return {"harms": standing, "warnings": [f"step {row['step']}: {row['warning']}" for row in told]}


def _harms(metrics: Path, trainer: BaseTrainer) -> tuple[list[tuple[int, str]], list[str]]:
    """What a judge of the trainer's kind says of a whole record, and what of it stands at the end."""
    health, rows = trainer.health.anew(), read_rows(metrics)
    found = [(row["step"], text) for row in rows for text in health.observe(row, is_last=row is rows[-1])]
    return found, health.standing


def _measured_by(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Costs were counted and rewards were given when the run was trained; the rest is measured now."""

    def of_training(name: str) -> bool:
        return name.startswith(("cost/", "reward "))

    return {name: old.get(name, value) if of_training(name) else value for name, value in new.items()}


def _measure(trainer: BaseTrainer, trained: Trained) -> tuple[dict[int, dict[str, float]], list[str]]:
    """What is measured by step, in the order of training, and what was another while it trained."""
    rows: dict[int, dict[str, float]] = {}
    under: list[str] = []
    last = int(trained.folder.status()["step"])
    evaluators = list(trainer.evaluators)
    for step in sorted({step for own in trained.points.values() for step in own.measured}):
        if step:  # at 0 it has the weights that the run began with
            folder = checkpoint_path(trained.folder, step)
            if checkpoint.find_damage(folder) is None:
                under = trainer.load_weights(folder, step)
            elif step == last and trainer.result is trainer.policy:
                _load_left(trainer, trained.folder)
                trainer.state.step = step
            else:
                continue  # damaged since it was planned
        complain(f"scoring again: step {step} of {last}")
        due = [name for name, own in trained.points.items() if step in own.measured]
        trainer.evaluators[:] = [each for each in evaluators if not isinstance(each, OfSet) or each.name in due]
        rows[step] = trainer.evaluate() if trainer.evaluators else {}
    return rows, under


def _come_of(points: Points, rows: Mapping[int, Mapping[str, float]]) -> Points:
    """The points as they came: what was to be measured at a step whose weights are gone is missing."""
    measured = tuple(step for step in points.measured if step in rows)
    missing = {*points.missing, *points.measured} - {*measured}
    return replace(points, measured=measured, missing=tuple(sorted(missing)))


def _load_left(trainer: BaseTrainer, trained: RunFolder) -> None:
    """The weights that the run left, where the checkpoint of its last step is gone."""
    policy = trainer.policy
    if not has_adapter(policy):
        left = model_tensors(load_model(trained.model))
    elif saves_adapter_alone(policy):
        left = saved_adapter(policy, trained.model)
    else:
        left = saved_adapter(policy, trained.model / "adapter")
    load_model_tensors(policy, {name: left[name] for name in model_tensors(policy)})
    if trainer.descent.ema:
        trainer.descent.ema.load_state_dict(model_tensors(trainer.unwrapped_model))


def _write_metrics(
    old: Path, new: Path, measured: Mapping[int, Mapping[str, float]], points: Mapping[str | None, Points]
) -> None:
    """Every row as it was trained, with what is measured now in the place of what was. Raises ModelError where the old
    record lacks a row that is needed."""
    rows = read_rows(old)
    taken = {step for own in points.values() for step in own.taken}
    lost = (measured.keys() | taken) - {row.get("step") for row in rows}
    if lost:
        raise ModelError(f"{old} has no row of step {min(lost)}; FRESH=1 trains anew")
    with open(new, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_scored_row(row, measured.get(row["step"], {}), points)) + "\n")


def _scored_row(
    row: Mapping[str, Any], measured: Mapping[str, float], points: Mapping[str | None, Points]
) -> dict[str, Any]:
    plain = {name: value for name, value in row.items() if not is_measured(name)}
    costs = {name: value for name, value in plain.items() if name.startswith(COSTS) or name == "time/seconds"}
    found: dict[str, Any] = {}
    for index, (name, own) in enumerate(points.items()):
        decides = index == 0
        if row["step"] in own.taken:
            kept = {m: value for m, value in row.items() if is_of_set(m, own.recorded_as, decides=decides)}
            seconds = kept.pop(seconds_of_set(str(own.recorded_as)), None)
            found |= kept if None in (name, seconds) else kept | {seconds_of_set(str(name)): seconds}
        else:
            found |= {metric: value for metric, value in measured.items() if is_of_set(metric, name, decides=decides)}
    return {**{name: value for name, value in plain.items() if name not in costs}, **found, **costs}


def _merge(old: Path, new: Path, points: Mapping[str | None, Points]) -> None:
    """Adds to what was measured now of one record what stays of the old one: training's own rows, and held-out sets at
    steps that were taken; in the order that training writes them in."""
    order = {name: index for index, name in enumerate(points)}
    taken = {own.recorded_as: (name, own.taken) for name, own in points.items() if own.taken}
    found: list[tuple[tuple[int, bool, int], str]] = []

    def add(row: Row) -> None:
        place = row["step"], not is_held_out(row), order.get(row.get(SET), 0)
        found.append((place, json.dumps(row, ensure_ascii=False) + "\n"))

    for row in _rows(old):
        name, steps = taken.get(row.get(SET), (None, ()))
        if not is_held_out(row):
            add(row)
        elif row["step"] in steps:
            others = {key: value for key, value in row.items() if key not in ("step", SET)}
            add({"step": row["step"], **labels_of_set(name), **others})
    for row in _rows(new):
        add(row)
    found.sort(key=lambda line: line[0])
    if found:
        new.write_text("".join(line for _, line in found), encoding="utf-8")


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a whole record, one by one: training's own may be many."""
    if path.is_file():
        with open(path, encoding="utf-8") as file:
            yield from map(json.loads, file)


def _link(source: str, target: str) -> None:
    """A second name for the same file, or a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
