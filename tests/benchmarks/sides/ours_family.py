"""Our side of ORPO, SimPO, KTO, reward models and distillation: python -m tests.benchmarks.sides.ours_family FOLDER."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.sides.ours import COMMON, PacedLoader, pair_set
from tests.benchmarks.turns import Turns
from tests.benchmarks.workload import BETA, THREADS, Rows, Workload, one_of
from workbench.data.forms.judged import JudgedSet
from workbench.data.ragged import Ragged
from workbench.data.sets import RowSet, TokenSet
from workbench.models.load import load_model
from workbench.trainer import get_trainer_class

SETTINGS: dict[str, dict[str, Any]] = {
    "orpo": {"beta": BETA, "nll_over": "prompt_and_response"},
    "simpo": {"beta": 2.0, "gamma": 1.0},
    "kto": {"beta": BETA},
    "reward": {"center_rewards_coefficient": 0.0},
    "distill": {"beta": 0.5, "on_policy_share": 0.0},
}
"""By the method; TRL is given the same."""


def row_set(texts: Iterable[tuple[np.ndarray, np.ndarray]]) -> RowSet:
    """Rows of a prompt and a completion, of which the latter is learned."""
    ids, learned = [], []
    for prompt, completion in texts:
        ids.append(np.concatenate([prompt, completion]))
        learned.append(np.repeat([False, True], [len(prompt), len(completion)]))
    return RowSet(Ragged.from_rows(ids), Ragged.from_rows(learned, bool).values)


def data_of(workload: Workload, folder: Path) -> TokenSet:
    """What the method learns from."""
    if workload.kind not in ("kto", "distill"):
        return pair_set(workload, folder)
    rows = Rows.load(folder)
    numbers = range(len(rows.values))
    texts = row_set(one_of(rows.pair(row, workload.prompt), row) for row in numbers)
    return JudgedSet(texts, "desirable", np.arange(len(numbers)) % 2 == 0) if workload.kind == "kto" else texts


def main(workload: Workload, folder: Path, turns: Turns) -> None:
    """Train turn by turn."""
    cls, loader = get_trainer_class(workload.kind), PacedLoader(data_of(workload, folder), workload.rows, seed=0)
    size = cls.settings_class.data_form.batch_setting
    settings = {**COMMON, **SETTINGS[workload.kind], size: workload.rows, "precision": workload.precision}
    given = {"ref_model": load_model(folder / "teacher")} if workload.kind == "distill" else {}
    loader.turns = turns
    loader.trainer = cls(
        load_model(folder / "model"), None, loader, settings=settings, output_dir=folder / "ours", **given
    )
    loader.trainer.train()


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    main(Workload.load(Path(sys.argv[1])), Path(sys.argv[1]), Turns())
