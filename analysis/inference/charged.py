"""What is charged at equal cost for the start of a run: nothing where every run rests on it; in full where some began
without it, as SFT is to DPO behind it beside ORPO, which does the work of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.load import load_folders
from analysis.measures import number_or_nan
from analysis.study import Study

Record = Mapping[str, Any]


def start_of(record: Record) -> str:
    """The folder of the run that a run began from, below runs/; empty for none."""
    start = record["provenance"].get("start")
    return str(start.get("folder") or "") if isinstance(start, dict) else ""


def unshared_starts(study: Study) -> dict[str, dict[str, Record]]:
    """By run the starts that it rests on, the starts of these among them, and that not every finished run rests on, by
    their folders. The seeds of one setting are one start."""
    if "unshared starts" not in study.memo:
        study.memo["unshared starts"] = _unshared_starts(study)
    found: dict[str, dict[str, Record]] = study.memo["unshared starts"]
    return found


def _unshared_starts(study: Study) -> dict[str, dict[str, Record]]:
    records, finished = study.loaded.records, study.finals.loc[study.finals["finished"], "run"]
    if len({_setting(start_of(records[run])) for run in finished}) < 2:
        return {}
    chains = {run: _chain(study, records[run]) for run in finished}
    shared = set.intersection(*({_setting(name) for name in chain} for chain in chains.values()))
    return {
        run: {name: start for name, start in chain.items() if _setting(name) not in shared}
        for run, chain in chains.items()
    }


def start_costs(study: Study, column: str) -> dict[str, float]:
    """By run what its unshared starts spent of a cost, their inherited stages included; NaN where that is not recorded.
    column: of the cost; a step costs nothing beforehand."""
    _, _, field = column.partition("/")
    return {
        run: sum(_spent(start, field) for start in starts.values())
        for run, starts in unshared_starts(study).items()
        if field
    }


def _spent(record: Record, field: str) -> float:
    costs = record["status"].get("costs") or {}
    inherited = (costs.get("inherited") or {}).values()
    return number_or_nan(costs.get(field)) + sum(number_or_nan(stage.get(field, 0.0)) for stage in inherited)


def _chain(study: Study, record: Record) -> dict[str, Record]:
    """The records of a run's start, of its start and so on, by folder."""
    known = {**study.loaded.records, **(study.start.records if study.start is not None else {})}
    found: dict[str, Record] = {}
    while (name := start_of(record)) and name not in found:
        record = known[name] if name in known else load_folders(study.root, [{"folder": name}]).records[name]
        found[name] = record
    return found


def _setting(run: str) -> str:
    """experiment/variant of a run; empty where there is none."""
    return run.rpartition("/")[0]
