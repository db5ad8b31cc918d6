"""What to change, and in which file, so that settings that were measured unlike are measured alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.measures import join_few
from analysis.study import Study, Variant, name_of_start


def remedies(study: Study, what: str, values: Mapping[str, Sequence[Variant]]) -> list[str]:
    """A line for every file or command: towards the value that most settings have, the first of equals; of versions,
    towards the newest."""
    most = max(values, key=lambda value: len(values[value]))
    if what.startswith("version of "):
        most = max(values, key=lambda value: int(value) if value.isdigit() else -1)
    aim = values[most][0]
    found: dict[str, list[Variant]] = {}
    for value, variants in values.items():
        for variant in variants if value != most else []:
            for line in _lines(study, what, variant, aim):
                found.setdefault(line, []).append(variant)
    return [f"{line}{_at(study, variants)}" for line, variants in found.items()]


def _lines(study: Study, what: str, variant: Variant, aim: Variant) -> Iterator[str]:
    own, other = (_definition(study, v) for v in (variant, aim))
    plan = _plan(study, variant)
    again = plan.get("command") or f"make exp NAME={plan.get('experiment')}"
    if what.startswith("version of "):
        yield f"`{again} FRESH=1` measures anew"
        return
    if what.startswith("held-out "):
        return  # counts follow from the data, the tokeniser or the trainer: no one line says them
    place = str(plan.get("definition_file") or f"{plan.get('experiment')}.yaml")
    if what == "start":
        before, after = name_of_start(own) or "none", name_of_start(other) or "none"
        yield (
            f"{place}: start_from: {before} -> {after}"
            if before != after
            else f"`{again}`: its start was trained again"
        )
        return
    changed = list(_leaves(what, _at_path(own, what), _at_path(other, what)))
    for name, before, after in changed:
        where = f"{again}" if f"{what.split('.')[-1]}=" in again or f"{name}=" in again else place
        yield f"{where}: {name}: {_written(before)} -> {_written(after)}"
    if not changed:  # the same words, and other contents
        yield f"`{again}`: what {what} names has changed since"


def _leaves(name: str, own: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields the places where two values differ, down to single settings."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*other, *own]):
            yield from _leaves(f"{name}.{key}", own.get(key), other.get(key))
    elif own != other:
        yield name, own, other


def _at_path(definition: Mapping[str, Any], what: str) -> Any:
    found: Any = definition
    for key in what.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _written(value: Any) -> str:
    """Writes a value as a definition has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _definition(study: Study, variant: Variant) -> dict[str, Any]:
    runs = study.loaded.runs
    own = [study.loaded.records[run]["definition"] for run in runs.loc[runs["variant"] == variant.name, "run"]]
    return next((definition for definition in own if definition), {})


def _plan(study: Study, variant: Variant) -> dict[str, Any]:
    runs = study.loaded.runs
    run = str(runs.loc[runs["variant"] == variant.name, "run"].iloc[0])
    return next((plan for plan in study.plans if plan["experiment"] == run.split("/")[0]), study.plans[0])


def _at(study: Study, variants: Sequence[Variant]) -> str:
    """The settings that a line is about, where its file has others too."""
    names = {variant.name for variant in variants}
    same = [v for v in study.variants if _plan(study, v) is _plan(study, variants[0])]
    return "" if all(v.name in names for v in same) else f" (at {join_few([v.label for v in variants])})"
