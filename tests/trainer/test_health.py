"""A run that does harm is told so once, when it begins to; a run that is well is never told so."""

from __future__ import annotations

import pytest

from workbench.trainer.records.health import Health


def judged(rows, judges_loss=True):
    """What was told by step, and what stands at the end."""
    health = Health(judges=True, judges_loss=judges_loss)
    told = {}
    for index, row in enumerate(rows):
        found = health.observe({"step": index, **row}, is_last=index == len(rows) - 1)
        if found:
            told[index] = found
    return told, health.standing


def losses(*values, name="loss"):
    return [{}, *({name: value} for value in values)]


def test_a_held_out_loss_that_ends_far_above_its_lowest_is_harm():
    told, standing = judged([{"eval/loss": 4.67}, {"eval/loss": 3.0}, {"eval/loss": 10_357.0}])
    assert list(told) == [2]
    assert standing[0].startswith("held-out loss is 1.036e+04, and was 3 at step 1: training has diverged")


@pytest.mark.parametrize("values", [(4.67, 4.7), (0.5, 1.4), (2.0, 3.9), (4.4, 0.3), (0.0, 0.9)])
def test_a_held_out_loss_less_than_twice_and_a_unit_above_its_lowest_is_none(values):
    assert judged([{"eval/loss": value} for value in values]) == ({}, [])


def test_harm_that_passes_is_told_when_it_came_and_does_not_stand_at_the_end():
    told, standing = judged([{"eval/loss": value} for value in (1.0, 9.0, 9.5, 0.9)])
    assert list(told) == [1]
    assert standing == []


def test_harm_that_comes_again_is_told_again():
    told, _ = judged([{"eval/loss": value} for value in (1.0, 9.0, 0.9, 9.0)])
    assert list(told) == [1, 3]


@pytest.mark.parametrize(
    ("right", "left", "harm"), [(6, 0, True), (5, 0, False), (100, 5, True), (100, 6, False), (0, 0, False)]
)
def test_exact_match_that_falls_to_a_twentieth_by_six_prompts_or_more_is_harm(right, left, harm):
    rows = [{"eval/exact_match_greedy": number / 512, "eval/num_prompts": 512.0} for number in (right, left)]
    assert bool(judged(rows)[1]) == harm


def test_a_divergence_of_five_nats_a_token_is_harm_and_that_of_a_loose_beta_is_none():
    rows = [{"eval/kl_start": kl, "eval/completion_tokens": 10.0} for kl in (0.0, 18.0)]
    assert judged(rows) == ({}, [])
    assert "5.1 for each of its tokens" in judged([*rows, {**rows[1], "eval/kl_start": 51.0}])[1][0]


def test_a_training_loss_that_ends_above_three_times_its_beginning_is_harm():
    assert judged(losses(*[1.0] * 6, *[4.1] * 6))[1][0].startswith("training loss is 4.1 over the last 5 steps, 1 over")


def test_the_loss_of_a_tight_beta_that_rises_and_comes_back_is_none():
    assert judged(losses(0.69, 0.7, 0.8, 1.2, 1.6, *[2.3] * 8, *[0.4] * 8)) == ({}, [])


def test_the_loss_of_a_trainer_that_completes_prompts_says_nothing():
    assert judged([*losses(*[0.0] * 20, *[90.0] * 9), {"eval/loss": 9.0}], judges_loss=False) == ({}, [])


def test_a_training_loss_that_stands_still_to_the_last_digit_is_told_once():
    told, standing = judged(losses(*[0.6931] * 15))
    assert list(told) == [10]
    assert "0.6931 for 10 steps" in standing[0]


def test_weights_that_did_not_move_are_told_at_the_end_alone():
    told, _ = judged([{"eval/loss": 1.5, "eval/kl_start": 0.0}] * 3)
    assert list(told) == [2]
    assert "no weight has moved" in told[2][0]
    assert judged([{"eval/loss": 1.5}, {"eval/loss": 1.5 + 1e-12}]) == ({}, [])
    assert judged([{"eval/loss": 1.5}]) == ({}, [])


def test_what_is_not_judged_is_never_told():
    health = Health(judges=False, judges_loss=True)
    assert [health.observe({"step": s, "eval/loss": 10.0**s}, is_last=False) for s in range(3)] == [[], [], []]


def test_a_judgement_goes_on_from_its_state_as_if_it_had_not_stopped():
    rows = [{"step": s, "loss": 1.0 + 5 * (s > 8), "eval/loss": 1.0 + 5 * (s > 8)} for s in range(1, 20)]
    whole, first, second = (Health(judges=True, judges_loss=True) for _ in range(3))
    expected = [whole.observe(row, is_last=False) for row in rows]
    found = [first.observe(row, is_last=False) for row in rows[:7]]
    second.load_state_dict(first.state_dict())
    assert [*found, *(second.observe(row, is_last=False) for row in rows[7:])] == expected
