"""Trainers in every variant of their state, and the named points at which a run of them can be hit."""

from __future__ import annotations

from tests.contracts.variants import SAMPLING, outcome
from workbench.trainer.registry import trainer_names

STEPS = 6
EVERY = {"checkpoint_every": 2, "evaluate_every": 2, "steps": STEPS}
# A learning rate that overshoots, so that the best weights are not the last.
STOPPING = {
    "learning_rate": 0.02,
    "evaluate_every": 1,
    "early_stopping": {"metric": "eval/loss", "mode": "min", "patience": 3},
}
# Ends at its fifth step, by the loss of its second.
RANGE_TEST = {"schedule": "range_test", "learning_rate": 10.0, "min_learning_rate_ratio": 0.01, "range_test_stop": 1.5}
VARIANTS = {
    **{name: (name, {}) for name in trainer_names()},
    "ppo": ("ppo", {"passes": 1, "learning_rate": 1e-3}),  # a batch a step, as every other
    "sft-lora": ("sft", {"lora": True}),
    "dpo-lora": ("dpo", {"lora": True}),
    "sft-early-stopping": ("sft", STOPPING),
    "dpo-micro-batches": ("dpo", {"micro_batch_rows": 2, "schedule": "cosine", "warmup_steps": 2}),
    "sft-bf16": ("sft", {"precision": "bf16"}),
    "sft-fp16": ("sft", {"precision": "fp16"}),
    "sft-averaged": ("sft", STOPPING | {"ema_decay": 0.5}),
    "dpo-muon-averaged": ("dpo", {"optimizer": "muon", "ema_decay": 0.9, "weight_decay": 0.1}),
    "sft-lora-recomputed": ("sft", {"lora": True, "gradient_checkpointing": True}),
    "sft-range-test": ("sft", RANGE_TEST),
}
# Completions of their own, so that a signal finds rollouts in the making and half used.
SAMPLED = {
    "grpo-sampled": ("grpo", {"passes": 2, "minibatches": 2}),
    "grpo-sampled-lora": ("grpo", {"lora": True, "beta": 0.1}),
    "grpo-sampled-dynamic": ("grpo", {"dynamic_sampling": 2, "group_size": 2, "max_new_tokens": 1}),
    "ppo-sampled": ("ppo", {"passes": 2, "kl_target": 0.01, "kl_horizon": 50.0, "kl_stop": 1e-4}),
    "online_dpo-sampled": ("online_dpo", {"passes": 2}),
}
SETTINGS = VARIANTS | {variant: (name, SAMPLING | settings) for variant, (name, settings) in SAMPLED.items()}


class Loader:
    """Batches by position, and a point at which something may happen."""

    def __init__(self, batches):
        self.batches, self.position, self.at_batch = batches, 0, lambda position: None

    position = property(lambda self: self._position, lambda self, value: setattr(self, "_position", value))

    def __iter__(self):
        while True:
            batch = self.batches[self.position % len(self.batches)]
            self.position += 1
            self.at_batch(self.position)
            yield batch


class Points:
    """Where a run can be hit: calls `act` at the n-th visit to one named point of it."""

    def __init__(self, point, visit, act):
        self.point, self.left, self.act = point, visit, act

    def visit(self, point):
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                self.act()


def go_on(build, variant, folder, **more):
    trainer = build(variant, folder, **more)
    trainer.resume()
    trainer.train()
    return outcome(trainer, folder)
