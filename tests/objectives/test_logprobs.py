"""Log-probabilities: direct, chunked, in half precision."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.distillation import forward_kl
from workbench.objectives.kl import full_kl
from workbench.objectives.logprobs import expectation, projected_entropies, projected_logprobs, token_logprobs


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(13, 6, generator=generator, dtype=torch.float64).requires_grad_()
    return hidden, weight, torch.randint(0, 13, (11,), generator=generator)


def test_known_value():
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]]])
    found = token_logprobs(logits, torch.tensor([[1, 0]]))
    assert found[0].tolist() == pytest.approx([math.log(0.75), math.log(0.5)], rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 11, 50])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_equal_the_direct_result_and_gradient(problem, chunk, temperature):
    hidden, weight, targets = problem
    scale = torch.arange(11.0, dtype=torch.float64)
    direct = (hidden @ weight.T / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = torch.autograd.grad((direct * scale).sum(), (hidden, weight))
    chunked = projected_logprobs(hidden, weight, targets, chunk=chunk, temperature=temperature)
    torch.testing.assert_close(chunked, direct)
    torch.testing.assert_close(torch.autograd.grad((chunked * scale).sum(), (hidden, weight)), expected)


def test_chunks_hold_no_more_than_their_rows(problem, monkeypatch):
    hidden, weight, targets = problem
    sizes = []
    from workbench.objectives import logprobs

    score = logprobs.token_logprobs
    monkeypatch.setattr(logprobs, "token_logprobs", lambda x, t: (sizes.append(len(x)), score(x, t))[1])
    projected_logprobs(hidden, weight, targets, chunk=4)
    assert sizes == [4, 4, 3]


def test_logits_themselves_need_no_weight(problem):
    hidden, weight, targets = problem
    torch.testing.assert_close(
        projected_logprobs(hidden @ weight.T, None, targets), projected_logprobs(hidden, weight, targets)
    )


def test_a_bias_of_the_head_counts(problem):
    hidden, weight, targets = problem
    bias = torch.arange(13.0, dtype=torch.float64)
    expected = (hidden @ weight.T + bias).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(projected_logprobs(hidden, weight, targets, bias=bias, chunk=3), expected)


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_logprobs_are_at_least_float32(dtype, wanted):
    logits = torch.zeros(2, 8, dtype=getattr(torch, dtype))
    found = token_logprobs(logits, torch.zeros(2, dtype=torch.long))
    assert found.dtype == getattr(torch, wanted)
    assert found.tolist() == pytest.approx([-math.log(8)] * 2, rel=1e-6)


@pytest.mark.parametrize("chunk", [None, 1, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_are_those_of_the_whole_distribution_in_chunks_too(problem, chunk, temperature):
    hidden, weight, _ = problem
    bias = torch.arange(13.0, dtype=torch.float64)
    whole = torch.distributions.Categorical(logits=(hidden @ weight.T + bias) / temperature).entropy()
    scale = torch.arange(11.0, dtype=torch.float64)
    expected = torch.autograd.grad((whole * scale).sum(), (hidden, weight))
    found = projected_entropies(hidden, weight, bias=bias, chunk=chunk, temperature=temperature)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(torch.autograd.grad((found * scale).sum(), (hidden, weight)), expected)


def test_the_entropy_of_a_uniform_distribution_is_the_logarithm_of_its_size():
    found = projected_entropies(torch.zeros(2, 8, dtype=torch.bfloat16), None)
    assert found.tolist() == pytest.approx([math.log(8)] * 2, rel=1e-6)


def test_a_token_that_cannot_come_adds_nothing_to_the_entropy():
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    found = projected_entropies(logits, None)
    found.sum().backward()
    assert found.tolist() == pytest.approx([math.log(2)], rel=1e-6)
    assert logits.grad.tolist() == [pytest.approx([0.0, 0.0, 0.0], abs=1e-7)]


def test_a_token_too_improbable_for_float32_makes_the_mean_of_infinite_values_infinite_and_no_gradient_nan():
    """e^-200 is 0 in float32, and greater than 0."""
    logits = torch.tensor([[0.0, -200.0, 0.0], [0.0, -200.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[0.0, -math.inf, 0.0], [0.0, -1.0, -1.0]])
    for found in (full_kl(logits, reference), forward_kl(logits.log_softmax(-1), reference.log_softmax(-1))):
        assert found[0] == math.inf
        assert found[1].isfinite()
        (gradient,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
        assert gradient.isfinite().all()
        (alone,) = torch.autograd.grad(found[1], logits)
        assert torch.equal(gradient[1], alone[1])


def test_the_gradient_of_the_mean_is_that_of_the_plain_sum_where_all_is_finite():
    logprobs = torch.randn(3, 5, dtype=torch.float64).log_softmax(-1).requires_grad_()
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(expectation(logprobs, values), (logprobs.exp() * values).sum(-1))
    assert torch.autograd.gradcheck(expectation, (logprobs, values))
