"""The estimators of KL(policy || reference), by hand and against the sum over the vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.kl import full_kl, kl_k1, kl_k2, kl_k3


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
