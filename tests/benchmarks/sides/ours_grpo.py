"""Our side of whole GRPO steps: python -m tests.benchmarks.sides.ours_grpo FOLDER."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.sides.ours import COMMON
from tests.benchmarks.sides.reward import reward
from tests.benchmarks.turns import Turns
from tests.benchmarks.workload import THREADS, Rows, Workload, character
from workbench.data.batches import BatchLoader
from workbench.data.ragged import Ragged
from workbench.data.sets import PromptSet, Texts
from workbench.models.load import load_model
from workbench.models.tokenizer import Tokenizer
from workbench.trainer import GRPOTrainer
from workbench.trainer.grpo_settings import GRPOSettings
from workbench.trainer.loop.batches import Batch


class PacedGRPOTrainer(GRPOTrainer):
    """Waits for its turn before each step, of which there is one a rollout."""

    turns: Turns
    _began = 0.0

    def _next_batch(self) -> Batch:
        row, facts, found = self.last_row, self.turns.facts, []
        if row.get("step"):
            for name in ("sample", "reward"):
                facts.setdefault(f"{name}_seconds", []).append(row[f"time/{name}_seconds"])
            # Not time/step_seconds, which holds the wait for the turn.
            facts.setdefault("step_seconds", []).append(time.perf_counter() - self._began)
            found = [row["entropy"], row["reward"], row["completions/mean_length"]]
        self.turns.boundary(self.settings.batch_prompts * self.settings.group_size, found)
        self._began = time.perf_counter()
        return super()._next_batch()

    def _compute_loss(self, outputs: Any, batch: Batch) -> Any:
        self.turns.facts.setdefault("trained_tokens", []).append(int(batch["completion_mask"].sum()))
        return super()._compute_loss(outputs, batch)


def make_trainer(workload: Workload, folder: Path) -> PacedGRPOTrainer:
    """One update a rollout, nothing recorded in files."""
    values = Rows.load(folder).values
    texts = Texts.of(["".join(map(character, row)) for row in values])
    prompts = PromptSet(Ragged.from_rows(values), texts, Texts.of([None] * len(values)), texts)
    settings = GRPOSettings(
        **COMMON,
        batch_prompts=workload.rows,
        group_size=workload.group,
        max_new_tokens=workload.length - workload.prompt,
        precision=workload.precision,
    )
    return PacedGRPOTrainer(
        load_model(folder / "model"),
        None,
        BatchLoader(prompts, workload.rows, seed=0),
        settings=settings,
        tokenizer=Tokenizer.load(folder / "model"),
        reward_fn=reward,
    )


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    trainer = make_trainer(Workload.load(Path(sys.argv[1])), Path(sys.argv[1]))
    trainer.turns = Turns()
    trainer.train()
