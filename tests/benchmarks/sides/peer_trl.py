"""TRL's side, on token ids: python -m tests.benchmarks.sides.peer_trl FOLDER [packed | packed_one_by_one]."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl

from tests.benchmarks.sides.reward import reward
from tests.benchmarks.trl_parts import COMMON, PreparedDPOTrainer, load_model
from tests.benchmarks.turns import Turns
from tests.benchmarks.workload import BETA, LEARNING_RATE, THREADS, Rows, Workload, character

PACKED_LENGTH = 512
"""Tokens of a packed row: the least that holds every text, and so the fewest positions that attention looks at."""
NOT_GRPO = ("max_length", "train_sampling_strategy")
"""Settings of the others that GRPOConfig has not."""
MASKS = ("attention_mask", "chosen_attention_mask", "rejected_attention_mask")
# A step of as many tokens, either as one sequence (what padding-free training makes of a batch) or row by row.
PACKED_BATCHES = {"packed": (8, 1), "packed_one_by_one": (1, 8)}


class Pace(transformers.TrainerCallback):
    """Waits for its turn between the steps."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.tokens, self.loss = 0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turns.boundary(self.tokens, [self.loss] if self.tokens else [])
        self.tokens, self.loss = 0, 0.0


class Paced:
    """Counts real tokens, and during the warm-up takes the losses down."""

    pace: Pace

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> torch.Tensor:
        masks = [inputs[name] for name in MASKS if name in inputs]
        self.pace.tokens += sum(int(mask.sum()) for mask in masks) if masks else inputs["position_ids"].numel()
        if self.pace.turns.warming_up and not masks:
            self.pace.turns.facts["neighbours_seen"] = sees_neighbours(model, inputs)
        loss = super().training_step(model, inputs, *more, **named)  # type: ignore[misc]
        if self.pace.turns.warming_up:
            self.pace.loss += loss.item()
        return loss


class PacedSFTTrainer(Paced, trl.SFTTrainer):
    """SFTTrainer."""


class PacedDPOTrainer(Paced, PreparedDPOTrainer):
    """DPOTrainer."""


class PacedGRPOTrainer(trl.GRPOTrainer):
    """GRPOTrainer, one update a rollout."""

    pace: GRPOPace

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = work()
        self.pace.turns.facts.setdefault(f"{name}_seconds", []).append(time.perf_counter() - started)
        return done

    def _generate(self, *given: Any) -> Any:
        return self._timed("sample", lambda: super(PacedGRPOTrainer, self)._generate(*given))

    def _calculate_rewards(self, *given: Any) -> Any:
        return self._timed("reward", lambda: super(PacedGRPOTrainer, self)._calculate_rewards(*given))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self.pace.turns.facts.setdefault("trained_tokens", []).append(int(inputs["completion_mask"].sum()))
        return super()._compute_loss(model, inputs)


class GRPOPace(transformers.TrainerCallback):
    """Waits for its turn between the steps."""

    def __init__(self, turns: Turns, trainer: PacedGRPOTrainer, completions: int) -> None:
        self.turns, self.trainer, self.completions = turns, trainer, completions
        self.began: float | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        found = []
        if self.began is not None:
            self.turns.facts.setdefault("step_seconds", []).append(time.perf_counter() - self.began)
            metrics = self.trainer._metrics["train"]
            found = [metrics[name][-1] for name in ("entropy", "reward", "completions/mean_length")]
        self.turns.boundary(self.completions, found)
        self.began = time.perf_counter()


@torch.no_grad()
def sees_neighbours(model: Any, inputs: dict[str, Any]) -> bool:
    """Whether a packed text's logits change with the text before it."""
    told = {name: inputs[name] for name in ("input_ids", "position_ids")}
    second = int((inputs["position_ids"][0] == 0).nonzero()[1])
    changed = inputs["input_ids"].clone()
    changed[:, :second] = (changed[:, :second] + 1) % 100
    before, after = (model(**told | {"input_ids": ids}).logits[:, second:] for ids in (told["input_ids"], changed))
    return not torch.allclose(before, after, atol=1e-3)


def arguments(workload: Workload, folder: Path, **own: Any) -> dict[str, Any]:
    """Of both trainers. Rows come in our order; weights stay float32 and bf16 is autocast, as on every side."""
    return COMMON | {
        "output_dir": str(folder / "trl"),
        "max_steps": 10**6,
        "per_device_train_batch_size": workload.rows,
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0,
        "bf16": workload.precision == "bf16",
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": 0,
        **own,
    }


def sft(workload: Workload, folder: Path, option: str) -> Any:
    """SFTTrainer, every token learned."""
    rows = Rows.load(folder)
    texts = [rows.text(row).tolist() for row in rows.order]
    data = datasets.Dataset.from_dict({"input_ids": texts, "labels": texts})
    own: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    if option:
        batch_rows, accumulated = PACKED_BATCHES[option]
        own = {
            "packing": True,
            "max_length": PACKED_LENGTH,
            "per_device_train_batch_size": batch_rows,
            "gradient_accumulation_steps": accumulated,
        }
    config = trl.SFTConfig(**arguments(workload, folder, **own))
    return PacedSFTTrainer(
        load_model(folder / "model"), args=config, train_dataset=data, processing_class=tokenizer(folder)
    )


def dpo(workload: Workload, folder: Path, _option: str) -> Any:
    """DPOTrainer, its reference scored before."""
    rows = Rows.load(folder)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    pairs = [
        {name: part.tolist() for name, part in zip(names, rows.pair(row, workload.prompt), strict=True)}
        for row in rows.order
    ]
    config = trl.DPOConfig(
        **arguments(workload, folder, beta=BETA, precompute_ref_log_probs=True, precompute_ref_batch_size=workload.rows)
    )
    data = datasets.Dataset.from_list(pairs)
    return PacedDPOTrainer(
        load_model(folder / "model"), args=config, train_dataset=data, processing_class=tokenizer(folder)
    )


def grpo(workload: Workload, folder: Path, _option: str) -> Any:
    """GRPOTrainer: each rollout in one batch, sampled by transformers' generate()."""
    rows = Rows.load(folder)
    own = {name: value for name, value in arguments(workload, folder).items() if name not in NOT_GRPO}
    completions = workload.rows * workload.group
    config = trl.GRPOConfig(
        **own
        | {
            "per_device_train_batch_size": completions,
            "steps_per_generation": 1,
            "num_iterations": 1,
            "num_generations": workload.group,
            "max_completion_length": workload.length - workload.prompt,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "beta": 0.0,
            "loss_type": "dapo",
            "shuffle_dataset": False,
        }
    )
    texts = ["".join(map(character, row)) for row in rows.values[rows.order]]
    return PacedGRPOTrainer(
        load_model(folder / "model"),
        reward_funcs=reward,
        args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer(folder),
    )


def tokenizer(folder: Path) -> Any:
    """TRL asks it for its padding."""
    return transformers.AutoTokenizer.from_pretrained(folder / "model")


MAKE = {"sft": sft, "dpo": dpo, "grpo": grpo}


def main(folder: Path, option: str, make: Mapping[str, Callable[[Workload, Path, str], Any]] = MAKE) -> None:
    """Make the trainer, then train turn by turn."""
    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    workload, turns = Workload.load(folder), Turns()
    turns.facts["versions"] = {module.__name__: module.__version__ for module in (torch, transformers, trl, datasets)}
    trainer = make[workload.kind](workload, folder, option)
    is_online = workload.kind == "grpo"
    trainer.pace = GRPOPace(turns, trainer, workload.rows * workload.group) if is_online else Pace(turns)
    trainer.add_callback(trainer.pace)
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
