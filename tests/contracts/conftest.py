"""A trainer of every kind, small and deterministic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contracts.points import EVERY, SAMPLED, SETTINGS, Loader
from tests.contracts.variants import ONLINE, VARIANTS, outcome
from workbench.tracking.store import MetricStore


@pytest.fixture(scope="session")
def make_trainer(small_llama, collate, make_rows) -> Callable[..., Any]:
    """make(name, batches=..., model=..., make_optimizer=..., lora=False, **settings) -> a trainer of that name."""

    def make(
        name: str,
        *,
        batches: Any = None,
        model: Any = None,
        make_optimizer: Any = None,
        lora: bool = False,
        lora_dropout: float = 0.25,
        arguments: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Any:
        from workbench.models.adapters import add_lora
        from workbench.models.settings import LoraSettings
        from workbench.trainer import get_trainer_class

        trainer_class = get_trainer_class(name)
        model = small_llama() if model is None else model
        if lora:
            add_lora(model, LoraSettings(rank=2, alpha=4, dropout=lora_dropout), seed=1)
        if batches is None:
            batches = [collate(name, make_rows(3, seed=index)) for index in range(4)]
        chosen = {"precision": "float32", "device": "cpu", "checkpoint_seconds": 0.0} | settings
        return trainer_class(
            model,
            make_optimizer and make_optimizer(model),
            batches,
            settings=trainer_class.settings_class(**chosen),
            **(arguments or {}),
        )

    return make


@pytest.fixture(scope="session")
def make_variant(make_trainer, collate, make_rows, prompt_batch, rollout_arguments) -> Callable[..., Any]:
    """make(variant, output_dir=None, rows=3, **settings, and what make_trainer takes) -> the trainer of that variant
    on four small batches."""

    def make(variant: str, output_dir: Any = None, *, rows: int = 3, **settings: Any) -> Any:
        name, own = VARIANTS[variant]

        def make_batch(number: int, seed: int) -> Any:
            return prompt_batch(number, seed) if name in ONLINE else collate(name, make_rows(number, seed))

        batches, held_out = [make_batch(rows, index) for index in range(4)], [make_batch(rows, 11)]
        arguments = {"output_dir": output_dir, "val_loader": held_out}
        arguments |= rollout_arguments if name in ONLINE else {}
        return make_trainer(name, batches=batches, arguments=arguments, **(own | settings))

    return make


@pytest.fixture
def build(make_trainer, collate, make_rows, prompt_batch, rollout_arguments):
    """build(variant, folder, points=None) -> a trainer whose loader, forward, update, evaluator and reward visit
    points."""

    def build(variant, folder, points=None, **more):
        name, settings = SETTINGS[variant]
        make_batch = prompt_batch if variant in SAMPLED else lambda number, seed: collate(name, make_rows(number, seed))
        loader = Loader([make_batch(3, index) for index in range(4)])

        def evaluator(model, step):
            store = MetricStore(folder / "completions.jsonl")
            store.append({"step": step, "norm": sum(p.detach().double().norm().item() for p in model.parameters())})
            store.close()
            if points:
                points.visit("evaluator")
            return {"eval/norm": next(model.parameters()).double().norm().item()}

        arguments = {
            "output_dir": folder,
            "evaluators": [evaluator],
            "val_loader": [make_batch(3, 11)],
        }
        if variant in SAMPLED:
            reward = rollout_arguments["reward_fn"]

            def judge(completions):
                if points:
                    points.visit("reward")
                return reward(completions)

            arguments |= rollout_arguments | {"reward_fn": judge}
        trainer = make_trainer(name, batches=loader, arguments=arguments, **(EVERY | settings | more))
        if points:
            loader.at_batch = lambda position: points.visit("loader")
            trainer.model.register_forward_hook(lambda *_: points.visit("forward"))
            trainer.optimizer.register_step_post_hook(lambda *_: points.visit("update"))
            check = trainer._check_gradient
            trainer._check_gradient = lambda row: (points.visit("gradient"), check(row))[1]
        return trainer

    return build


@pytest.fixture(scope="module")
def finished():
    return {}


@pytest.fixture
def whole(build, finished, tmp_path):
    """whole(variant) -> the outcome of the uninterrupted run."""

    def run(variant):
        if variant not in finished:
            trainer = build(variant, tmp_path / f"whole-{variant}")
            trainer.train()
            finished[variant] = outcome(trainer, tmp_path / f"whole-{variant}")
        return finished[variant]

    return run
