"""Every trainer, full and LoRA, with the settings that leave the most to lose: passes, minibatches, averages, a
controlled KL coefficient."""

from __future__ import annotations

from typing import Any

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
