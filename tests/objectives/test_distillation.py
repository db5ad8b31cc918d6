"""Divergences of a student from a teacher: numbers worked by hand, ends, temperature, chunks."""

from __future__ import annotations

import math

import pytest

from workbench.objectives.distillation import (
    divergence_of,
    forward_kl,
    jensen_shannon,
    projected_divergence,
    reverse_kl,
)

TEACHER, STUDENT = [0.5, 0.5], [0.8, 0.2]


@pytest.fixture
def logprobs(torch):
    return tuple(torch.tensor([part], dtype=torch.float64).log() for part in (TEACHER, STUDENT))


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.0, 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)),  # 0.2231436
        (1.0, 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)),  # 0.1927448
        (0.5, 0.0506718),  # m = (.65, .35): half of KL(p || m) = .0471553 and of KL(s || m) = .0541883
        (0.25, 0.0395802),  # m = (.725, .275): .25 x .1131367 + .75 x .0150614
    ],
)
def test_divergences_of_two_coins(logprobs, beta, expected):
    assert divergence_of(beta)(*logprobs).tolist() == pytest.approx([expected], abs=1e-7)


def test_a_student_like_its_teacher_has_no_divergence(logprobs):
    teacher, _ = logprobs
    assert all(abs(divergence_of(beta)(teacher, teacher).item()) < 1e-15 for beta in (0.0, 0.3, 1.0))


def test_over_its_weight_jensen_shannon_approaches_the_two_divergences_of_its_ends(logprobs):
    near = 1e-6
    first, last = (jensen_shannon(*logprobs, beta=beta).item() / near for beta in (near, 1 - near))
    assert (first, last) == pytest.approx((forward_kl(*logprobs).item(), reverse_kl(*logprobs).item()), rel=1e-5)


def test_the_temperature_divides_both_logits_and_its_square_multiplies_the_loss(torch):
    student, teacher = torch.tensor([[math.log(4.0), 0.0]]), torch.zeros(1, 2)
    found = projected_divergence((student, None, None), (teacher, None, None), forward_kl, temperature=2.0)
    # At 2 the student says (2/3, 1/3): 4 (0.5 ln 0.75 + 0.5 ln 1.5).
    assert found.tolist() == pytest.approx([4 * (0.5 * math.log(0.75) + 0.5 * math.log(1.5))], abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_chunks_change_neither_value_nor_gradient(torch, beta):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    teacher = (draw(7, 5), draw(11, 5), draw(11))
    hidden, weight = draw(7, 3), draw(11, 3)
    found = []
    for chunk in (None, 2):
        leaves = [part.clone().requires_grad_() for part in (hidden, weight)]
        values = projected_divergence((*leaves, None), teacher, divergence_of(beta), temperature=1.5, chunk=chunk)
        values.square().sum().backward()
        found.append((values.detach(), *(leaf.grad for leaf in leaves)))
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-14)


def test_no_more_logits_than_a_chunk_s_are_held_at_once(torch, monkeypatch):
    seen = []

    def watched(teacher_logprobs, student_logprobs):
        seen.append(tuple(student_logprobs.shape))
        return forward_kl(teacher_logprobs, student_logprobs)

    monkeypatch.setattr("workbench.objectives.distillation.CHUNK_ELEMENTS", 4 * 11 * 2)
    hidden, weight = torch.randn(7, 3), torch.randn(11, 3)
    projected_divergence((hidden, weight, None), (hidden, weight, None), watched)
    assert seen == [(2, 11), (2, 11), (2, 11), (1, 11)]


def test_half_precision_is_compared_in_float32(torch):
    student, teacher = torch.randn(3, 9).bfloat16(), torch.randn(3, 9).bfloat16()
    found = projected_divergence((student, None, None), (teacher, None, None), reverse_kl)
    exact = projected_divergence((student.double(), None, None), (teacher.double(), None, None), reverse_kl)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


MASKED = -math.inf


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.0, math.log(2)),  # 1 ln(1 / 0.5) + 0 ln(0 / 0.5)
        (1.0, math.inf),  # 0.5 ln(0.5 / 1) + 0.5 ln(0.5 / 0)
        (0.5, 0.5 * math.log(4 / 3) + 0.25 * (math.log(2 / 3) + math.log(2))),  # m = (.75, .25)
    ],
)
def test_a_token_that_the_teacher_cannot_say_adds_what_the_definition_says(torch, beta, expected):
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[3.0, MASKED]])
    found = projected_divergence((student, None, None), (teacher, None, None), divergence_of(beta))
    assert found.tolist() == pytest.approx([expected], abs=1e-6)
    if math.isfinite(expected):
        found.sum().backward()
        assert student.grad.isfinite().all()
        assert student.grad[0, 0] < 0  # the only token that the teacher says is to rise


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_token_that_neither_can_say_changes_neither_divergence_nor_gradient(torch, beta):
    teacher, student = torch.tensor([[1.0, -0.5]]), torch.tensor([[0.2, 0.9]])

    def found(*more):
        extra = torch.tensor([more])
        own = torch.cat((student, extra), 1).requires_grad_()
        value = projected_divergence(
            (own, None, None), (torch.cat((teacher, extra), 1), None, None), divergence_of(beta)
        )
        value.sum().backward()
        return value.detach(), own.grad[:, :2]

    for masked, plain in zip(found(MASKED), found(), strict=True):
        torch.testing.assert_close(masked, plain)


def test_a_student_that_cannot_say_what_the_teacher_says_is_infinitely_far(torch):
    student, teacher = torch.tensor([[0.0, MASKED]]), torch.zeros(1, 2)
    forward, reverse, middle = (
        projected_divergence((student, None, None), (teacher, None, None), divergence_of(beta)).item()
        for beta in (0.0, 1.0, 0.5)
    )
    assert (forward, reverse) == (math.inf, pytest.approx(math.log(2)))
    assert math.isfinite(middle)
