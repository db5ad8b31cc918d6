"""TRL's side of ORPO, SimPO, KTO, reward models and distillation, on token ids:
python -m tests.benchmarks.sides.trl_family FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import datasets
import torch
import transformers
import trl
from trl.experimental import cpo, gkd, orpo
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.benchmarks.sides.peer_trl import Paced, arguments, main, tokenizer
from tests.benchmarks.trl_parts import load_model
from tests.benchmarks.workload import BETA, Rows, Workload, one_of

IGNORED = -100


class PacedORPOTrainer(Paced, orpo.ORPOTrainer):
    """ORPOTrainer on token ids."""

    def tokenize_row(self, feature: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return feature


class PacedCPOTrainer(Paced, cpo.CPOTrainer):
    """CPOTrainer on token ids."""

    tokenize_row = PacedORPOTrainer.tokenize_row


class PacedKTOTrainer(Paced, trl.KTOTrainer):
    """KTOTrainer on token ids."""

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset


class PacedRewardTrainer(Paced, trl.RewardTrainer):
    """RewardTrainer."""


class PacedGKDTrainer(Paced, gkd.GKDTrainer):
    """GKDTrainer."""


def pairs_of(workload: Workload, folder: Path) -> list[list[list[int]]]:
    """Prompt, chosen and rejected completion of each pair, in the order of the steps."""
    rows = Rows.load(folder)
    return [[part.tolist() for part in rows.pair(row, workload.prompt)] for row in rows.order]


def texts_of(workload: Workload, folder: Path) -> list[tuple[list[int], list[int], bool]]:
    """Prompt, completion and whether it is wanted, in the order of the steps."""
    rows = Rows.load(folder)
    texts = ((row, one_of(rows.pair(row, workload.prompt), row)) for row in rows.order)
    return [(prompt.tolist(), completion.tolist(), bool(row % 2 == 0)) for row, (prompt, completion) in texts]


def without_reference(trainer: Any, config: Any, workload: Workload, folder: Path, **own: Any) -> Any:
    """ORPOTrainer or CPOTrainer."""
    rows = []
    for prompt, *sides in pairs_of(workload, folder):
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side, completion in zip(("chosen", "rejected"), sides, strict=True):
            row[f"{side}_input_ids"] = prompt + completion
            row[f"{side}_attention_mask"] = [1] * len(row[f"{side}_input_ids"])
            row[f"{side}_labels"] = [IGNORED] * len(prompt) + completion
        rows.append(row)
    given = arguments(workload, folder, remove_unused_columns=False, **own)
    return trainer(
        load_model(folder / "model"),
        args=config(**given),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(folder),
    )


def odds_ratio(workload: Workload, folder: Path, _option: str) -> Any:
    """ORPOTrainer."""
    return without_reference(PacedORPOTrainer, orpo.ORPOConfig, workload, folder, beta=BETA)


def simple(workload: Workload, folder: Path, _option: str) -> Any:
    """CPOTrainer with SimPO's loss, without its likelihood term."""
    own = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}
    return without_reference(PacedCPOTrainer, cpo.CPOConfig, workload, folder, **own)


def kto(workload: Workload, folder: Path, _option: str) -> Any:
    """KTOTrainer; the completion of the row before stands behind each prompt, as TRL has it."""
    texts = texts_of(workload, folder)
    rows = []
    for start in range(0, len(texts), workload.rows):
        batch = texts[start : start + workload.rows]
        rows += [
            {"prompt_ids": p, "completion_ids": c, "KL_completion_ids": batch[place - 1][1], "label": wanted}
            for place, (p, c, wanted) in enumerate(batch)
        ]
    return PacedKTOTrainer(
        load_model(folder / "model"),
        ref_model=load_model(folder / "model"),
        args=trl.KTOConfig(**arguments(workload, folder, beta=BETA)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(folder),
    )


def reward(workload: Workload, folder: Path, _option: str) -> Any:
    """RewardTrainer; its head begins as ours does."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder / "model", num_labels=1, dtype=torch.float32
    )
    spread = model.config.initializer_range
    torch.nn.init.normal_(model.score.weight, 0.0, spread, generator=torch.Generator().manual_seed(0))
    rows = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in pairs_of(workload, folder)]
    return PacedRewardTrainer(
        model,
        args=trl.RewardConfig(**arguments(workload, folder)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(folder),
    )


def distill(workload: Workload, folder: Path, _option: str) -> Any:
    """GKDTrainer on the rows alone; its other trainer, DistillationTrainer, learns from own samples only."""
    rows = [{"input_ids": p + c, "labels": [IGNORED] * len(p) + c} for p, c, _ in texts_of(workload, folder)]
    config = gkd.GKDConfig(**arguments(workload, folder, lmbda=0.0, beta=0.5, temperature=1.0))
    return PacedGKDTrainer(
        load_model(folder / "model"),
        teacher_model=load_model(folder / "teacher"),
        args=config,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(folder),
    )


MAKE = {"orpo": odds_ratio, "simpo": simple, "kto": kto, "reward": reward, "distill": distill}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], MAKE)
