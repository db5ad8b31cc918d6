"""The loop's own promises: non-finite steps, memory, evaluation, settings, what is printed."""

from __future__ import annotations

import math

import pytest

from workbench.errors import CheckpointError, DataError, DefinitionError
from workbench.tracking.reader import read_rows
from workbench.trainer.loop.batches import batches_from, split_rows
from workbench.trainer.records import snapshot


@pytest.fixture
def poisoned(torch, sft, tmp_path):
    """poisoned(steps that are not finite, **settings) -> a trainer whose gradient is NaN in those attempts."""

    def make(bad, **settings):
        attempts = []

        class BadLoss:
            def _compute_loss(self, outputs, batch):
                result = super()._compute_loss(outputs, batch)
                attempts.append(0)
                if len(attempts) in bad:
                    term = result.terms["cross_entropy"]
                    result.terms["cross_entropy"] = type(term)(term.loss_sum * math.nan, term.num_units)
                return result

        return sft(folder=tmp_path, mixin=BadLoss, steps=4, **settings)

    return make


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_skip_costs_exactly_one_step_and_leaves_the_moments_finite(poisoned, torch, tmp_path, precision):
    trainer = poisoned({1, 3}, non_finite="skip", precision=precision)
    trainer.train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row.get("skipped")) for row in rows[1:]] == [(1, 1.0), (2, None), (3, 1.0), (4, None)]
    assert rows[1]["loss"] is None
    states = trainer.optimizer.state.values()
    assert all(torch.isfinite(v).all() for state in states for v in state.values())
    assert {state["step"].item() for state in states} == {2.0}


def test_a_rollback_without_regular_checkpoints_is_refused(sft):
    with pytest.raises(ValueError, match="set checkpoint_every"):
        sft(non_finite="rollback")


def test_a_bare_scalar_is_the_mean_over_rows(torch, sft, collate, make_rows):
    gradients = []

    class Bare:
        def _count_units(self, batch):
            return None

        def _compute_loss(self, outputs, batch):
            return outputs.hidden.square().mean((1, 2)).mean()

    for rows in (None, 2):
        batches = [collate("sft", make_rows(5))]
        trainer = sft(mixin=Bare, steps=1, batches=batches, micro_batch_rows=rows, max_grad_norm=None)
        trainer.optimizer.register_step_pre_hook(
            lambda *_, t=trainer: gradients.append(torch.cat([p.grad.flatten() for p in t.parameters]))
        )
        row = trainer.train()
    assert row["loss"] > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_terms_are_divided_each_by_its_own_units(sft, torch):
    from workbench.trainer.loss import LossResult, LossTerm

    class TwoTerms:
        def _count_units(self, batch):
            return {"a": 4.0, "b": 2.0}

        def _compute_loss(self, outputs, batch):
            a = LossTerm(weight[0] * 8 + outputs.hidden.sum() * 0, 4.0)
            return LossResult({"a": a, "b": LossTerm(weight[1] * 6, 2.0, 0.5)})

    trainer = sft(mixin=TwoTerms, steps=1)
    weight = trainer.model.model.norm.weight
    value = [weight[0].item(), weight[1].item()]
    seen = []
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad[:2].tolist()))
    row = trainer.train()
    assert row["loss/a"] == pytest.approx(2 * value[0])
    assert row["loss/b"] == pytest.approx(3 * value[1])
    assert row["loss"] == pytest.approx(2 * value[0] + 1.5 * value[1])
    # Clipped to norm 1: (2, 1.5) / 2.5.
    assert seen[0] == pytest.approx([0.8, 0.6], rel=1e-4)


def test_a_validation_loss_is_pooled_over_batches_of_unequal_size(sft, collate, make_rows):
    rows = make_rows(5)
    parts = [collate("sft", rows[:1]), collate("sft", rows[1:])]
    losses = [sft(arguments={"val_loader": val}).evaluate()["eval/loss"] for val in (parts, [collate("sft", rows)])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_evaluation_leaves_gradients_mode_and_weights_alone(sft, torch):
    def evaluator(model, step):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"eval/x": 1.0}

    trainer = sft(arguments={"evaluators": [evaluator]})
    trainer.model.train()
    assert trainer.evaluate() == {"eval/x": 1.0}
    assert trainer.model.training


def test_evaluations_stand_at_the_first_and_last_step_and_between(sft, tmp_path):
    arguments = {"evaluators": [lambda model, step: {"eval/x": float(step)}], "output_dir": tmp_path}
    sft(steps=5, evaluate_every=2, arguments=arguments).train()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "eval/x" in row] == [0, 2, 4, 5]


def test_epochs_decide_where_steps_are_absent(sft):
    assert sft(steps=None, epochs=2.5).num_steps == 10
    with pytest.raises(DefinitionError, match="set steps"):
        sft(steps=None, batches=iter(()))


def test_a_loader_is_read_again_when_it_ends_and_an_empty_one_is_refused():
    taken = batches_from(["a", "b", "c"], 4)
    assert [next(taken) for _ in range(4)] == ["b", "c", "a", "b"]
    with pytest.raises(DataError, match="gives no batch"):
        next(batches_from([], 0))
    with pytest.raises(DataError, match="read only once"):
        list(batches_from(iter(["a"]), 0))


@pytest.mark.parametrize(("rows", "sizes"), [(None, [5]), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_rows_are_split_in_order(torch, rows, sizes):
    parts = list(split_rows({"a": torch.arange(5), "b": torch.arange(10).view(5, 2)}, rows))
    assert [len(part["a"]) for part in parts] == sizes
    assert torch.cat([part["b"] for part in parts]).tolist() == torch.arange(10).view(5, 2).tolist()


def test_the_choices_are_printed_before_the_first_step(sft, capsys):
    sft(steps=1).train()
    assert "SFTTrainer, 1 step (device cpu, precision float32)" in capsys.readouterr().err


def test_extra_state_that_a_trainer_does_not_know_is_refused(sft, tmp_path):
    class WithCritic:
        def _get_extra_checkpoint_state(self):
            return {"critic": 1}

    sft(mixin=WithCritic).save_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match="does not know: critic"):
        sft().load_checkpoint(tmp_path / "c")


def test_a_checkpoint_of_another_version_is_refused_with_the_remedy(sft, tmp_path, monkeypatch):
    sft().save_checkpoint(tmp_path / "c")
    monkeypatch.setattr(snapshot, "VERSION", snapshot.VERSION + 1)
    with pytest.raises(CheckpointError, match=r"version \d+ is needed, and --inexact cannot .* run afresh \(FRESH=1\)"):
        sft().load_checkpoint(tmp_path / "c")


def test_a_checkpoint_of_another_model_or_optimizer_is_refused(torch, sft, small_llama, tmp_path):
    sft().save_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"has shape .*; the model's has"):
        sft(model=small_llama(hidden_size=32)).load_checkpoint(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"of another model: .* parameters differ"):
        sft(model=small_llama(num_hidden_layers=1)).load_checkpoint(tmp_path / "c")
    other = sft()
    other.descent.optimizer = torch.optim.SGD(other.model.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match="another optimizer"):
        other.load_checkpoint(tmp_path / "c")


def test_half_used_batches_resume_where_they_were(sft, collate, make_rows, tmp_path):
    """Two updates from one loader batch: the second is in the checkpoint between them."""

    class TwoUpdates:
        def _make_update_batches(self, batch):
            return [batch, {k: v[:2] for k, v in batch.items()}]

    def trainer():
        return sft(folder=tmp_path, mixin=TwoUpdates, steps=4, checkpoint_every=1)

    whole = trainer()
    expected = whole.train()
    assert whole.batches_taken == 2
    for step in (2, 4):
        import shutil

        shutil.rmtree(tmp_path / "checkpoints" / f"step_{step:08d}", ignore_errors=True)
    resumed = trainer()
    assert resumed.resume()
    assert (resumed.step, len(resumed.updates.batches)) == (3, 1)
    row = resumed.train()
    assert {k: v for k, v in row.items() if "time/" not in k} == {k: v for k, v in expected.items() if "time/" not in k}


def test_cuda_that_is_not_there_is_refused(torch, sft):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DefinitionError, match="device is cuda, but torch finds no GPU"):
        sft(device="cuda")


def test_throughput_is_of_the_tokens_that_a_trainer_counts(sft):
    rates = []
    for number in (1, 10**12):

        class Counts:
            def _count_tokens(self, batch, number=number):
                return number

        row = sft(mixin=Counts, steps=1).train()
        rates.append(row["time/tokens_per_second"] * row["time/step_seconds"])
    assert rates == pytest.approx([1, 10**12])
    plain = sft(steps=1).train()
    assert plain["time/tokens_per_second"] * plain["time/step_seconds"] == pytest.approx(plain["cost/trained_tokens"])
