"""Which steps stand out, by hand and by law."""

from __future__ import annotations

import json
import random
import statistics

import pytest

from workbench.trainer.loop.spikes import SpikeWatch
from workbench.trainer.settings import Spikes


def watch(**settings):
    return SpikeWatch(Spikes(**({"sigmas": 3.0, "window": 8} | settings)))


def feed(watched, losses, grad_norms=None):
    """What was found at each step."""
    rows = zip(losses, grad_norms or [1.0 + 0.1 * (i % 2) for i in range(len(losses))], strict=True)
    return [watched.observe({"loss": loss, "grad_norm": norm}) for loss, norm in rows]


def test_by_hand_against_the_mean_and_spread_of_the_steps_before():
    losses = [2.0, 2.2, 1.9, 2.1]
    limit = statistics.fmean(losses) + 3.0 * statistics.stdev(losses)
    assert feed(watch(), [*losses, limit - 1e-6])[-1] is None
    assert feed(watch(), [*losses, limit + 1e-6])[-1] == (
        "loss 2.437 is 3 standard deviations above 2.05, the mean of 4 steps"
    )


def test_a_gradient_norm_stands_out_by_itself_and_both_are_named():
    steady = [2.0, 2.2, 1.9, 2.1]
    norms = [1.0, 1.2, 1.1, 0.9]
    assert feed(watch(), [*steady, 2.0], [*norms, 9.0])[-1].startswith("grad_norm 9 is ")
    assert " and grad_norm 9 is " in feed(watch(), [*steady, 7.0], [*norms, 9.0])[-1]


def test_falling_is_no_spike():
    assert feed(watch(), [2.0, 2.2, 1.9, 2.1, 0.001]) == [None] * 5


def test_none_is_judged_before_half_a_window():
    assert feed(watch(), [2.0, 2.2, 1.9, 1e9]) == [None] * 4


def test_a_level_that_stays_becomes_the_normal_one():
    found = feed(watch(), [2.0, 2.1, 1.9, 2.05, *([5.0, 5.1] * 8)])
    assert found[4]
    assert not any(found[8:]), "spikes join the window"


def test_steps_without_a_signal_say_nothing():
    watched = watch()
    feed(watched, [0.0] * 20, [0.0] * 20)
    assert watched.state_dict() == {"loss": [], "grad_norm": []}


def test_what_is_equal_but_for_rounding_has_no_spike():
    assert feed(watch(), [2.0] * 8 + [2.0 + 1e-9]) == [None] * 9


@pytest.mark.parametrize("seed", range(4))
def test_at_the_defaults_steady_noise_of_a_long_run_has_no_spike(seed):
    rng = random.Random(seed)
    losses = [rng.gauss(2.0, 0.2) for _ in range(1_500)]
    norms = [rng.gauss(1.0, 0.1) for _ in range(1_500)]
    assert not any(feed(SpikeWatch(Spikes()), losses, norms))


def test_it_goes_on_from_its_state_as_if_never_stopped():
    rng = random.Random(1)
    losses = [rng.gauss(2.0, 0.2) + 3.0 * (i % 17 == 16) for i in range(60)]
    expected = feed(watch(), losses)
    assert any(expected)
    first, second = watch(), watch()
    found = feed(first, losses[:31], [1.0 + 0.1 * (i % 2) for i in range(31)])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += feed(second, losses[31:], [1.0 + 0.1 * ((i + 31) % 2) for i in range(29)])
    assert found == expected
