"""Runs as they were measured on one of several held-out sets: its measures under plain names, its rows, its settings.

A run's deciding set has the plain names eval/... already; another one's are eval/<set>/....
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.tracking.names import SET, is_of_set, plain_name

if TYPE_CHECKING:
    import pandas as pd

Record = Mapping[str, Mapping[str, Any]]


def deciding_set(record: Record) -> str | None:
    """The name of the set that decides; None where a run has but one, without a name."""
    name = _mapping(record["definition"].get("evaluate")).get("name")
    return str(name) if name is not None else None


def other_sets(records: Iterable[Record]) -> list[str]:
    """The names of the sets that stand beside the deciding one of some run, in the order of the first of each."""
    return list(dict.fromkeys(name for record in records for name in _mapping(record["definition"].get("other_sets"))))


def record_on_set(record: Record, name: str) -> dict[str, dict[str, Any]]:
    """A run's record as if it had been measured on this set alone; on nothing where it has no such set."""
    definition, status, provenance = (dict(record[part]) for part in ("definition", "status", "provenance"))
    suffix = f" of {name}"
    if name != deciding_set(record):
        own = _mapping(definition.get("other_sets")).get(name)
        identity = _mapping(status.get("identity"))
        versions = _mapping(provenance.get("measured_by_other_sets")).get(name)
        definition["evaluate"] = own
        status["identity"] = {**identity, "evaluate": _mapping(identity.get("other_sets")).get(name)}
        provenance["measured_by"] = versions if versions is not None else provenance.get("measured_by")
        overlaps = [each for each in status.get("overlaps") or [] if str(each.get("held_out")).endswith(suffix)]
        status["overlaps"] = [{**each, "held_out": each["held_out"].removesuffix(suffix)} for each in overlaps]
    return {"definition": definition, "status": status, "provenance": provenance}


def metrics_on_set(metrics: pd.DataFrame, decides: Mapping[str, str | None], name: str) -> pd.DataFrame:
    """One row a step, with the set's measures under plain names. decides: the name of each run's deciding set."""
    shared = [column for column in metrics if not str(column).startswith("eval/")]
    plain = [column for column in metrics if is_of_set(str(column), name, decides=True) and column not in shared]
    own = [column for column in metrics if is_of_set(str(column), name, decides=False) and column not in shared]
    found = metrics[shared].copy()
    by_plain = metrics["run"].map(lambda run: decides.get(run) == name)
    for column in dict.fromkeys([*plain, *(plain_name(str(each), name) for each in own)]):
        source = next((each for each in own if plain_name(str(each), name) == column), None)
        beside = metrics[source] if source is not None else float("nan")
        found[column] = metrics[column].where(by_plain, beside) if column in metrics else beside
    return found.copy()


def rows_on_set(table: pd.DataFrame, decides: Mapping[str, str | None], name: str | None) -> pd.DataFrame:
    """The rows of a record that are of this set; None: of the deciding set of each run. Rows that name no set are of a
    run's only one."""
    if name is None and SET not in table:
        return table
    of = table["run"].map(lambda run: decides.get(run)) if len(table) else table["run"]
    said = table[SET].where(table[SET].notna(), of) if SET in table else of
    wanted = of if name is None else name
    kept = (said == wanted) | (said.isna() if name is None else False)
    return table[kept].reset_index(drop=True)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
