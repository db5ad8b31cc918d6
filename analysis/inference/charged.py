"""What is charged at equal cost for the runs that a run rests on (its start, its reward models, its teacher, those that
its data was sampled from, and what these rest on): nothing where every run rests on one; in full where only some do, as
SFT is to DPO behind it beside ORPO, which does the work of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.load import load_folders
from analysis.measures import number_or_nan
from analysis.study import Study

Record = Mapping[str, Any]


def needs_of(record: Record) -> dict[str, str]:
    """What a run rests on itself: by the run's folder, below runs/, what it is to it."""
    definition, provenance = record["definition"], record["provenance"]
    start, teacher = (
        str(given.get("folder") or "") if isinstance(given := provenance.get(name), dict) else ""
        for name in ("start", "teacher")
    )
    named = [
        (start, "start"),
        *((str(key), "sampler") for key in definition.get("sources") or ()),
        *((str(key), "reward model") for key in definition.get("judges") or ()),
        (teacher, "teacher"),
    ]
    return {key: role for key, role in reversed(named) if "/" in key}


def unshared_starts(study: Study) -> dict[str, dict[str, Record]]:
    """By run those that it rests on and that not every finished run rests on, by their folders. The seeds of one
    setting are one."""
    if "unshared starts" not in study.memo:
        study.memo["unshared starts"] = _unshared_starts(study)
    found: dict[str, dict[str, Record]] = study.memo["unshared starts"]
    return found


def _unshared_starts(study: Study) -> dict[str, dict[str, Record]]:
    records, finished = study.loaded.records, study.finals.loc[study.finals["finished"], "run"]
    if len({frozenset(map(_setting, needs_of(records[run]))) for run in finished}) < 2:
        return {}
    chains = {run: rests_on(study, run) for run in finished}
    shared = set.intersection(*({_setting(name) for name in chain} for chain in chains.values()))
    return {
        run: {name: start for name, start in chain.items() if _setting(name) not in shared}
        for run, chain in chains.items()
    }


def start_costs(study: Study, column: str) -> dict[str, float]:
    """By run what those that it rests on and not all settings do spent of a cost, their inherited stages included; NaN
    where that is not recorded. column: of the cost; a step costs nothing beforehand."""
    _, _, field = column.partition("/")
    return {
        run: sum(_spent(start, field) for start in starts.values())
        for run, starts in unshared_starts(study).items()
        if field
    }


def _spent(record: Record, field: str) -> float:
    return spent(record, (field,))[field]


def spent(record: Record, fields: Iterable[str]) -> dict[str, float]:
    """What a run spent of each cost, its inherited stages included; NaN where that is not recorded."""
    costs = record["status"].get("costs") or {}
    stages = (costs.get("inherited") or {}).values()
    return {
        field: number_or_nan(costs.get(field)) + sum(number_or_nan(stage.get(field, 0.0)) for stage in stages)
        for field in fields
    }


def rests_on(study: Study, run: str) -> dict[str, Record]:
    """The records of all that a run rests on, by folder: what it needs, what these need, and so on."""
    key = ("rests on", run)
    if key not in study.memo:
        known = {**study.loaded.records, **(study.start.records if study.start is not None else {})}
        found: dict[str, Record] = {}
        waiting = list(needs_of(known[run]))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = (
                    known[name] if name in known else load_folders(study.root, [{"folder": name}]).records[name]
                )
                waiting += needs_of(found[name])
        study.memo[key] = found
    return dict(study.memo[key])


def _read(study: Study, name: str) -> Record:
    """The record of a run that no plan of the study names."""
    if ("record", name) not in study.memo:
        study.memo["record", name] = load_folders(study.root, [{"folder": name}]).records[name]
    record: Record = study.memo["record", name]
    return record


def users_of(study: Study, name: str) -> list[str]:
    """The finished runs of the study that rest on a run or on another seed of it."""
    finished = study.finals.loc[study.finals["finished"], "run"]
    return [run for run in finished if any(_setting(name) == _setting(other) for other in rests_on(study, run))]


def _setting(run: str) -> str:
    """experiment/variant of a run; empty where there is none."""
    return run.rpartition("/")[0]
