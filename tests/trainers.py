"""Every trainer in every variant of its state: the one table of them, and the one factory.

A new trainer needs no entry: it is found by its file, and its data form says what its batches are. An entry in TRAINERS
adds settings that leave more to lose where a run is killed, and settings under which every term of its loss counts.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.batches import Letters, collate, make_rows, prompt_batch, share_of_late_letters
from workbench.tracking.reader import read_rows
from workbench.trainer.registry import get_settings_class, trainer_names

SAMPLING = {"batch_prompts": 3, "group_size": 3, "max_new_tokens": 4}
"""Of trainers of prompts."""
# Terms of different units, and a reference that is not the start: at h = 0 only rounding decides who wins.
PAIR_TERMS = {"nll_weight": 0.5, "beta": 0.5, "starts_from_reference": False}
MIXED = {"on_policy_share": 0.5, "max_new_tokens": 4}
# A reference with weights of its own, which move within a rollout's passes and between batches.
MOVING = {"sync_reference_every": 2, "sync_reference_weight": 0.5}
TOKEN_TERMS = {"beta": 0.1, "entropy_bonus": 0.05}


@dataclass(frozen=True)
class Entry:
    """What a trainer's own settings class does not say of it."""

    state: dict[str, Any] = field(default_factory=dict)
    """Settings that leave much to lose: passes, minibatches, a controlled coefficient."""
    terms: dict[str, Any] = field(default_factory=dict)
    """Settings under which every term of its loss counts."""


TRAINERS = {name: Entry() for name in trainer_names()} | {
    "dpo": Entry(MOVING | {"loss": {"aot": 0.5, "bco_pair": 1.0}}, PAIR_TERMS),
    "grpo": Entry({"passes": 2, "minibatches": 2}, TOKEN_TERMS),
    "ppo": Entry({"passes": 2, "kl_target": 0.01, "kl_horizon": 50.0, "kl_stop": 1e-4}, TOKEN_TERMS),
    "rloo": Entry({"passes": 2, "minibatches": 2}, TOKEN_TERMS),
    "reinforce_pp": Entry({"passes": 2, "minibatches": 2}, TOKEN_TERMS),
    "online_dpo": Entry(MOVING | {"passes": 2}, PAIR_TERMS),
    "distill": Entry(MIXED, MIXED),
    "orpo": Entry(terms={"nll_over": "prompt_and_response"}),
    "simpo": Entry(terms={"nll_weight": 0.5, "alpha": 0.1}),
}
ONLINE = [name for name in TRAINERS if get_settings_class(name).data_form.is_sampled]


@dataclass(frozen=True)
class Variant:
    """A trainer with settings, and whether it samples completions itself."""

    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    samples: bool = False


# A learning rate that overshoots, so that the best weights are not the last.
STOPPING = {
    "learning_rate": 0.02,
    "evaluate_every": 1,
    "early_stopping": {"metric": "eval/loss", "mode": "min", "patience": 3},
}
# Ends at its fifth step, by the loss of its second.
RANGE_TEST = {"schedule": "range_test", "learning_rate": 10.0, "min_learning_rate_ratio": 0.01, "range_test_stop": 1.5}
WHOLE = {
    name: Variant(name, (SAMPLING if name in ONLINE else {}) | entry.state, samples=name in ONLINE)
    for name, entry in TRAINERS.items()
}
"""Every trainer, with the settings that leave the most to lose."""
ADAPTERS = {
    "sft-lora": Variant("sft", {"lora": True}),
    "dpo-lora": Variant("dpo", {"lora": True, "ema_decay": 0.9}),
    "grpo-lora": Variant("grpo", SAMPLING | {"lora": True, "beta": 0.1}, samples=True),
}
SCORED = {f"{name}-scored": Variant(name, {"learning_rate": 1e-3, "passes": 1}) for name in ONLINE}
"""Trainers of prompts on completions that were sampled and scored elsewhere."""
STATES = {
    "sft-early-stopping": Variant("sft", STOPPING),
    "dpo-micro-batches": Variant("dpo", {"micro_batch_rows": 2, "schedule": "cosine", "warmup_steps": 2}),
    "sft-bf16": Variant("sft", {"precision": "bf16"}),
    "sft-fp16": Variant("sft", {"precision": "fp16"}),
    "sft-averaged": Variant("sft", STOPPING | {"ema_decay": 0.5}),
    "dpo-muon-averaged": Variant("dpo", {"optimizer": "muon", "ema_decay": 0.9, "weight_decay": 0.1}),
    "sft-lora-recomputed": Variant("sft", {"lora": True, "gradient_checkpointing": True}),
    "sft-range-test": Variant("sft", RANGE_TEST),
    "grpo-dynamic": Variant(
        "grpo", SAMPLING | {"dynamic_sampling": 2, "group_size": 2, "max_new_tokens": 1}, samples=True
    ),
}
"""What the core remembers beside a trainer's own state."""
VARIANTS = WHOLE | ADAPTERS | SCORED | STATES
EVERY_TRAINER = [*WHOLE, *ADAPTERS]
"""What each contract is held to."""


def batch_of(variant: Variant, rows: int, seed: int = 0) -> dict[str, Any]:
    """A batch that the variant learns from."""
    if variant.samples:
        return prompt_batch(rows, seed)
    return collate(get_settings_class(variant.trainer).data_form, make_rows(rows, seed))


def make_trainer(
    variant: str | Variant,
    folder: Path | None = None,
    *,
    make_model: Callable[..., Any],
    rows: int = 3,
    batches: Any = None,
    model: Any = None,
    make_optimizer: Callable[[Any], Any] | None = None,
    lora_dropout: float = 0.25,
    mixin: type | None = None,
    arguments: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """The trainer of a variant, small and deterministic, on four batches of so many rows; it writes to the folder.

    mixin: a class whose methods stand over the trainer's own, as those of a class derived from it do.
    settings: over those of the variant; `lora` adds an adapter. arguments: the constructor's, over the factory's.
    """
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings
    from workbench.trainer import get_trainer_class

    if isinstance(variant, str):
        variant = VARIANTS[variant]
    chosen = {"precision": "float32", "device": "cpu", "checkpoint_seconds": 0.0} | variant.settings | settings
    model = make_model() if model is None else model
    if chosen.pop("lora", False):
        add_lora(model, LoraSettings(rank=2, alpha=4, dropout=lora_dropout), seed=1)
    given = {"output_dir": folder, "val_loader": [batch_of(variant, rows, 11)]}
    if variant.samples:
        given |= {"tokenizer": Letters(), "reward_fn": share_of_late_letters}
    trainer_class = get_trainer_class(variant.trainer)
    if trainer_class.settings_class.needs_teacher:
        given["ref_model"] = make_model(seed=1).to(next(model.parameters()).dtype)
    if mixin is not None:
        trainer_class = watched(trainer_class, mixin)
    return trainer_class(
        model,
        make_optimizer and make_optimizer(model),
        [batch_of(variant, rows, seed) for seed in range(4)] if batches is None else batches,
        settings=trainer_class.settings_class(**chosen),
        **given | (arguments or {}),
    )


class Watched:
    """A trainer that keeps what its hooks made: the updates of each batch, and the row of each step."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.made: list[Any] = []
        self.rows: list[dict[str, float]] = []

    def _make_update_batches(self, batch: Any) -> Any:
        self.made.append(super()._make_update_batches(batch))  # type: ignore[misc]
        return self.made[-1]

    def _check_gradient(self, row: dict[str, float]) -> dict[str, float]:
        self.rows.append(super()._check_gradient(row))  # type: ignore[misc]
        return self.rows[-1]

    def updates_of(self, batch: Any = None) -> Any:
        """The updates of a batch, or of the first that it would train on; making them leaves a trainer as it is."""
        batch = next(iter(self.train_loader)) if batch is None else batch  # type: ignore[attr-defined]
        return super()._make_update_batches(self._prepare_batch(batch))  # type: ignore[attr-defined,misc]

    def logprobs_of(self, batch: Any) -> Any:
        """The policy's log-probabilities of an update's tokens, as it is now."""
        return self._forward(batch)[0].detach()  # type: ignore[attr-defined]


def watched(trainer_class: type, mixin: type = Watched) -> Any:
    """The trainer's class, with the mixin's methods over its own. What its passes compute is what they computed."""
    own: Any = trainer_class
    return type(own.__name__, (mixin, own), {"_work": own._work})


@contextlib.contextmanager
def counted_once() -> Iterator[None]:
    """While open, models that are built alike are counted once: the passes that count a small model's FLOPs take longer
    than its training. Models that are not our own Llama, or whose forward is not their class's, are counted each time.
    """
    from workbench.models import flops
    from workbench.models.llama import Llama

    count, counts = flops.count_layers, {}

    def count_once(model: Any, recomputing: Any = None, **how: Any) -> Any:
        if type(model) is not Llama or any("forward" in vars(module) for module in model.modules()):
            return count(model, recomputing, **how)
        weights = tuple((name, p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters())
        recomputes = recomputing not in (None, contextlib.nullcontext)
        key = (str(model), str(model.config), weights, recomputes, *sorted(how.items()))
        if key not in counts:
            counts[key] = count(model, recomputing, **how)
        return counts[key]

    flops.count_layers = count_once
    yield
    flops.count_layers = count


def outcome(trainer: Any, folder: Path) -> dict[str, Any]:
    """What must be equal to the last bit of two runs: metrics less their clocks, completions, weights and costs."""
    return {
        "rows": [without_clocks(row) for row in read_rows(folder / "metrics.jsonl")],
        "completions": read_rows(folder / "completions.jsonl"),
        "weights": digest_of_weights(trainer),
        "end": (trainer.step, trainer.stopped_by, trainer.restored_best, without_clocks(trainer.last_row)),
        "costs": trainer.costs.flops,
    }


def digest_of_weights(trainer: Any) -> str:
    """A hash of every bit of the weights."""
    digest = hashlib.sha256()
    for parameter in trainer.unwrapped_model.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics less those that are times."""
    return {key: value for key, value in row.items() if not key.startswith("time/")}
