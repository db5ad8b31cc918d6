"""What is not finite, and what stands out, for every trainer: stop, skip or roll back, with an account of it."""

from __future__ import annotations

import math
import signal

import pytest

from tests.trainers import EVERY_TRAINER, digest_of_weights, without_clocks
from workbench.errors import DivergenceError, Interrupted, NonFiniteError
from workbench.tracking.reader import read_rows

STEPS, BAD = 6, 4
"""The fourth step is in trouble, unless the run was rolled back before."""
EVERY = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 3}
FAULTS = {
    "loss is NaN": ("loss", math.nan),
    "loss is infinite": ("loss", math.inf),
    "gradient is NaN": ("gradient", math.nan),
    "gradient is infinite": ("gradient", math.inf),
}
# Every trainer with the two ends of each pair, one trainer with every pair: NaN and infinity take the same way.
CASES = [*((name, "sft") for name in FAULTS)]
CASES += [
    (fault, variant)
    for variant in EVERY_TRAINER
    for fault in ("loss is NaN", "gradient is infinite")
    if variant != "sft"
]
TROUBLE = [("not finite", "skip", "sft"), ("spike", "rollback", "sft")]
TROUBLE += [(*way, variant) for variant in EVERY_TRAINER for way in (("not finite", "rollback"), ("spike", "skip"))]


@pytest.fixture
def hurt(make_trainer, torch):
    """hurt(variant, folder, where, value, **settings) -> a trainer whose loss or gradient is multiplied at step BAD."""

    def make(variant, folder, where, value, *, first_only=True, **settings):
        def is_bad(trainer):
            return trainer.step + 1 == BAD and not (first_only and trainer.guard.rollbacks)

        class HurtLoss:
            def _compute_loss(self, outputs, batch):
                result = super()._compute_loss(outputs, batch)
                for name, term in result.terms.items() if is_bad(self) and torch.is_grad_enabled() else ():
                    result.terms[name] = type(term)(term.loss_sum * value, term.num_units)
                return result

        trainer = make_trainer(variant, folder, mixin=HurtLoss if where == "loss" else None, **(EVERY | settings))
        for parameter in trainer.parameters if where == "gradient" else ():
            parameter.register_hook(lambda gradient: gradient * value if is_bad(trainer) else gradient)
        return trainer

    return make


def recorded(folder):
    return [without_clocks(row) for row in read_rows(folder / "metrics.jsonl")]


def account(trainer):
    return [(entry["step"], entry["action"]) for entry in trainer.incidents]


def all_finite(torch, trainer):
    return all(torch.isfinite(value).all() for state in trainer.optimizer.state.values() for value in state.values())


@pytest.mark.parametrize(("fault", "variant"), CASES)
def test_stop_ends_before_the_update_and_says_what_helps(variant, fault, hurt, torch, tmp_path):
    trainer = hurt(variant, tmp_path, *FAULTS[fault])
    with pytest.raises(NonFiniteError, match=rf"step {BAD}: loss is .*; lower learning_rate, or set non_finite"):
        trainer.train()
    assert trainer.step == BAD - 1
    assert account(trainer) == [(BAD, "stop")]
    assert all(torch.isfinite(p).all() for p in trainer.unwrapped_model.parameters())
    assert all_finite(torch, trainer)


@pytest.mark.parametrize(("fault", "variant"), CASES)
def test_a_skip_costs_exactly_one_step_and_leaves_the_moments_finite(variant, fault, hurt, torch, tmp_path):
    trainer = hurt(variant, tmp_path, *FAULTS[fault], non_finite="skip")
    trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], "skipped" in row) for row in rows] == [(step, step == BAD) for step in range(STEPS + 1)]
    assert account(trainer) == [(BAD, "skip")]
    assert all_finite(torch, trainer)
    updates = {state["step"].item() for state in trainer.optimizer.state.values()}
    assert max(updates) == STEPS - 1


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_a_skipped_step_leaves_the_weights_as_they_were(variant, hurt, make_trainer, tmp_path):
    before = make_trainer(variant, tmp_path / "before", **(EVERY | {"steps": BAD - 1}))
    before.train()
    skipped = hurt(variant, tmp_path / "skipped", "loss", math.nan, non_finite="skip", steps=BAD)
    skipped.train()
    assert digest_of_weights(skipped) == digest_of_weights(before)


@pytest.mark.parametrize(("fault", "variant"), CASES)
def test_a_rollback_goes_on_from_the_checkpoint_past_the_batches(variant, fault, hurt, torch, tmp_path):
    trainer = hurt(variant, tmp_path, *FAULTS[fault], non_finite="rollback")
    trainer.train()
    assert (trainer.step, trainer.guard.rollbacks, account(trainer)) == (STEPS, 1, [(BAD, "rollback to step 2")])
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert all(math.isfinite(row["loss"]) for row in rows[1:])
    assert all_finite(torch, trainer)


SPIKES = {"sigmas": 50.0, "window": 8}


@pytest.fixture
def spiked(hurt):
    """spiked(variant, folder, action, **settings) -> a trainer with a gradient that is far too large at step 4, which
    is judged already: the window is nearly full."""

    def make(variant, folder, action, **settings):
        trainer = hurt(variant, folder, "gradient", 1e6, spikes=SPIKES | {"action": action}, **settings)
        trainer.guard.spikes.load_state_dict({"loss": [1e3, 2e3] * 4, "grad_norm": [10.0, 20.0] * 4})
        return trainer

    return make


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_a_spike_stops_is_skipped_or_rolls_back(variant, spiked, torch, tmp_path):
    stopped = spiked(variant, tmp_path / "stop", "stop")
    with pytest.raises(DivergenceError, match=rf"step {BAD}: grad_norm .* standard deviations above .*spikes.action"):
        stopped.train()
    assert account(stopped) == [(BAD, "stop")]
    skipped = spiked(variant, tmp_path / "skip", "skip")
    skipped.train()
    rows = read_rows(tmp_path / "skip" / "metrics.jsonl")
    assert [row["step"] for row in rows if row.get("skipped")] == [BAD]
    assert account(skipped) == [(BAD, "skip")]
    returned = spiked(variant, tmp_path / "rollback", "rollback")
    returned.train()
    assert account(returned) == [(BAD, "rollback to step 2")]
    assert max(row["grad_norm"] for row in read_rows(tmp_path / "rollback" / "metrics.jsonl")[1:]) < 1e4


@pytest.mark.parametrize(("fault", "action", "variant"), TROUBLE)
def test_a_run_in_trouble_that_is_stopped_at_every_step_goes_on_to_the_same_bits(
    variant, action, fault, hurt, spiked, tmp_path
):
    def build(folder):
        if fault == "spike":
            return spiked(variant, folder, action)
        return hurt(variant, folder, "loss", math.nan, non_finite=action)

    whole = build(tmp_path / "whole")
    whole.train()
    for _ in range(3 * STEPS):
        trainer = build(tmp_path / "stopped")
        trainer.resume()
        step, update = trainer.step, trainer.precision.step

        def step_and_signal(optimizer, trainer=trainer, step=step, update=update):
            update(optimizer)
            if trainer.step >= step:
                signal.raise_signal(signal.SIGTERM)

        trainer.precision.step = step_and_signal
        try:
            trainer.train()
        except Interrupted:
            continue
        break
    assert recorded(tmp_path / "stopped") == recorded(tmp_path / "whole")
    assert digest_of_weights(trainer) == digest_of_weights(whole)
    assert account(trainer) == account(whole) != []


def test_a_run_that_only_skips_stops(hurt, make_trainer, tmp_path):
    trainer = make_trainer("sft", tmp_path, steps=60, non_finite="skip")
    trainer.parameters[0].register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteError, match=r"step 21: .* 20 steps in a row were skipped before it"):
        trainer.train()
    assert len(trainer.incidents) == 21


def test_a_good_step_between_begins_the_count_of_skips_anew(make_trainer, tmp_path):
    trainer = make_trainer("sft", tmp_path, steps=60, non_finite="skip")
    trainer.parameters[0].register_hook(lambda gradient: gradient * (1.0 if trainer.step % 20 == 0 else math.nan))
    trainer.train()
    assert len(trainer.incidents) == 57


def test_rollbacks_end(hurt, tmp_path):
    trainer = hurt("sft", tmp_path, "loss", math.nan, first_only=False, non_finite="rollback")
    with pytest.raises(NonFiniteError, match="rolled back 3 times"):
        trainer.train()
    assert account(trainer) == [(BAD, "rollback to step 2")] * 3 + [(BAD, "stop")]


def test_spikes_of_a_range_test_and_a_rollback_without_checkpoints_are_refused(make_trainer):
    with pytest.raises(ValueError, match=r"spikes\.action: rollback returns to a regular checkpoint"):
        make_trainer("sft", spikes={"action": "rollback"})
    with pytest.raises(ValueError, match="a range test ends where the loss rises"):
        make_trainer("sft", schedule="range_test", min_learning_rate_ratio=1e-5, spikes={})
