"""The estimators of KL(policy || reference), by hand and against the sum over the vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.kl import KL_LOSSES, KL_PENALTIES, full_kl, kl_k1, kl_k2, kl_k3, kl_k3_ratio


def test_known_values():
    logprobs, ref_logprobs = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    assert kl_k1(logprobs, ref_logprobs).tolist() == [[0.5, -1.0]]
    assert kl_k2(logprobs, ref_logprobs).tolist() == [[0.125, 0.5]]
    expected = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0]
    assert kl_k3(logprobs, ref_logprobs)[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_full_kl_known_value():
    policy, reference = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    # 0.5 ln 2 + 0 - 0.25 ln 2
    assert full_kl(policy + 3.0, reference - 1.0).item() == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 9, generator=generator, dtype=torch.float64)
    ref_logits = torch.randn(7, 9, generator=generator, dtype=torch.float64)
    logprobs, ref_logprobs = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    exact = full_kl(logits, ref_logits)
    for estimate in (kl_k1, kl_k3):
        torch.testing.assert_close((logprobs.exp() * estimate(logprobs, ref_logprobs)).sum(-1), exact)
    assert (kl_k3(logprobs, ref_logprobs) >= 0).all()


def test_equal_distributions_have_exactly_zero_divergence():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    assert full_kl(logits, logits).tolist() == [0.0, 0.0, 0.0]
    assert kl_k3(logits, logits).abs().max() == 0


def test_k3_stays_accurate_near_zero():
    assert kl_k3(torch.tensor(1e-4), torch.tensor(0.0)).item() == pytest.approx(5e-9, rel=1e-2)


# Gradients of the estimators as losses, the expectation taken exactly over four tokens.


@pytest.fixture
def categorical():
    """logits (4,) with a gradient, and the reference's log-probabilities, float64."""
    logits = torch.tensor([0.3, -1.2, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor([-0.4, 0.9, 0.2, -0.7], dtype=torch.float64).log_softmax(-1)


def expected_gradient(logits, estimate):
    """Of the mean of an estimate over sampled tokens: sampling itself has no gradient."""
    logprobs = logits.log_softmax(-1)
    return torch.autograd.grad((logprobs.exp().detach() * estimate(logprobs)).sum(), logits)[0]


def test_as_a_loss_k1_has_no_expected_gradient(categorical):
    logits, ref = categorical
    gradient = expected_gradient(logits, lambda logprobs: kl_k1(logprobs, ref))
    torch.testing.assert_close(gradient, torch.zeros(4, dtype=torch.float64), atol=1e-15, rtol=0)
    assert "k1" not in KL_LOSSES
    assert set(KL_PENALTIES) == {"k1", "k2", "k3"}


def test_as_a_loss_k3_has_the_forward_kls_gradient(categorical):
    logits, ref = categorical
    forward = (ref.exp() * (ref - logits.log_softmax(-1))).sum()
    expected = torch.autograd.grad(forward, logits)[0]
    found = expected_gradient(logits, lambda logprobs: KL_LOSSES["k3"](logprobs, ref, torch.ones(4)))
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", ["k2", "k3_ratio"])
def test_as_a_loss_k2_and_k3_times_ratio_have_the_reverse_kls_gradient(categorical, name):
    logits, ref = categorical
    expected = torch.autograd.grad(full_kl(logits, ref), logits)[0]

    def estimate(logprobs):
        return KL_LOSSES[name](logprobs, ref, (logprobs - logprobs.detach()).exp())

    torch.testing.assert_close(expected_gradient(logits, estimate), expected, atol=1e-14, rtol=1e-12)


def test_k3_times_ratio_is_right_for_tokens_that_an_older_policy_sampled(categorical):
    logits, ref = categorical
    old = torch.tensor([0.5, 0.2, -0.3, 0.0], dtype=torch.float64).log_softmax(-1)
    logprobs = logits.log_softmax(-1)
    found = (old.exp() * kl_k3_ratio(logprobs, ref, (logprobs - old).exp())).sum()
    torch.testing.assert_close(found, full_kl(logits, ref))
    expected = torch.autograd.grad(full_kl(logits, ref), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], expected, atol=1e-14, rtol=1e-12)


def test_tokens_of_a_masked_vocabulary_add_nothing_where_the_policy_cannot_say_them():
    masked, whole = torch.tensor([0.0, 0.0, -math.inf]), torch.tensor([0.0, 0.0, 0.0])
    # 1/2 ln(1/2 / 1/3) twice, and 0 ln(0 / (1/3)) = 0.
    assert full_kl(masked, whole).item() == pytest.approx(math.log(1.5), rel=1e-6)
    assert full_kl(masked, masked).item() == 0.0
    assert full_kl(whole, masked).item() == math.inf
