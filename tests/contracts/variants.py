"""Every trainer, full and LoRA, with the settings that leave the most to lose: passes, minibatches, averages, a
controlled KL coefficient; and all that must be equal of two runs of one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from workbench.tracking.reader import read_rows

SAMPLING = {"batch_prompts": 3, "group_size": 3, "max_new_tokens": 4}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("sft", "pretrain", "dpo")},
    "sft-lora": ("sft", {"lora": True}),
    "dpo-lora": ("dpo", {"lora": True, "ema_decay": 0.9}),
    "grpo": ("grpo", SAMPLING | {"passes": 2, "minibatches": 2}),
    "grpo-lora": ("grpo", SAMPLING | {"lora": True, "beta": 0.1}),
    "ppo": ("ppo", SAMPLING | {"passes": 2, "kl_target": 0.01, "kl_horizon": 50.0}),
    "online_dpo": ("online_dpo", SAMPLING | {"passes": 2}),
}
ONLINE = ("grpo", "ppo", "online_dpo")


def outcome(trainer: Any, folder: Path) -> dict[str, Any]:
    """What must be equal to the last bit: metrics less their clocks, completions, weights and costs."""
    digest = hashlib.sha256()
    for parameter in trainer.unwrapped_model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return {
        "rows": [_without_clocks(row) for row in read_rows(folder / "metrics.jsonl")],
        "completions": read_rows(folder / "completions.jsonl"),
        "weights": digest.hexdigest(),
        "end": (trainer.step, trainer.stopped_by, trainer.restored_best, _without_clocks(trainer.last_row)),
        "costs": trainer.costs.flops,
    }


def _without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("time/")}
