"""Why a run is no longer the one that its folder holds, told by the fields that its definition names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.experiment.definition.overrides import value_text
from workbench.experiment.definition.schema import NAMES_ONLY, RunSpec
from workbench.experiment.identity import differences
from workbench.experiment.running.run_folder import RunFolder
from workbench.redaction import redact
from workbench.tracking.reader import read_run

MOST_SHOWN = 3
OLDER = "made by an older version of the workbench"
_CONTENTS = {
    "data.file": "what the file at data.path holds",
    "evaluate.path": "what the file at evaluate.path holds",
    "evaluate.pairs": "what the file at evaluate.pairs holds",
}
_VERSION = re.compile(r"(^|[._])versions?($|\.)|^stages\.")


def change_of(folder: RunFolder, spec: RunSpec, identity: Mapping[str, Any]) -> str:
    """What changed between a run's folder and what is asked: first the fields of its definition, from what to what;
    then what changed without one of them. identity: the fields of the one that is asked."""
    old, new = folder.status().get("identity"), redact(identity)
    if not isinstance(old, Mapping):
        return OLDER
    within = list(differences(old, new))
    written, decisive = read_run(folder.path).definition, {name for name, *_ in within}
    fields = list(_fields(written, redact(spec.to_definition()), spec, decisive)) if written else []
    named = {name for name, *_ in fields}
    sections = {name.split(".")[0] for name in named}
    told = [f"{name} was {_short(before)}, is {_short(after)}" for name, before, after in fields]
    beside = _beside(spec, [each for each in within if not _follows(each[0], named, sections)])
    # Nothing differs but settings that have no value and that did not exist then.
    return _joined([*told, *beside]) or f"{OLDER}, which had fewer settings"


def describe_change(old: Any, new: Mapping[str, Any]) -> str:
    """Which field of a run's identity changed, from what to what."""
    if not isinstance(old, Mapping):
        return OLDER
    changes = [f"{name} was {_short(before)}, is {_short(after)}" for name, before, after in differences(old, new)]
    return _joined(changes) or f"{OLDER}, which had fewer settings"


def _fields(
    old: Mapping[str, Any], new: Mapping[str, Any], spec: RunSpec, decisive: set[str]
) -> Iterator[tuple[str, Any, Any]]:
    """The definition's fields that differ, those that are written in it now before defaults."""
    found = [
        (name, before, after)
        for name, before, after in differences(old, new)
        if name.split(".")[0] not in (*NAMES_ONLY, "point")  # which older records have
        and (not name.startswith("hyperparameters.") or any(_below(other, name) for other in decisive))
        and (name in spec.origins or _has(old, name))  # a setting that did not exist then is no change of the user's
    ]
    yield from sorted(found, key=lambda each: each[0] not in spec.origins)


def _follows(name: str, named: set[str], sections: set[str]) -> bool:
    """Whether a difference of identities is one of the named fields, or a consequence of one."""
    first = name.split(".")[0]
    if first in ("version", "precision", "threads"):
        return first in named
    if name in _CONTENTS:
        return ("data.path" if name == "data.file" else name) in named
    if first == "hyperparameters":
        return any(_below(name, own) for own in named) or "trainer" in named
    starts = {"model", "start_from"} & sections
    below = {
        "model": starts,
        "stages": {"data", "evaluate", "trainer"} & sections,
        "data": sections & {"data"} or starts,
    }
    return bool(below.get(first, {first} & sections))


def _beside(spec: RunSpec, within: list[tuple[str, Any, Any]]) -> list[str]:
    """Differences that no field of the definition tells, in words where they have some."""
    told: dict[str, None] = {}
    for name, before, after in within:
        if name in _CONTENTS:
            told[f"{_CONTENTS[name]} changed"] = None
        elif name == "model" or name.startswith("model."):
            what = f"start_from: the weights of {spec.start}" if spec.start else "what the folder of the model holds"
            told[f"{what} changed"] = None
        elif name == "teacher" or name.startswith("teacher."):
            what = spec.teacher if isinstance(spec.teacher, str) else "the folder of the model"
            told[f"teacher: the weights of {what} changed"] = None
        elif name == "data.samplers":
            told["data.collect.from: the weights of what is sampled from changed"] = None
        elif _VERSION.search(name):
            told[f"{OLDER} ({name} was {_short(before)}, is {_short(after)})"] = None
        else:
            told[f"{name} was {_short(before)}, is {_short(after)}"] = None
    return list(told)


def _has(values: Mapping[str, Any], name: str) -> bool:
    """Whether there is a value at a dotted name, or a place above it that is no mapping."""
    at: Any = values
    for part in name.split("."):
        if not isinstance(at, Mapping):
            return True
        if part not in at:
            return False
        at = at[part]
    return True


def _below(name: str, above: str) -> bool:
    return name == above or name.startswith(f"{above}.")


def _joined(changes: list[str]) -> str:
    more = f", and {len(changes) - MOST_SHOWN} more" if len(changes) > MOST_SHOWN else ""
    return "; ".join(changes[:MOST_SHOWN]) + more


def _short(value: Any) -> str:
    text = "nothing" if value is None else value_text(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
