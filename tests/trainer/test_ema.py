"""Averaged weights: their numbers by hand, what is evaluated, saved and trained on."""

from __future__ import annotations

import pytest

from workbench.trainer.loop.ema import AveragedWeights


def flat(torch, model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def scalar(torch):
    """A model of one weight, 1.0."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    return model


def follow(torch, model, decay, values):
    """The average after each of the values was the weight."""
    average, found = AveragedWeights(model, decay), []
    for step, value in enumerate(values, start=1):
        torch.nn.init.constant_(model.weight, value)
        average.update(step)
        found.append(average.shadow["weight"].item())
    return found


def test_the_average_by_hand(torch, scalar):
    # Decays min(0.25, 2/11, 3/12, 4/13 -> 0.25): 1 -> 2/11 + 2 (9/11) = 20/11; then 0.25 and 0.75 of what comes.
    expected = [20 / 11, 0.25 * 20 / 11 + 0.75 * 4.0]
    expected.append(0.25 * expected[1] + 0.75 * 8.0)
    assert follow(torch, scalar, 0.25, [2.0, 4.0, 8.0]) == pytest.approx(expected, rel=1e-6)


def test_the_ramp_ends_at_the_decay(torch, scalar):
    steps = 9000
    found = follow(torch, scalar, 0.999, [1.0] * (steps - 1) + [2.0])
    # (1 + 9000) / (10 + 9000) = 0.99900111 is above 0.999.
    assert found[-1] == pytest.approx(1.001, abs=1e-6)


def test_a_low_precision_weight_is_averaged_in_float32(torch, scalar):
    average = AveragedWeights(scalar.to(torch.bfloat16), 0.999)
    torch.nn.init.constant_(scalar.weight, 1.0078125)  # the next bfloat16
    average.update(8999)
    # 1 + 0.0078125 x 0.001: a bfloat16 average would stay at 1 for ever.
    assert average.shadow["weight"].item() == pytest.approx(1.0000078, abs=1e-7)


def test_evaluation_and_the_model_left_are_averaged_and_training_is_not(torch, sft):
    seen = []
    arguments = {"evaluators": [lambda model, step: seen.append(flat(torch, model)) or {}]}
    averaged = sft(steps=3, evaluate_every=1, ema_decay=0.5, arguments=arguments)
    raw = []
    averaged.optimizer.register_step_post_hook(lambda *_: raw.append(flat(torch, averaged.model)))
    averaged.train()
    plain, expected_raw = sft(steps=3), []
    plain.optimizer.register_step_post_hook(lambda *_: expected_raw.append(flat(torch, plain.model)))
    plain.train()
    assert all(torch.equal(a, b) for a, b in zip(raw, expected_raw, strict=True))
    shadow = seen[0]
    for step, weights in enumerate(raw, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        shadow = decay * shadow + (1 - decay) * weights
        torch.testing.assert_close(seen[step], shadow)
    assert torch.equal(flat(torch, averaged.model), seen[3])
    assert not torch.equal(seen[3], raw[2])


def test_evaluating_and_training_again_after_the_end_moves_nothing(torch, sft, tmp_path):
    evaluators = [lambda model, step: {"eval/x": 0.0}]
    trainer = sft(steps=2, ema_decay=0.5, arguments={"output_dir": tmp_path, "evaluators": evaluators})
    trainer.train()
    left = flat(torch, trainer.model)
    trainer.evaluate()
    trainer.train()
    assert torch.equal(flat(torch, trainer.model), left)


def test_an_error_while_evaluating_leaves_the_raw_weights(torch, sft):
    def fail(model, step):
        raise ArithmeticError

    trainer = sft(ema_decay=0.5)
    with torch.no_grad():
        trainer.model.model.norm.weight.add_(1.0)
    raw = flat(torch, trainer.model)
    trainer.examination.evaluators = [fail]
    with pytest.raises(ArithmeticError):
        trainer.evaluate()
    assert torch.equal(flat(torch, trainer.model), raw)


@pytest.mark.parametrize("with_folder", [True, False])
def test_early_stopping_brings_back_the_best_averaged_weights(torch, sft, tmp_path, with_folder):
    values, seen = [1.0, 3.0, 2.0, 2.0, 2.0], {}

    def evaluator(model, step):
        seen[step] = flat(torch, model)
        return {"eval/score": values[step]}

    arguments = {"evaluators": [evaluator], "output_dir": tmp_path if with_folder else None}
    stopping = {"metric": "eval/score", "patience": 2}
    trainer = sft(steps=4, evaluate_every=1, early_stopping=stopping, ema_decay=0.9, arguments=arguments)
    trainer.train()
    assert trainer.restored_best
    assert torch.equal(flat(torch, trainer.model), seen[1])


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_skipped_step_is_not_averaged(torch, sft, precision):
    trainer = sft(steps=2, non_finite="skip", ema_decay=0.5, precision=precision)
    # In fp16 a gradient that overflows is no error, and the scaler leaves the step out.
    trainer.parameters[0].register_hook(lambda gradient: gradient * (torch.inf if trainer.step == 1 else 1.0))
    after, start = [], flat(torch, trainer.model)
    trainer.optimizer.register_step_post_hook(lambda *_: after.append(flat(torch, trainer.model)))
    assert trainer.train()["skipped"] == 1.0
    torch.testing.assert_close(flat(torch, trainer.model), start * 2 / 11 + after[0] * 9 / 11)


def test_only_what_is_trained_is_averaged(small_llama):
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = small_llama()
    add_lora(model, LoraSettings(rank=2), seed=0)
    assert all("lora_" in name for name in AveragedWeights(model, 0.9).shadow)
