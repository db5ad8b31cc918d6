"""Our side, through the public face: python -m tests.benchmarks.sides.ours FOLDER."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.turns import Turns
from tests.benchmarks.workload import BETA, LEARNING_RATE, THREADS, Rows, Workload
from workbench.data.batches import BatchLoader
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, RowSet
from workbench.generation.generate import generate, sample
from workbench.generation.sampling import SamplingSettings
from workbench.models.load import load_model
from workbench.trainer import DPOTrainer, SFTTrainer
from workbench.trainer.dpo_settings import DPOSettings
from workbench.trainer.machine.precision import Precision
from workbench.trainer.pairs import completion_logprobs
from workbench.trainer.sft_settings import SFTSettings

# Steps end with the turns. No checkpoint falls into a turn; records are written as in any run.
COMMON: dict[str, Any] = {"steps": 10**6, "learning_rate": LEARNING_RATE, "checkpoint_seconds": 0, "device": "cpu"}


class PacedLoader(BatchLoader):
    """Waits for its turn between the batches."""

    turns: Turns
    trainer: Any

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        batches, tokens = super().__iter__(), 0
        while True:
            row = self.trainer.last_row
            self.turns.boundary(tokens, [row["loss"]] if "loss" in row else [])
            batch = next(batches)
            tokens = num_tokens(batch)
            yield batch


def num_tokens(batch: dict[str, torch.Tensor]) -> int:
    """Real tokens that a step computes; a pair's prompt counts twice."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    masks = ("prompt_attention_mask", "prompt_attention_mask", "chosen_attention_mask", "rejected_attention_mask")
    return sum(int(batch[name].sum()) for name in masks)


def run_sft(workload: Workload, folder: Path, turns: Turns) -> None:
    """SFTTrainer, every token learned."""
    rows = Rows.load(folder)
    ids = Ragged(rows.values, rows.offsets)
    loader = PacedLoader(RowSet(ids, np.ones(len(ids.values), bool)), workload.rows, seed=0)
    settings = SFTSettings(**COMMON, batch_rows=workload.rows, precision=workload.precision)
    model = load_model(folder / "model")
    loader.turns = turns
    loader.trainer = SFTTrainer(model, None, loader, settings=settings, output_dir=folder / "ours")
    loader.trainer.train()


def run_dpo(workload: Workload, folder: Path, turns: Turns) -> None:
    """DPOTrainer, the reference scored before."""
    model = load_model(folder / "model")
    pairs = with_reference(pair_set(workload, folder), model, workload)
    loader = PacedLoader(pairs, workload.rows, seed=0)
    settings = DPOSettings(**COMMON, beta=BETA, batch_pairs=workload.rows, precision=workload.precision)
    loader.turns = turns
    loader.trainer = DPOTrainer(model, None, loader, settings=settings, output_dir=folder / "ours")
    loader.trainer.train()


def pair_set(workload: Workload, folder: Path) -> PairSet:
    """The pairs, prompts and completions apart."""
    rows = Rows.load(folder)
    parts = zip(*(rows.pair(row, workload.prompt) for row in range(len(rows.values))), strict=True)
    return PairSet(*map(Ragged.from_rows, parts))


@torch.no_grad()
def with_reference(pairs: PairSet, model: torch.nn.Module, workload: Workload) -> PairSet:
    """With the log-probabilities of the model as it is: what the stage ref_logprobs holds."""
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, len(pairs), workload.rows):
        with Precision(workload.precision, torch.device("cpu")).autocast():
            found = completion_logprobs(model, pairs.batch(np.arange(start, start + workload.rows)))[1:]
        for side, values in zip(sides, found, strict=True):
            side.append(values.numpy().ravel())
    return PairSet(pairs.prompts, pairs.chosen, pairs.rejected, *(np.concatenate(side) for side in sides))


def run_generate(workload: Workload, folder: Path, turns: Turns) -> None:
    """generate, greedy where no token ends a completion; sample where prompts have groups, as trainers ask for them."""
    rows, model = Rows.load(folder), load_model(folder / "model")
    ends = range(workload.shape.vocabulary - workload.num_ends, workload.shape.vocabulary)
    limits: dict[str, Any] = {"max_new_tokens": workload.length - workload.prompt, "eos_ids": list(ends)}
    tokens, found = 0, []
    for step in range(sys.maxsize):
        turns.boundary(tokens, found)
        chosen = np.arange(step * workload.rows, (step + 1) * workload.rows) % len(rows.values)
        prompts, seeds = rows.values[chosen].tolist(), [int(row) for row in chosen]
        with Precision(workload.precision, torch.device("cpu")).autocast():
            if workload.group > 1:
                drawn = sample(model, prompts, seeds, settings=SamplingSettings(), num_samples=workload.group, **limits)
                tokens, found = int(drawn.lengths.sum()), drawn.completion_ids.flatten().tolist()
                continue
            settings = SamplingSettings() if workload.num_ends else None
            completions = generate(model, prompts, seeds, settings=settings, **limits)
        tokens = sum(len(samples[0].completion_ids) for samples in completions)
        found = [float(token) for samples in completions for token in samples[0].completion_ids]


RUN = {"sft": run_sft, "dpo": run_dpo, "generate": run_generate}

if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    told = Workload.load(Path(sys.argv[1]))
    RUN[told.kind](told, Path(sys.argv[1]), Turns())
