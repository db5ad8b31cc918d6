"""Run folders to tidy tables: one row a run, one a step, one a completion, one a pair, one a held-out row's loss.

A run that a plan names and nobody made is a row too, with the state "missing", and one whose definition or status
cannot be read with the state "unreadable": what did not happen is part of the result.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import held_out_sets
from analysis.report.spreadsheet import safe
from workbench.errors import DefinitionError, StorageError
from workbench.tracking import parquet, reader

if TYPE_CHECKING:
    import pandas as pd

Where = Mapping[str, Any] | Callable[[dict[str, Any]], bool]

STATUS_FIELDS = (
    *("step", "num_steps", "seconds", "message", "exit_code", "stopped_by", "best_step", "best_value", "restored"),
    *("precision", "threads", "device", "num_parameters", "trained_parameters", "peak_memory_bytes"),
    *("model_sha256", "fingerprint"),
)
COST_FIELDS = ("generated_tokens", "trained_tokens", "scored_tokens", "flops")
SECTIONS = ("model", "lora", "data", "evaluate", "budget", "start_from", "threads")
"""The sections of a definition that the grid may sweep besides hyperparameters."""
KEYS = ("run", "experiment", "variant", "seed")
FORMS = ("csv", "parquet")
RUN_FILES = ("definition.yaml", "status.json", "metrics.jsonl")
"""A folder with one of them is a run's."""


class Loaded:
    """Tidy tables that join on the column run ("experiment/variant/seed0"); records holds each run's raw dicts.

    The tables are read when they are first asked for, each from Parquet copies where runs have ended. Each row leads
    with its run's keys as they then stand in runs. completions are those of held-out prompts alone: training's own
    (split "train") have no exact match and may be a hundred times as many; reader.read_completions(run, rollouts=True)
    gives them. A completion's rewards are columns, rewards/<name>. found is the number of runs before a filter.
    """

    def __init__(
        self,
        root: Path,
        runs: pd.DataFrame,
        records: dict[str, dict[str, dict[str, Any]]],
        found: int | None = None,
        keep: Callable[[str, pd.DataFrame], pd.DataFrame] | None = None,
    ) -> None:
        """keep: (name, table) -> what of a table belongs here; None: all of it."""
        self.root = root
        self.runs = runs
        self.records = records
        self.found = len(records) if found is None else found
        self._keep = keep

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a step; all numbers, null is NaN."""
        table = self._stack("metrics")
        _derive(table)
        return table if self._keep is None else self._keep("metrics", table)

    @cached_property
    def completions(self) -> pd.DataFrame:
        """One row a completion of a held-out prompt."""
        return self._kept("completions")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row a held-out pair and evaluation, with its h (nats)."""
        return self._kept("pairs")

    @cached_property
    def losses(self) -> pd.DataFrame:
        """One row a held-out row and evaluation, with its loss_sum (nats) and num_tokens."""
        return self._kept("losses")

    @cached_property
    def held_out_rows(self) -> dict[str, tuple[int, int]]:
        """How many held-out rows a run's loss was first measured on, and how many learned tokens they have."""
        if self.losses.empty or "num_tokens" not in self.losses:
            return {}
        table = self.losses[self.losses["step"] == self.losses.groupby("run")["step"].transform("min")]
        found = table.groupby("run")["num_tokens"].agg(["size", "sum"])
        return {str(run): (int(row["size"]), int(row["sum"])) for run, row in found.iterrows()}

    def of_runs(self, names: Iterable[str], *, ordered: bool = False) -> Loaded:
        """These runs alone, of the column run. What was read already is not read again; but ordered, in the order of
        the names, begins anew: then tables follow a change of the runs' keys."""
        wanted = list(names)
        kept = set(wanted)
        runs = self.runs[self.runs["run"].isin(kept)]
        if ordered:
            runs = runs.set_index("run", drop=False).loc[wanted]
        records = {str(run): self.records[str(run)] for run in runs["run"]}
        found = Loaded(self.root, runs.reset_index(drop=True), records, keep=self._keep)
        for name in parquet.TABLES:
            if name in self.__dict__ and not ordered:
                table: pd.DataFrame = getattr(self, name)
                found.__dict__[name] = table[table["run"].isin(kept)].reset_index(drop=True)
        return found

    def on_set(self, name: str | None = None) -> Loaded:
        """These runs as they were measured on one held-out set alone, whose measures then have plain names; None: on
        the deciding set of each. Without this, rows of several sets stand side by side and say theirs in `set`."""
        decides = {run: held_out_sets.deciding_set(record) for run, record in self.records.items()}
        records = self.records
        if name is not None:
            records = {run: held_out_sets.record_on_set(record, name) for run, record in records.items()}

        def keep(which: str, table: pd.DataFrame) -> pd.DataFrame:
            if which != "metrics":
                return held_out_sets.rows_on_set(table, decides, name)
            return table if name is None else held_out_sets.metrics_on_set(table, decides, name)

        return Loaded(self.root, self.runs, records, self.found, keep)

    def export(self, folder: Path | str, form: str = "csv") -> list[Path]:
        """Write runs, metrics, completions, pairs and losses, those with rows, to <folder>/<table>.<form>.

        form: csv or parquet. Raises DefinitionError for another, StorageError where the folder cannot be written.
        """
        if form not in FORMS:
            raise DefinitionError(f"export: found {form!r}, allowed {', '.join(FORMS)}")
        out, written = Path(folder), []
        for name in ("runs", *parquet.TABLES):
            table: pd.DataFrame = getattr(self, name)
            if table.empty:
                continue
            path = out / f"{name}.{form}"
            partial = path.with_name(f"{path.name}.partial")
            try:
                out.mkdir(parents=True, exist_ok=True)
                if form == "csv":
                    safe(table).to_csv(partial, index=False, lineterminator="\n")
                else:
                    _plain_objects(table).to_parquet(partial, index=False)
                partial.replace(path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
            written.append(path)
        return written

    def _kept(self, name: str) -> pd.DataFrame:
        table = self._stack(name)
        return table if self._keep is None else self._keep(name, table)

    def _stack(self, name: str) -> pd.DataFrame:
        """That table of every run, one below the other."""
        import pandas as pd
        import pyarrow as pa

        found, rows = [], []
        for folder, row in zip(self.records, self.runs[[*KEYS, "state"]].to_dict("records"), strict=True):
            table = parquet.read_table(self.root / folder, name, keep_copy=row["state"] == "finished")
            if table is not None:
                found.append(table.drop_columns([key for key in KEYS if key in table.column_names]))
                rows.append(row)
        if not found:
            return pd.DataFrame(columns=[*KEYS, "step"])
        sizes = [table.num_rows for table in found]
        try:
            stacked = pa.concat_tables(found, promote_options="permissive").to_pandas(split_blocks=True)
        except pa.ArrowException:  # a column that is text in one run and a number in another
            stacked = pd.concat([table.to_pandas() for table in found], ignore_index=True)
        keys = pd.DataFrame({key: [row[key] for row in rows] for key in KEYS})
        repeated = keys.loc[keys.index.repeat(sizes)].reset_index(drop=True)
        return pd.concat([repeated, stacked], axis=1)


def load_runs(runs_dir: Path | str, where: Where | None = None) -> Loaded:
    """Every run below runs_dir (runs/<experiment>/<variant>/seed<k>) that where admits.

    where: {column of runs: value or list of values}, or a function of a run's row; it is asked before metrics are read.
    Raises DefinitionError for a folder that does not exist or a column that no run has.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise DefinitionError(f"{root}: no such folder of runs")
    # Not find_runs: a folder that lost its definition is a row too.
    folders = sorted({path.parent for name in RUN_FILES for path in root.glob(f"*/*/seed*/{name}")})
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
    runs = pd.DataFrame(rows, columns=None if rows else [*KEYS, "trainer", "state"])
    return Loaded(root, runs, {row["run"]: records[row["run"]] for row in rows}, len(records))


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
        "state": _state(folder, definition, status),
    }
    row.update({key: status.get(key) for key in STATUS_FIELDS})
    if row["state"] == "missing" and plan.get("state"):  # it failed before it had a folder
        row |= {"state": str(plan["state"]), "message": str(plan.get("message"))}
    costs = _mapping(status.get("costs"))
    row.update({f"cost/{key}": costs.get(key) for key in COST_FIELDS})
    settings = {f"hyperparameters/{key}": value for key, value in _mapping(definition.get("hyperparameters")).items()}
    swept = reader.swept_values(definition) or _mapping(plan.get("point"))
    settings = {_column_of(axis): value for axis, value in swept.items()} | settings
    for column, value in settings.items():
        if row.get(column) is None:
            row[column] = value if isinstance(value, str | int | float | None) else json.dumps(value, default=str)
    return row, record


def _column_of(axis: str) -> str:
    """The column of a swept setting: hyperparameters/beta, data/collect/pairs."""
    return axis.replace(".", "/") if axis.split(".")[0] in SECTIONS else f"hyperparameters/{axis}"


def _state(folder: Path, definition: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """What the status says; else why it says nothing."""
    records = {"definition.yaml": definition, "status.json": status}
    if any(not record and (folder / name).exists() for name, record in records.items()):
        return "unreadable"
    return str(status.get("state") or ("not started" if definition else "missing"))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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


def _derive(metrics: pd.DataFrame) -> None:
    """Columns that online runs have under one name or the other, and the share of groups that taught something."""
    if "frac_reward_zero_std" in metrics:
        metrics["groups_with_signal"] = 1.0 - metrics["frac_reward_zero_std"]
    if "objective/scores" in metrics:
        scores = metrics["objective/scores"]
        metrics["reward"] = metrics["reward"].fillna(scores) if "reward" in metrics else scores


def _plain_objects(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed kinds as text, which Parquet asks for."""
    mixed = [name for name in table if table[name].dtype == object]
    return table.assign(**{str(name): table[name].map(_as_text) for name in mixed})


def _as_text(value: Any) -> str | None:
    return None if value is None or value != value else value if isinstance(value, str) else json.dumps(value)
