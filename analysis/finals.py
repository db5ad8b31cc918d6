"""The final values of runs: what of each run's rows enters a comparison."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from analysis.load import Loaded

if TYPE_CHECKING:
    import pandas as pd


def final_values(loaded: Loaded) -> pd.DataFrame:
    """Makes Study.finals: one row for each run with metrics. The step shown is the one whose weights the run left."""
    import pandas as pd

    states = loaded.runs.set_index("run")
    rows = []
    for run, table in loaded.metrics.groupby("run", sort=False):
        state = states.loc[run]
        table = table.sort_values("step", kind="stable")
        held_out = [column for column in table.columns if column.startswith("eval/")]
        evaluated = table[table[held_out].notna().any(axis=1)]
        best = state["best_step"]
        restored = pd.notna(state["restored"]) and bool(state["restored"])
        if restored and pd.notna(best) and (evaluated["step"] == best).any():
            evaluated = evaluated[evaluated["step"] <= best]
        row: dict[str, Any] = {key: state.get(key) for key in ("experiment", "variant", "seed", "state")}
        row |= {"run": run, "finished": state["state"] == "finished", "step": math.nan}
        if len(evaluated):
            row["step"] = int(evaluated["step"].iloc[-1])
            row |= {column: evaluated[column].iloc[-1] for column in held_out}
        first = evaluated[evaluated["step"] == 0]
        row |= {f"start/{column}": first[column].iloc[0] if len(first) else math.nan for column in held_out}
        last_step = table["step"].iloc[-1]
        tail = table[table["step"] > last_step - max(1, last_step // 10)]
        # A rollout that serves several steps is told of at the first of them alone.
        rollouts = table[table["reward"].notna()] if "reward" in table else table.iloc[:0]
        rollouts = rollouts.iloc[-max(1, len(rollouts) // 10) :]
        for column in table.columns:
            if column.startswith("time/") and column.endswith("_seconds"):
                row[column] = table[column].sum(min_count=1)
            elif column.startswith("cost/") or column == "time/seconds":
                known = table[column].dropna()
                before = table[column].iloc[0] if table["step"].iloc[0] == 0 else 0.0
                row[column] = known.iloc[-1] - (0.0 if math.isnan(before) else before) if len(known) else math.nan
            elif column not in held_out and column not in row:
                row[column] = (tail if tail[column].notna().any() else rollouts)[column].mean()
        rows.append(row)
    if rows:
        return pd.DataFrame(rows)
    # A mask must be of booleans even where it is empty: one of objects would select columns.
    return pd.DataFrame(columns=["run", "variant", "seed", "finished", "step"]).astype({"finished": bool})
