"""Run folders to tidy tables: one row a run, one a step, one a completion, one a pair, one a held-out row's loss.

A run that a plan names and nobody made is a row too, with the state "missing": what did not happen is part of the
result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DefinitionError
from workbench.tracking import reader

if TYPE_CHECKING:
    import pandas as pd

Where = Mapping[str, Any] | Callable[[dict[str, Any]], bool]

STATUS_FIELDS = (
    *("step", "num_steps", "seconds", "message", "exit_code", "stopped_by", "best_step", "best_value", "restored"),
    *("precision", "threads", "device", "num_parameters", "trained_parameters", "peak_memory_bytes"),
    *("model_sha256", "fingerprint"),
)
COST_FIELDS = ("generated_tokens", "trained_tokens", "scored_tokens", "flops")
KEYS = ("run", "experiment", "variant", "seed")


@dataclass(frozen=True)
class Loaded:
    """Tidy tables that join on the column run ("experiment/variant/seed0"); records holds each run's raw dicts.

    completions are those of held-out prompts alone: training's own (split "train") have no exact match and may be a
    hundred times as many; reader.read_completions(run, rollouts=True) gives them.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    completions: pd.DataFrame
    pairs: pd.DataFrame
    losses: pd.DataFrame
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def load_runs(runs_dir: Path | str, where: Where | None = None) -> Loaded:
    """Every run below runs_dir (runs/<experiment>/<variant>/seed<k>) that where admits.

    where: {column of runs: value or list of values}, or a function of a run's row; it is asked before metrics are read.
    Raises DefinitionError for a folder that does not exist or a column that no run has.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise DefinitionError(f"{root}: no such folder of runs")
    folders = reader.find_runs(root)
    return load_folders(root, [{"folder": str(folder.relative_to(root))} for folder in folders], where)


def load_folders(root: Path, planned: Iterable[Mapping[str, Any]], where: Where | None = None) -> Loaded:
    """The planned runs (dicts with folder, relative to root, and what a plan says of them), made or not."""
    import pandas as pd

    rows, records = [], {}
    for plan in planned:
        row, record = _run_row(root, dict(plan))
        rows.append(row)
        records[row["run"]] = record
    rows = _admitted(rows, where)
    runs = pd.DataFrame(rows)
    tables = {name: _stack(root, rows, f"{name}.jsonl") for name in ("metrics", "completions", "pairs", "losses")}
    return Loaded(runs, **tables, records={row["run"]: records[row["run"]] for row in rows})


def _run_row(root: Path, plan: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """One row of the table of runs, and the raw dicts it was made from."""
    name = str(plan["folder"]).strip("/")
    folder = root / name
    record: dict[str, dict[str, Any]] = {"definition": {}, "status": {}, "provenance": {}}
    if folder.is_dir():
        read = reader.read_run(folder)
        record = {key: dict(getattr(read, key) or {}) for key in record}
    definition, status = record["definition"], record["status"]
    parts = name.split("/")
    row: dict[str, Any] = {
        "run": name,
        "experiment": definition.get("experiment") or parts[0],
        "arm": definition.get("arm", plan.get("arm")),
        "variant": definition.get("variant") or plan.get("variant") or (parts[-2] if len(parts) > 2 else "main"),
        "seed": definition.get("seed", plan.get("seed", _seed_of(parts[-1]))),
        "trainer": definition.get("trainer") or plan.get("trainer"),
        "state": status.get("state") or ("not started" if definition else "missing"),
    }
    row.update({key: status.get(key) for key in STATUS_FIELDS})
    costs = status.get("costs") or {}
    row.update({f"cost/{key}": costs.get(key) for key in COST_FIELDS})
    for axis, value in (definition.get("point") or plan.get("point") or {}).items():
        row[f"point/{axis}"] = value
    for key, value in (definition.get("hyperparameters") or {}).items():
        row[f"hyperparameters/{key}"] = value if isinstance(value, str | int | float | None) else json.dumps(value)
    return row, record


def _seed_of(part: str) -> int:
    digits = part.removeprefix("seed")
    return int(digits) if digits.isdigit() else 0


def _admitted(rows: list[dict[str, Any]], where: Where | None) -> list[dict[str, Any]]:
    if where is None:
        return rows
    if callable(where):
        return [row for row in rows if where(row)]
    columns = {column for row in rows for column in row}
    unknown = sorted(set(where) - columns)
    if rows and unknown:
        raise DefinitionError(f"where: no run has {', '.join(unknown)}; columns are {', '.join(sorted(columns))}")

    def admits(row: dict[str, Any]) -> bool:
        return all(
            row.get(column) in value if isinstance(value, list | tuple | set) else row.get(column) == value
            for column, value in where.items()
        )

    return [row for row in rows if admits(row)]


def _stack(root: Path, rows: list[dict[str, Any]], file_name: str) -> pd.DataFrame:
    """That file of every run, one below the other, each row led by its run's keys; null becomes NaN."""
    import pandas as pd

    frames = []
    for row in rows:
        path = root / row["run"] / file_name
        read = reader.read_held_out if file_name == "completions.jsonl" else reader.read_rows
        records = read(path) if path.is_file() else []
        if records:
            frame = pd.DataFrame.from_records(records)
            frame = frame.drop(columns=[key for key in KEYS if key in frame.columns])
            for position, key in enumerate(KEYS):
                frame.insert(position, key, row[key])
            frames.append(frame)
    if not frames:
        return pd.DataFrame(columns=[*KEYS, "step"])
    table = pd.concat(frames, ignore_index=True)
    if file_name == "metrics.jsonl":
        numbers = [column for column in table.columns if column not in KEYS]
        table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")
        _derive(table)
    return table


def _derive(metrics: pd.DataFrame) -> None:
    """Columns that online runs have under one name or the other, and the share of groups that taught something."""
    if "frac_reward_zero_std" in metrics:
        metrics["groups_with_signal"] = 1.0 - metrics["frac_reward_zero_std"]
    if "objective/scores" in metrics:
        scores = metrics["objective/scores"]
        metrics["reward"] = metrics["reward"].fillna(scores) if "reward" in metrics else scores
