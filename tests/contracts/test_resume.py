"""Law 3: interrupt anywhere, resume, and metrics and weights are bit-identical: every trainer."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.test_interrupts import SignalWithin
from workbench.errors import CheckpointError, Interrupted
from workbench.tracking.reader import read_rows
from workbench.tracking.store import MetricStore
from workbench.trainer import snapshot, surroundings
from workbench.trainer.registry import get_settings_class, trainer_names

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
SAMPLING = {"batch_prompts": 3, "group_size": 3, "max_new_tokens": 4}
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


def outcome(trainer, folder):
    """Everything that must not move: rows less their clocks, completions, weights, costs."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read_rows(folder / "metrics.jsonl")
    ]
    digest = hashlib.sha256()
    for parameter in trainer.unwrapped_model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    last = {key: value for key, value in trainer.last_row.items() if not key.startswith("time/")}
    return {
        "rows": rows,
        "completions": read_rows(folder / "completions.jsonl"),
        "weights": digest.hexdigest(),
        "end": (trainer.step, trainer.stopped_by, trainer.restored_best, trainer.costs.flops, last),
    }


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


def go_on(build, variant, folder, **more):
    trainer = build(variant, folder, **more)
    trainer.resume()
    trainer.train()
    return outcome(trainer, folder)


def test_a_run_has_a_row_for_every_step_and_learns(whole):
    for variant in trainer_names():
        rows = whole(variant)["rows"]
        assert [row["step"] for row in rows] == list(range(STEPS + 1))
        if get_settings_class(variant).data_form == "prompts":
            # A surrogate's value on completions of another policy says nothing of learning, but that it moves.
            assert rows[-1]["eval/loss"] != rows[0]["eval/loss"]
        else:
            assert rows[-1]["eval/loss"] < rows[0]["eval/loss"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("point", "visit"),
    [
        ("loader", 1),
        ("loader", 4),
        ("forward", 1),
        ("forward", 6),
        ("gradient", 4),
        ("update", 3),
        ("evaluator", 1),
        ("evaluator", 2),
    ],
)
def test_sigterm_at_any_point_then_resume_changes_nothing(variant, point, visit, build, whole, tmp_path):
    points = Points(point, visit, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted) as stopped:
        build(variant, tmp_path / "run", points).train()
    assert stopped.value.exit_code == 143
    assert go_on(build, variant, tmp_path / "run") == whole(variant)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("point", "visit"), [("loader", 3), ("forward", 5), ("update", 5), ("evaluator", 3)])
def test_sigkill_at_any_point_then_resume_changes_nothing(variant, point, visit, build, whole, tmp_path, in_processes):
    points = Points(point, visit, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert in_processes(1, lambda _: build(variant, tmp_path / "run", points).train()) == [-signal.SIGKILL]
    assert go_on(build, variant, tmp_path / "run") == whole(variant)


@pytest.mark.parametrize("variant", ["dpo", "grpo-sampled"])
@pytest.mark.parametrize(("point", "visit"), [("loader", 2), ("forward", 5), ("evaluator", 2)])
def test_sigterm_that_a_library_turns_into_an_error_then_resume_changes_nothing(
    variant, point, visit, build, whole, tmp_path
):
    with pytest.raises(Interrupted) as stopped:
        build(variant, tmp_path / "run", Points(point, visit, SignalWithin(signal.SIGTERM).arrive)).train()
    assert stopped.value.exit_code == 143
    assert go_on(build, variant, tmp_path / "run") == whole(variant)


def test_what_is_sampled_differs_and_is_recorded(whole):
    for variant in SAMPLED:
        found = whole(variant)
        sampled = [row for row in found["completions"] if row.get("split") == "train"]
        assert len({row["step"] for row in sampled}) >= 2
        assert len({row["completion"] for row in sampled}) > 5
        assert any(row["advantage"] for row in sampled)
    rounds = [row["sampling/rounds"] for row in whole("grpo-sampled-dynamic")["rows"] if "sampling/rounds" in row]
    assert max(rounds) > 1
    betas = [row["objective/kl_coefficient"] for row in whole("ppo-sampled")["rows"] if "reward" in row]
    assert len(set(betas)) == len(betas) > 2


@pytest.mark.parametrize("variant", SAMPLED)
@pytest.mark.parametrize(
    ("point", "visit"),
    [("reward", 1), ("reward", 2), ("reward", 4), ("loader", 2), ("forward", 5), ("gradient", 3), ("update", 3),
     ("evaluator", 2)],
)  # fmt: skip
def test_sigterm_around_a_rollout_then_resume_changes_nothing(variant, point, visit, build, whole, tmp_path):
    points = Points(point, visit, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted):
        build(variant, tmp_path / "run", points).train()
    assert go_on(build, variant, tmp_path / "run") == whole(variant)


@pytest.mark.parametrize("variant", SAMPLED)
@pytest.mark.parametrize(("point", "visit"), [("reward", 3), ("gradient", 4), ("update", 5)])
def test_sigkill_around_a_rollout_then_resume_changes_nothing(
    variant, point, visit, build, whole, tmp_path, in_processes
):
    points = Points(point, visit, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert in_processes(1, lambda _: build(variant, tmp_path / "run", points).train()) == [-signal.SIGKILL]
    assert go_on(build, variant, tmp_path / "run") == whole(variant)


@pytest.mark.parametrize("name", ["fsync", "truncate", "rename", "rmtree", "mkdir", "append"])
@pytest.mark.parametrize("visit", [1, 2, 4, 7])
def test_sigkill_at_every_kind_of_write_then_resume_changes_nothing(name, visit, build, whole, tmp_path, in_processes):
    def run(_):
        owner = {"fsync": os, "truncate": os, "rename": Path, "rmtree": shutil, "mkdir": Path, "append": MetricStore}
        call = getattr(owner[name], name)
        points = Points(name, visit, lambda: os.kill(os.getpid(), signal.SIGKILL))

        def hit(*arguments, **keywords):
            points.visit(name)
            return call(*arguments, **keywords)

        setattr(owner[name], name, hit)
        return build("dpo", tmp_path / "run", keep_checkpoints=1).train() and 0

    assert in_processes(1, run)[0] in (-signal.SIGKILL, 0)
    assert go_on(build, "dpo", tmp_path / "run", keep_checkpoints=1) == whole("dpo")


@pytest.mark.parametrize("variant", ["dpo", "sft-early-stopping", "sft-fp16", "grpo-sampled", "ppo-sampled"])
def test_interrupted_at_every_step_in_turn_changes_nothing(variant, build, whole, tmp_path):
    for _ in range(3 * STEPS):
        points = Points("forward", 3, lambda: signal.raise_signal(signal.SIGINT))
        trainer = build(variant, tmp_path, points)
        trainer.resume()
        try:
            trainer.train()
        except Interrupted:
            continue
        break
    assert outcome(trainer, tmp_path) == whole(variant)


@pytest.mark.parametrize("variant", ["dpo", "sft-fp16"])
@pytest.mark.parametrize("point", ["loader", "forward", "gradient", "evaluator"])
def test_train_again_in_the_same_process_after_an_interrupt_changes_nothing(variant, point, build, whole, tmp_path):
    trainer = build(variant, tmp_path, Points(point, 3, lambda: signal.raise_signal(signal.SIGTERM)))
    with pytest.raises(Interrupted):
        trainer.train()
    trainer.train()
    assert outcome(trainer, tmp_path) == whole(variant)


def test_a_finished_run_resumes_to_the_same_end(build, whole, tmp_path):
    for variant in ("sft", "sft-early-stopping"):
        build(variant, tmp_path / variant).train()
        assert go_on(build, variant, tmp_path / variant) == whole(variant)


def test_early_stopping_restores_weights_that_are_not_the_last(whole):
    rows = whole("sft-early-stopping")["rows"]
    measured = {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}
    assert (min(measured, key=measured.get), max(measured)) == (2, 5)
    assert whole("sft-early-stopping")["end"][1:3] == ("early_stopping", True)


def test_a_rollback_is_exact_under_interrupts(build, torch, tmp_path):
    """An interrupt leaves a newer checkpoint than the regular one that a rollback returns to."""

    def run(folder, stop_at):
        points = Points("forward", stop_at, lambda: signal.raise_signal(signal.SIGTERM))
        for attempt in range(2):
            trainer = build("sft", folder, points if attempt == 0 else None, non_finite="rollback")
            loader = trainer.train_loader
            clean = loader.batches

            def poison(position, loader=loader, clean=clean, attempt=attempt):
                # The fourth batch is not finite, whenever it comes, once per attempt at it.
                loader.batches = [*clean[:3], clean[3] | {"bad": torch.ones(3)}]
                if attempt == 0:
                    points.visit("loader")

            loader.at_batch = poison
            poison(0)
            compute = trainer._compute_loss

            def bad_loss(outputs, batch, compute=compute):
                result = compute(outputs, batch)
                for term in result.terms.values() if "bad" in batch else ():
                    term.loss_sum.data.fill_(float("nan"))
                return result

            trainer._compute_loss = bad_loss
            trainer.resume()
            try:
                trainer.train()
            except Interrupted:
                continue
            return outcome(trainer, folder), trainer.rollbacks
        raise AssertionError("interrupted twice")

    expected = run(tmp_path / "whole", 10_000)
    assert expected[1] >= 1
    # In step 4 (its forward is the seventh with the evaluations), just before the bad batch.
    assert run(tmp_path / "hit", 6) == expected


def test_a_damaged_newest_checkpoint_falls_back_and_the_run_is_exact(build, whole, tmp_path):
    build("dpo", tmp_path).train()
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1] / "model.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    trainer = build("dpo", tmp_path)
    assert trainer.resume()
    assert trainer.step == STEPS - 2
    trainer.train()
    assert outcome(trainer, tmp_path) == whole("dpo")


def test_changed_settings_are_refused_with_the_difference(build, tmp_path):
    build("sft", tmp_path).train()
    with pytest.raises(CheckpointError, match=r"learning_rate 0.001, this run has 0.5"):
        build("sft", tmp_path, learning_rate=0.5).resume()
    with pytest.raises(CheckpointError, match="SFTTrainer checkpoint"):
        build("dpo", tmp_path).resume()
    assert build("sft", tmp_path, micro_batch_rows=1, keep_checkpoints=5).resume()


VARIANTS_BY_TRAINER = {SETTINGS[variant][0]: variant for variant in SETTINGS}


@pytest.fixture
def stopped(build, tmp_path):
    """stopped(variant) -> the folder of a run that SIGTERM ended after its third update."""

    def stop(variant):
        points = Points("update", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            build(variant, tmp_path / "run", points).train()
        return tmp_path / "run"

    return stop


@pytest.mark.parametrize("variant", VARIANTS_BY_TRAINER.values(), ids=VARIANTS_BY_TRAINER)
@pytest.mark.parametrize("change", ["numpy", "device", "threads"])
def test_a_resume_that_cannot_be_exact_is_refused_or_marked(variant, change, build, stopped, monkeypatch, whole):
    expected = whole(variant)
    folder = stopped(variant)
    own = surroundings.surroundings_of
    monkeypatch.setattr(snapshot, "surroundings_of", lambda trainer: own(trainer) | {change: "77"})
    with pytest.raises(CheckpointError, match=f"written under {change} .*, now 77: .*--inexact"):
        build(variant, folder).resume()
    again = build(variant, folder)
    assert again.resume(inexact=True)
    assert again.inexact[0].startswith("not exact from step ")
    assert again.warnings == again.inexact
    again.train()
    # Here nothing but the record of it differed.
    assert outcome(again, folder) == expected
    monkeypatch.undo()
    later = build(variant, folder)
    with pytest.raises(CheckpointError, match=f"written under {change} 77, now"):
        later.resume()
    later.resume(inexact=True)
    assert len(later.inexact) == 2, "what made a run inexact stays in its checkpoints"


@pytest.mark.parametrize("name", trainer_names())
def test_a_resume_on_other_data_is_refused(name, make_trainer, collate, make_rows, tmp_path):
    def train(seeds, steps):
        batches = [collate(name, make_rows(3, seed)) for seed in seeds]
        return make_trainer(name, batches=batches, arguments={"output_dir": tmp_path}, **(EVERY | {"steps": steps}))

    train((0, 1, 2), EVERY["steps"]).train()
    with pytest.raises(CheckpointError, match="written under data of 1 processes "):
        train((0, 1, 5), EVERY["steps"]).resume()
    assert train((0, 1, 2), EVERY["steps"]).resume()


def test_an_exact_resume_is_not_marked(build, stopped):
    trainer = build("sft", stopped("sft"))
    trainer.resume()
    trainer.train()
    assert trainer.inexact == []
    assert not any("exact" in warning for warning in trainer.warnings)


def test_another_order_or_another_row_is_other_data(collate, make_rows, torch):
    def digest(batches):
        return surroundings._data_digest(batches)

    batches = [collate("sft", make_rows(3, index)) for index in range(4)]
    other = [collate("sft", make_rows(3, index)) for index in (0, 1, 2, 9)]
    assert digest(batches) == digest([dict(batch) for batch in batches])
    assert len({digest(batches), digest(other), digest(batches[::-1]), digest(batches[:3])}) == 4
    assert digest(iter(batches)) == ""
