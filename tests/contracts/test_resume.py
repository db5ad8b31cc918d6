"""Law 3: interrupt anywhere, resume, and metrics and weights are bit-identical: every trainer."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.contracts.points import STEPS, Points, go_on
from tests.test_interrupts import SignalWithin
from tests.trainers import ONLINE, SCORED, TRAINERS, VARIANTS, outcome
from workbench.errors import Interrupted
from workbench.tracking.store import MetricStore
from workbench.trainer.registry import get_settings_class

SAMPLED = [name for name, variant in VARIANTS.items() if variant.samples]
# The point of a run, and at which visit to it since the last start.
TERMS = [
    ("evaluator", 1),
    ("loader", 1),
    ("forward", 1),
    ("gradient", 1),
    ("update", 1),
    ("loader", 2),
    ("gradient", 2),
    ("forward", 3),
    ("evaluator", 1),
]
TERMS_OF_ROLLOUTS = [
    ("reward", 1),
    ("evaluator", 1),
    ("loader", 1),
    ("reward", 2),
    ("forward", 1),
    ("gradient", 1),
    ("update", 1),
    ("gradient", 2),
    ("forward", 3),
    ("evaluator", 1),
]
KILLS = [("evaluator", 1), ("loader", 3), ("forward", 3), ("update", 2), ("gradient", 2), ("evaluator", 2)]
KILLS_OF_ROLLOUTS = [
    ("reward", 1),
    ("evaluator", 1),
    ("reward", 2),
    ("update", 3),
    ("gradient", 2),
    ("update", 2),
    ("evaluator", 2),
]


def test_a_run_has_a_row_for_every_step_and_learns(whole):
    for variant in [*(set(TRAINERS) - set(ONLINE)), *SCORED]:
        rows = whole(variant)["rows"]
        assert [row["step"] for row in rows] == list(range(STEPS + 1))
        scores_texts = get_settings_class(VARIANTS[variant].trainer).scores_texts
        if variant in SCORED or scores_texts or "sync_reference_every" in VARIANTS[variant].settings:
            # A surrogate's value on completions of another policy, scores of texts made at random and a loss against a
            # reference that has moved say nothing of learning, but that it moves.
            assert rows[-1]["eval/loss"] != rows[0]["eval/loss"]
        else:
            assert rows[-1]["eval/loss"] < rows[0]["eval/loss"], variant


@pytest.mark.parametrize("variant", VARIANTS)
def test_sigterm_at_every_point_in_turn_then_resume_changes_nothing(variant, build, whole, tmp_path, record_property):
    """Each resume is stopped at the next point; those of a rollout come where completions are sampled."""
    stops = TERMS_OF_ROLLOUTS if variant in SAMPLED else TERMS
    for point, visit in stops:
        trainer = build(variant, tmp_path / "run", Points(point, visit, lambda: signal.raise_signal(signal.SIGTERM)))
        trainer.resume()
        with pytest.raises(Interrupted) as stopped:
            trainer.train()
        assert stopped.value.exit_code == 143, point
    assert go_on(build, variant, tmp_path / "run") == whole(variant)
    record_property("tries", len(stops))


@pytest.mark.parametrize("variant", VARIANTS)
def test_sigkill_at_every_point_in_turn_then_resume_changes_nothing(
    variant, build, whole, tmp_path, in_processes, record_property
):
    def run(points):
        trainer = build(variant, tmp_path / "run", points)
        trainer.resume()
        trainer.train()

    stops = KILLS_OF_ROLLOUTS if variant in SAMPLED else KILLS
    for point, visit in stops:
        points = Points(point, visit, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert in_processes(1, lambda _, points=points: run(points)) == [-signal.SIGKILL], point
    assert go_on(build, variant, tmp_path / "run") == whole(variant)
    record_property("tries", len(stops))


@pytest.mark.parametrize("variant", ["dpo", "grpo"])
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
    rounds = [row["sampling/rounds"] for row in whole("grpo-dynamic")["rows"] if "sampling/rounds" in row]
    assert max(rounds) > 1
    betas = [row["objective/kl_coefficient"] for row in whole("ppo")["rows"] if "reward" in row]
    assert len(set(betas)) == len(betas) > 2


@pytest.mark.parametrize("name", ["fsync", "truncate", "rename", "rmtree", "mkdir", "append"])
def test_sigkill_at_every_kind_of_write_then_resume_changes_nothing(
    name, build, whole, tmp_path, in_processes, record_property
):
    """Before the first, the second, ... in one folder, each time in a run that goes on from what the last one left."""

    def run(visit):
        owner = {"fsync": os, "truncate": os, "rename": Path, "rmtree": shutil, "mkdir": Path, "append": MetricStore}
        call = getattr(owner[name], name)
        points = Points(name, visit, lambda: os.kill(os.getpid(), signal.SIGKILL))

        def hit(*arguments, **keywords):
            points.visit(name)
            return call(*arguments, **keywords)

        setattr(owner[name], name, hit)
        trainer = build("dpo", tmp_path / "run", keep_checkpoints=1)
        trainer.resume()
        return trainer.train() and 0

    ends = [in_processes(1, lambda _, visit=visit: run(visit))[0] for visit in (1, 2, 4, 7)]
    assert -signal.SIGKILL in ends
    assert set(ends) <= {-signal.SIGKILL, 0}
    assert go_on(build, "dpo", tmp_path / "run", keep_checkpoints=1) == whole("dpo")
    record_property("tries", ends.count(-signal.SIGKILL))


# DPO's losses are over the step: a reference's forward and two of the policy make one.
@pytest.mark.parametrize(
    ("variant", "forward"), [("dpo", 4), ("sft-early-stopping", 3), ("sft-fp16", 3), ("grpo", 3), ("ppo", 3)]
)
def test_interrupted_at_every_step_in_turn_changes_nothing(variant, forward, build, whole, tmp_path):
    for _ in range(3 * STEPS):
        points = Points("forward", forward, lambda: signal.raise_signal(signal.SIGINT))
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

    class BadLoss:
        def _compute_loss(self, outputs, batch):
            result = super()._compute_loss(outputs, batch)
            for term in result.terms.values() if "bad" in batch else ():
                term.loss_sum.data.fill_(float("nan"))
            return result

    def run(folder, stop_at):
        points = Points("forward", stop_at, lambda: signal.raise_signal(signal.SIGTERM))
        for attempt in range(2):
            trainer = build("sft", folder, points if attempt == 0 else None, mixin=BadLoss, non_finite="rollback")
            loader = trainer.train_loader
            clean = loader.batches

            def poison(position, loader=loader, clean=clean, attempt=attempt):
                # The fourth batch is not finite, whenever it comes, once per attempt at it.
                loader.batches = [*clean[:3], clean[3] | {"bad": torch.ones(3)}]
                if attempt == 0:
                    points.visit("loader")

            loader.at_batch = poison
            poison(0)
            trainer.resume()
            try:
                trainer.train()
            except Interrupted:
                continue
            return outcome(trainer, folder), trainer.guard.rollbacks
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
