"""When a run stops, and which weights it keeps."""

from __future__ import annotations

import math

import pytest

from workbench.errors import DefinitionError
from workbench.trainer.loop.early_stopping import Stopper
from workbench.trainer.settings import EarlyStopping


def follow(values, **settings):
    """For each value: (is it the best so far, must the run stop)."""
    stopper = Stopper(EarlyStopping(metric="eval/x", **settings))
    return [(stopper.observe(step, {"eval/x": value}), stopper.should_stop) for step, value in enumerate(values)]


def test_it_stops_after_patience_evaluations_without_improvement():
    found = follow([1.0, 2.0, 2.0, 1.5], patience=2)
    assert found == [(True, False), (True, False), (False, False), (False, True)]


def test_min_mode_wants_smaller_values():
    assert [best for best, _ in follow([3.0, 4.0, 2.0], mode="min")] == [True, False, True]


def test_a_change_must_exceed_min_change():
    assert [best for best, _ in follow([1.0, 1.05, 1.2], min_change=0.1)] == [True, False, True]


def test_nan_is_never_the_best_and_the_first_number_always_is():
    assert [best for best, _ in follow([math.nan, -5.0, math.nan], patience=9)] == [False, True, False]


def test_its_state_is_restored_exactly():
    stopper, other = (Stopper(EarlyStopping(metric="eval/x", patience=2)) for _ in range(2))
    stopper.observe(0, {"eval/x": 1.0})
    stopper.observe(4, {"eval/x": 0.5})
    other.load_state_dict(stopper.state_dict())
    assert other.state == stopper.state
    assert (other.state.best_value, other.state.best_step, other.state.evaluations_since) == (1.0, 0, 1)


def test_a_metric_that_is_not_measured_is_named_with_those_that_are():
    with pytest.raises(DefinitionError, match=r"early_stopping.metric is eval/x; this run measures eval/loss"):
        Stopper(EarlyStopping(metric="eval/x")).observe(0, {"eval/loss": 1.0})


def test_a_training_metric_is_refused():
    with pytest.raises(ValueError, match="choose a held-out metric"):
        EarlyStopping(metric="loss")


@pytest.mark.parametrize("with_folder", [True, False])
def test_the_best_weights_come_back_with_and_without_a_folder(torch, sft, tmp_path, with_folder):
    values, seen = [1.0, 3.0, 2.0, 2.0, 2.0], {}

    def evaluator(model, step):
        seen[step] = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
        return {"eval/score": values[step]}

    arguments = {"evaluators": [evaluator], "output_dir": tmp_path if with_folder else None}
    stopping = {"metric": "eval/score", "patience": 2}
    trainer = sft(steps=4, evaluate_every=1, early_stopping=stopping, arguments=arguments)
    trainer.train()
    assert (trainer.stopped_by, trainer.step, trainer.restored_best) == ("early_stopping", 3, True)
    assert (trainer.stopper.state.best_step, trainer.stopper.state.best_value) == (1, 3.0)
    final = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert torch.equal(final, seen[1])
    assert not torch.equal(final, seen[3])


def test_a_metric_that_is_always_nan_restores_nothing(sft, tmp_path):
    arguments = {"evaluators": [lambda model, step: {"eval/score": math.nan}], "output_dir": tmp_path}
    trainer = sft(steps=2, evaluate_every=1, early_stopping={"metric": "eval/score"}, arguments=arguments)
    trainer.train()
    assert not trainer.restored_best
