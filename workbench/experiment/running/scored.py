"""Which finished run is scored again in the place of being trained anew: one that differs in what is measured alone.

Training and scoring have identities of their own, both parts of a run's. Nothing here loads torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config import fingerprint
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.identity import Identity, stage_before, training_stages
from workbench.experiment.running.run_folder import RunFolder
from workbench.tracking.names import is_of_set
from workbench.tracking.reader import read_rows
from workbench.tracking.words import plural

REMEDY = "FRESH=1 trains anew to get it"
DECIDES = "early_stopping decides by what is measured, so the run is trained anew"
HELD_OUT_DATA = "held_out_pairs"
"""The one field of training data that is measured on and never learned from."""


@dataclass(frozen=True)
class Points:
    """Steps at which the measures of a held-out set are wanted: taken from the old record, measured now, or not to be
    had."""

    taken: tuple[int, ...]
    measured: tuple[int, ...]
    missing: tuple[int, ...]
    recorded_as: str | None = None
    """The set's name in the old record, which its rows bear; None where they bear none."""

    @property
    def text(self) -> str:
        """The points in words."""
        if not self.taken + self.measured:
            return "with nothing measured"
        text = f"at {_steps(sorted(self.taken + self.measured))}"
        if self.missing:
            text += f"; the curve between was not kept ({_steps(self.missing)}); {REMEDY}"
        return text


@dataclass(frozen=True)
class Trained:
    """A finished run whose model is the one that is asked for."""

    folder: RunFolder
    points: Mapping[str | None, Points]
    """The points by the name of the held-out set, the deciding one first; None: of a set without a name, or of none."""
    seconds: float
    """What scoring it again is estimated to take."""


def _training(fields: Mapping[str, Any], spec: RunSpec) -> dict[str, Any]:
    """The part of an identity that weights depend on, where no measure decides when training ends. spec: of the same
    trainer."""
    kept = {name: value for name, value in fields.items() if name not in ("evaluate", "other_sets")}
    known = fields["stages"]
    kept["stages"] = {name: known.get(name, stage_before(spec, name)) for name in training_stages(spec)}
    kept["data"] = {name: value for name, value in fields["data"].items() if name != HELD_OUT_DATA}
    return kept


def only_measures_differ(old: Any, new: Mapping[str, Any], spec: RunSpec) -> bool:
    """Whether two identities differ in nothing but what is measured."""
    try:
        return bool(fingerprint(_training(old, spec)) == fingerprint(_training(new, spec)))
    except (AttributeError, KeyError, TypeError):  # of a run that was made before its identity had these fields
        return False


def find_trained(spec: RunSpec, identity: Identity, runs: Path) -> Trained | None:
    """The finished run to score again: the one in its place, else the newest that was moved out of it."""
    if identity.fields is None:
        return None
    place = RunFolder(runs, spec.key)
    for folder in (place, *place.superseded()):
        status = folder.status()
        fields = status.get("identity")
        # A run whose record leaves out what was secret cannot be told from another.
        if not isinstance(fields, dict) or fingerprint(fields) != status.get("fingerprint") or "step" not in status:
            continue
        if folder.is_finished() and _same_training(fields, identity.fields, spec):
            points = _points(spec, folder, fields, identity.fields)
            return Trained(folder, points, _seconds(status, fields, identity.fields, points))
    return None


def _same_training(old: Any, new: Mapping[str, Any], spec: RunSpec) -> bool:
    return spec.hyperparameters.early_stopping is None and only_measures_differ(old, new, spec)


def _sets(fields: Mapping[str, Any]) -> dict[str | None, Any]:
    """The held-out sets of an identity by name, the deciding one first."""
    decides = fields["evaluate"]
    return {(decides or {}).get("name"): decides, **(fields.get("other_sets") or {})}


def _points(
    spec: RunSpec, folder: RunFolder, old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str | None, Points]:
    """The start's model and the last one are always there, those between where their checkpoints were kept; what was
    measured in the same way, at other steps alone, need not be measured again. A set that decides now was the deciding
    one, whatever its name."""
    last = int(folder.status()["step"])
    every = spec.hyperparameters.evaluate_every
    wanted = sorted({0, last, *(range(every, last, every) if every else ())}) if new["evaluate"] is not None else []
    rows = read_rows(folder.path / "metrics.jsonl")
    kept = {0, last, *(step for step in wanted if checkpoint_path(folder, step).is_dir())}
    before, found = _sets(old), {}
    for index, (name, own) in enumerate(_sets(new).items()):
        was = (next(iter(before)) if index == 0 else name) if index == 0 or name in before else None
        decided = was == next(iter(before))
        alike = decided == (index == 0) and _measure(old, before.get(was)) == _measure(new, own)
        known: set[int] = set()
        if alike:
            known = {row["step"] for row in rows if any(is_of_set(metric, was, decides=decided) for metric in row)}
        found[name] = Points(
            tuple(step for step in wanted if step in known),
            tuple(step for step in wanted if step in kept - known),
            tuple(step for step in wanted if step not in kept | known),
            was,
        )
    return found


def checkpoint_path(folder: RunFolder, step: int) -> Path:
    """The folder in which a run keeps the checkpoint of a step."""
    return folder.path / "checkpoints" / f"step_{step:08d}"


def _measure(fields: Mapping[str, Any], held_out: Mapping[str, Any] | None) -> str:
    """The hash of what is measured on a held-out set, without when and under which name."""
    evaluate = {name: value for name, value in (held_out or {}).items() if name not in ("every", "name")}
    return fingerprint([evaluate, fields["data"].get(HELD_OUT_DATA), fields["stages"], fields["precision"]])


def _seconds(
    status: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], points: Mapping[str | None, Points]
) -> float:
    """Seconds by what the run took beside its steps and checkpoints, in proportion to the number of prompts."""
    scored = status.get("scored") or {}
    costs, checkpoints = status.get("costs") or {}, status.get("checkpoints") or {}
    beside = float(status.get("seconds") or 0.0) - (costs.get("seconds") or 0.0) - (checkpoints.get("seconds") or 0.0)
    every = (old["evaluate"] or {}).get("every") or 0
    last = int(status["step"])
    times = 2 + (max(0, last - 1) // every if every else 0)
    if scored.get("seconds"):
        beside, times = float(scored["seconds"]), max(1, len(scored["steps"]))
    before = sum((own or {}).get("prompts") or 1 for own in _sets(old).values())
    each = {name: (own or {}).get("prompts") or 1 for name, own in _sets(new).items()}
    measured = sum(len(own.measured) * max(1.0, each[name] / before) for name, own in points.items())
    return max(1.0, beside / times * measured)


def points_text(points: Mapping[str | None, Points]) -> str:
    """The points in words: once where they are the same on every held-out set."""
    told = {name: own.text for name, own in points.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"set {name}: {text}" for name, text in told.items())


def scored_note(points: Mapping[str | None, Points], under: Iterable[str]) -> str:
    """The note in the record of a run that was scored again. under: what was another when it was trained."""
    surroundings = "; ".join(under)
    more = f"; it was trained under {surroundings}" if surroundings else ""
    return f"scored again on {time.strftime('%Y-%m-%d')} {points_text(points)}{more}"


def _steps(steps: Iterable[int]) -> str:
    found = [f"{step:,}" for step in steps]
    if len(found) > 6:
        return f"{plural(len(found), 'step')} from {found[0]} to {found[-1]}"
    if len(found) == 1:
        return f"step {found[0]}"
    return f"steps {', '.join(found[:-1])} and {found[-1]}"
