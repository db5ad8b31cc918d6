"""The tables that pages of docs/ hold and that the code says: python -m tests.pages writes them.

What methods reached in shipped definitions is among them: `make exp` of those in MEASURED_IN first. It is kept in
experiments/measured.csv, which `workbench explain --methods` reads.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from analysis import load_runs
from analysis.stats import t_interval
from tests.benchmarks.page import paste_table
from tests.documents import ROOT
from workbench.experiment.definition.methods import MEASURED, methods_table, options_table
from workbench.objectives.preference import PREFERENCE_LOSSES
from workbench.trainer.batch_format import table
from workbench.trainer.registry import get_settings_class, trainer_names

MEASURED_IN = {
    "methods_sort": ("eval/exact_match_sampled", "exact match"),
    "distill_countdown": ("eval/exact_match_sampled", "exact match"),
    "reward_model_sort": ("eval/pair_accuracy", "pair accuracy"),
}
"""Shipped definitions, and what is measured in each; a trainer is shown in the first that has it."""
METHODS, BATCHES, PAIRWISE = "workbench explain --methods", "batches", "losses of dpo"
"""What the tables' marks are called."""


def measured(folder: Path) -> dict[str, str]:
    """What the last evaluations give, in words by trainer: the mean over seeds with its 95 % interval."""
    found: dict[str, str] = {}
    for name, (measure, label) in MEASURED_IN.items():
        if (folder / name).is_dir():
            loaded = load_runs(folder, lambda row, name=name: row["experiment"] == name and row["state"] == "finished")
            last = loaded.metrics.dropna(subset=[measure]).sort_values("step").groupby("run")[measure].last()
            for trainer, runs in loaded.runs.groupby("trainer"):
                arms = [_words(str(arm), last[own["run"]].to_numpy()) for arm, own in runs.groupby("variant")]
                found.setdefault(str(trainer), f"{label} in {name}: {'; '.join(arms)}")
    return found


def _words(variant: str, values: np.ndarray) -> str:
    """One variant's values over seeds."""
    found = t_interval(values)
    return f"{variant} {found.mean:.3f} ({found.low:.3f} to {found.high:.3f}, {found.n} seeds)"


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
        print(f"found no run of {', '.join(MEASURED_IN)}; what was measured before stays", file=sys.stderr)
    write_pages()
    return 0


if __name__ == "__main__":
    sys.exit(main())
