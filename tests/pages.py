"""The tables that pages of docs/ hold and that the code says: python -m tests.pages writes them.

What every method reached in one shipped definition is among them: `make exp NAME=methods_sort` first. It is kept in
experiments/measured.csv, which `workbench explain --methods` reads.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from analysis import load_runs
from analysis.stats import t_interval
from tests.benchmarks.page import paste_table
from tests.documents import ROOT
from workbench.experiment.definition.methods import MEASURED, methods_table, options_table
from workbench.objectives.preference import PREFERENCE_LOSSES
from workbench.trainer.batch_format import table
from workbench.trainer.registry import get_settings_class, trainer_names

DEFINITION = "methods_sort"
MEASURE = "eval/exact_match_sampled"
METHODS, BATCHES, PAIRWISE = "workbench explain --methods", "batches", "losses of dpo"
"""What the tables' marks are called."""


def measured(folder: Path) -> dict[str, str]:
    """The mean over seeds of the last evaluation, with its 95 % interval, in words by trainer."""
    if not (folder / DEFINITION).is_dir():
        return {}
    loaded = load_runs(folder, lambda row: row["experiment"] == DEFINITION and row["state"] == "finished")
    rows = loaded.metrics.dropna(subset=[MEASURE]).sort_values("step").groupby("run")[MEASURE].last()
    found = {}
    for trainer, runs in loaded.runs.groupby("trainer"):
        last = rows[runs["run"]].to_numpy()
        interval = t_interval(last)
        found[str(trainer)] = f"{last.mean():.3f} ({interval.low:.3f} to {interval.high:.3f}, {len(last)} seeds)"
    return found


def write_pages() -> None:
    """Pastes every generated table into its page."""
    paste_table(ROOT / "docs/methods.md", methods_table(ROOT / "experiments"), METHODS)
    paste_table(ROOT / "docs/methods.md", options_table(PREFERENCE_LOSSES), PAIRWISE)
    paste_table(ROOT / "docs/python.md", batches_table(), BATCHES)


def batches_table() -> str:
    """The keys of every trainer's batches."""
    return table({name: get_settings_class(name).batch for name in trainer_names()})


def main() -> int:
    """Writes what the runs at hand reached, where there are any, and the pages."""
    if found := measured(Path("runs")):
        with (ROOT / "experiments" / MEASURED).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("trainer", "measured"), *sorted(found.items())])
    else:
        print(f"found no finished run of {DEFINITION}; what was measured before stays", file=sys.stderr)
    write_pages()
    return 0


if __name__ == "__main__":
    sys.exit(main())
