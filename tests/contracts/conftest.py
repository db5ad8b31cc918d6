"""A trainer whose run can be hit at named points, and the outcome of the run that nothing hit."""

from __future__ import annotations

import pytest

from tests.contracts.points import EVERY, Loader
from tests.trainers import VARIANTS, batch_of, outcome
from workbench.tracking.store import MetricStore


@pytest.fixture
def build(make_trainer, rollout_arguments):
    """build(variant, folder, points=None) -> a trainer whose loader, forward, gradient, update, evaluator and reward
    visit points."""

    def build(name, folder, points=None, mixin=None, **settings):
        variant = VARIANTS[name]
        loader = Loader([batch_of(variant, 3, seed) for seed in range(4)])

        def visit(point):
            if points:
                points.visit(point)

        def evaluator(model, step):
            store = MetricStore(folder / "completions.jsonl")
            store.append({"step": step, "norm": sum(p.detach().double().norm().item() for p in model.parameters())})
            store.close()
            visit("evaluator")
            return {"eval/norm": next(model.parameters()).double().norm().item()}

        def judge(completions):
            visit("reward")
            return rollout_arguments["reward_fn"](completions)

        arguments = {"evaluators": [evaluator]} | ({"reward_fn": judge} if variant.samples else {})
        chosen = EVERY | variant.settings | settings
        trainer = make_trainer(name, folder, batches=loader, mixin=mixin, arguments=arguments, **chosen)
        loader.at_batch = lambda position: visit("loader")
        trainer.model.register_forward_hook(lambda *_: visit("forward"))
        trainer.parameters[0].register_post_accumulate_grad_hook(lambda _: visit("gradient"))
        trainer.optimizer.register_step_post_hook(lambda *_: visit("update"))
        return trainer

    return build


@pytest.fixture
def whole(build, once):
    """whole(variant) -> the outcome of the uninterrupted run."""

    def run(variant):
        def make(folder):
            trainer = build(variant, folder)
            trainer.train()
            return outcome(trainer, folder)

        return once(f"whole-{variant}", make)

    return run
