"""Losses of sampled tokens by their advantages, their reductions and corrections, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.policy_gradient import (
    CONSTANT,
    CORRECTIONS,
    MAX_LOG_RATIO,
    PER_SEQUENCE,
    PER_TOKEN,
    POLICY_LOSSES,
    Clip,
    SampledTokens,
    clipped_completions,
    clipped_sequences,
    clipped_tokens,
    clipped_value_losses,
    clipped_weights,
    softly_clipped,
)


def tokens_of(ratios, advantages, mask=None):
    """Tokens whose log-probabilities are -1 and carry a gradient, at these ratios to the old ones."""
    ratios = torch.tensor(ratios, dtype=torch.float64)
    mask = torch.ones_like(ratios, dtype=torch.bool) if mask is None else torch.tensor(mask).bool()
    logprobs = torch.full_like(ratios, -1.0).requires_grad_()
    return SampledTokens(logprobs, -1.0 - ratios.log(), torch.tensor(advantages, dtype=torch.float64), mask)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        (1.5, 2.0, -1.3 * 2.0, 0.0, (False, True)),  # moved far enough already: no more gradient
        (1.5, -2.0, 1.5 * 2.0, 1.5 * 2.0, (False, False)),  # moved the wrong way: all of it
        (0.5, 2.0, -0.5 * 2.0, -0.5 * 2.0, (False, False)),
        (0.5, -2.0, 0.8 * 2.0, 0.0, (True, False)),
        (1.1, 2.0, -1.1 * 2.0, -1.1 * 2.0, (False, False)),
        (1.25, 2.0, -1.25 * 2.0, -1.25 * 2.0, (False, False)),  # within clip_high, though beyond 1 + clip_low
    ],
)
def test_the_clipped_surrogate_by_side_and_sign(ratio, advantage, loss, slope, clipped):
    tokens = tokens_of([[ratio]], [[advantage]])
    found = clipped_tokens(tokens, Clip(low=0.2, high=0.3))
    assert found.losses.item() == pytest.approx(loss)
    assert torch.autograd.grad(found.losses.sum(), tokens.logprobs)[0].item() == pytest.approx(slope)
    assert (found.low_clipped.item(), found.high_clipped.item()) == clipped


def test_gspo_has_one_ratio_a_completion_the_geometric_mean_of_its_real_tokens():
    tokens = tokens_of([[4.0, 1.0, 100.0], [0.5, 0.25, 0.125]], [[2.0], [-1.0]], [[1, 1, 0], [1, 1, 1]])
    wide = clipped_sequences(tokens, Clip(0.9, 9.0))
    assert wide.losses[0].tolist() == pytest.approx([-4.0] * 3)  # sqrt(4 x 1) = 2
    assert wide.losses[1].tolist() == pytest.approx([0.25] * 3)
    (gradient,) = torch.autograd.grad((wide.losses[0, :2].sum() / 2), tokens.logprobs)
    assert gradient[0].tolist() == pytest.approx([-2.0, -2.0, 0.0])  # s A / |y| each
    narrow = clipped_sequences(tokens, Clip(3e-4, 4e-4))
    assert narrow.losses[:, 0].tolist() == pytest.approx([-1.0004 * 2, 0.9997])
    assert (narrow.high_clipped[0].all().item(), narrow.low_clipped[1].all().item()) == (True, True)


def test_a_summed_ratio_is_clipped_as_one_number_and_taken_at_each_token():
    # 4 x 0.3 = 1.2, where tokens would be clipped at 1.25 and at 0.75; 0.5 x 0.25 x 0.125 = 1/64.
    tokens = tokens_of([[4.0, 0.3, 100.0], [0.5, 0.25, 0.125]], [[2.0], [-1.0]], [[1, 1, 0], [1, 1, 1]])
    found = clipped_completions(tokens, Clip(0.25, 0.25))
    assert found.losses[0].tolist() == pytest.approx([-2.4] * 3)
    assert found.losses[1].tolist() == pytest.approx([0.75] * 3)
    assert found.low_clipped.tolist() == [[False] * 3, [True] * 3]
    (gradient,) = torch.autograd.grad(found.losses[0, :2].sum(), tokens.logprobs)
    assert gradient[0].tolist() == pytest.approx([-4.8, -4.8, 0.0])  # both tokens bear the ratio, which both move


def test_a_completions_log_ratio_is_clamped_once_and_not_token_by_token():
    ratios = [[math.exp(30), math.exp(-29), 1.0], [math.exp(30), math.exp(10), 1.0]]
    tokens = tokens_of(ratios, [[1.0], [1.0]])
    assert tokens.whole_log_ratio.flatten().tolist() == pytest.approx([1.0, MAX_LOG_RATIO])
    assert tokens.mean_log_ratio.flatten().tolist() == pytest.approx([1 / 3, 40 / 3])


def test_cispo_holds_the_weight_and_never_the_gradient():
    tokens = tokens_of([[0.5, 3.0, 8.0, 8.0]], [[2.0, 2.0, 2.0, -2.0]])
    found = clipped_weights(tokens, Clip(ceiling=5.0))
    assert found.losses[0].tolist() == pytest.approx([1.0, 6.0, 10.0, -10.0])  # -w A logp at logp = -1
    (gradient,) = torch.autograd.grad(found.losses.sum(), tokens.logprobs)
    assert gradient[0].tolist() == pytest.approx([-1.0, -6.0, -10.0, 10.0])
    assert found.high_clipped[0].tolist() == [False, False, True, False]
    assert not found.low_clipped.any()


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_at_ratio_one_every_loss_has_the_policy_gradient(name):
    tokens = tokens_of([[1.0, 1.0, 1.0]], [[3.0]])
    weights = PER_SEQUENCE.weights(torch.tensor([3])) if name == "gspo" else torch.tensor([1 / 3])
    losses = (POLICY_LOSSES[name].surrogate(tokens, Clip()).losses * weights).sum()
    (gradient,) = torch.autograd.grad(losses, tokens.logprobs)
    assert gradient[0].tolist() == pytest.approx([-1.0] * 3)  # -A / |y|


def test_log_ratios_are_held_finite_and_padding_has_none():
    tokens = SampledTokens(torch.tensor([[-1.0, -900.0, 5.0]]), torch.tensor([[-900.0, -1.0, -math.inf]]),
                           torch.ones(1, 1), torch.tensor([[True, True, False]]))  # fmt: skip
    assert tokens.log_ratio.tolist() == [[MAX_LOG_RATIO, -MAX_LOG_RATIO, 0.0]]
    assert tokens.mean_log_ratio.tolist() == [[0.0]]


def test_reductions_by_hand():
    """Completions of 1, 0 (left out) and 4 tokens, at most 6: weights a token, units a completion."""
    lengths = torch.tensor([1, 0, 4])
    assert PER_SEQUENCE.weights(lengths)[[0, 2]].tolist() == [1.0, 0.25]
    assert PER_SEQUENCE.units(lengths, 6).tolist() == [1.0, 0.0, 1.0]
    assert PER_TOKEN.weights(lengths).tolist() == [1.0, 1.0, 1.0]
    assert PER_TOKEN.units(lengths, 6).tolist() == [1.0, 0.0, 4.0]
    assert CONSTANT.weights(lengths).tolist() == [1.0, 1.0, 1.0]
    assert CONSTANT.units(lengths, 6).tolist() == [6.0, 0.0, 6.0]


def test_at_ratio_one_the_grpo_loss_is_zero_and_that_of_dapo_is_not():
    """Advantages that sum to zero over completions of other lengths: neither is a fault."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
    tokens = tokens_of([[1.0] * 3] * 2, [[1.0], [-1.0]], mask.tolist())
    for name, expected in {"grpo": 0.0, "dapo": 2 / 4, "dr_grpo": 2 / 20}.items():
        loss = POLICY_LOSSES[name]
        weights = torch.where(mask, loss.reduction.weights(mask.sum(1))[:, None], 0.0)
        units = loss.reduction.units(mask.sum(1), 10).sum()
        total = (loss.surrogate(tokens, Clip()).losses * weights).sum() / units
        assert total.item() == pytest.approx(expected, abs=1e-7), name


def test_corrections_by_hand():
    """Ratios of trainer to sampler 3, 0.5 | 0.5, 0.25, and padding that must not count; cap 2."""
    log_ratio = torch.tensor([[3.0, 0.5, 9.0], [0.5, 0.25, 9.0]]).log()
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]]).bool()
    expected = {
        "token_truncate": [[2.0, 0.5], [0.5, 0.25]],
        "token_mask": [[0.0, 0.5], [0.5, 0.25]],
        "sequence_truncate": [[1.5, 1.5], [0.125, 0.125]],
        "sequence_mask": [[1.5, 1.5], [0.125, 0.125]],
    }
    assert set(expected) == set(CORRECTIONS)
    for name, values in expected.items():
        torch.testing.assert_close(CORRECTIONS[name](log_ratio, mask, 2.0)[:, :2], torch.tensor(values), msg=name)
    for name, weight in {"sequence_truncate": 1.25, "sequence_mask": 0.0}.items():
        found = CORRECTIONS[name](log_ratio, mask, 1.25)
        assert found[0, :2].tolist() == pytest.approx([weight, weight])
        assert found[1, :2].tolist() == pytest.approx([0.125, 0.125])


def test_corrections_stay_finite_on_hopeless_tokens():
    log_ratio, mask = torch.tensor([[800.0, 800.0]]), torch.ones(1, 2, dtype=torch.bool)
    for correct in CORRECTIONS.values():
        assert correct(log_ratio, mask, 2.0).isfinite().all()


@pytest.mark.parametrize(
    ("value", "old", "returned", "loss", "slope", "clipped"),
    [
        (1.1, 1.0, 2.0, 0.5 * 0.81, -0.9, False),  # within the clip
        (1.5, 1.0, 2.0, 0.5 * 0.64, 0.0, True),  # towards the return, beyond it: held at 1.2
        (0.5, 1.0, 2.0, 0.5 * 2.25, -1.5, False),  # away from it: all of it
        (0.5, 1.0, 0.0, 0.5 * 0.64, 0.0, True),
    ],
)
def test_the_value_loss_is_the_larger_of_plain_and_held(value, old, returned, loss, slope, clipped):
    values = torch.tensor([[value]], requires_grad=True)
    found, was_clipped = clipped_value_losses(values, torch.tensor([[old]]), torch.tensor([[returned]]), 0.2)
    assert found.item() == pytest.approx(loss, rel=1e-5)
    assert torch.autograd.grad(found.sum(), values)[0].item() == pytest.approx(slope, rel=1e-5)
    assert was_clipped.item() is clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -4.0, -2.0),  # -4 sigmoid(0) 2; the slope is that of -ratio A
        (1.5, 2.0, -8 / (1 + math.exp(-0.5)), -2.820045),  # -4 sigmoid'(0.5) 1.5 x 2
        (1.5, -2.0, 4 / (1 + math.exp(-1)), 2.359343),  # 4/2 sigmoid(1) 2, and 4 sigmoid'(1) 1.5 x 2
    ],
)
def test_sapo_fades_the_slope_away_from_ratio_1(ratio, advantage, loss, slope):
    tokens = tokens_of([[ratio]], [[advantage]])
    found = softly_clipped(tokens, Clip(steepness=1.0, steepness_negative=2.0))
    assert found.losses.item() == pytest.approx(loss)
    assert torch.autograd.grad(found.losses.sum(), tokens.logprobs)[0].item() == pytest.approx(slope, rel=1e-5)
