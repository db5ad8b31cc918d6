"""One token a row: the distribution by hand, randomness that belongs to the row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from workbench.errors import NonFiniteError
from workbench.generation.draw import _kept, draw, mix, uniforms
from workbench.generation.generate import row_seed
from workbench.generation.sampling import SamplingSettings

PROBABILITIES = [0.5, 0.25, 0.15, 0.1]
TRUNCATED = [  # settings, what is left of PROBABILITIES
    ({}, [0.5, 0.25, 0.15, 0.1]),
    ({"top_k": 1}, [1, 0, 0, 0]),
    ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
    ({"top_k": 4}, [0.5, 0.25, 0.15, 0.1]),
    ({"top_k": 9}, [0.5, 0.25, 0.15, 0.1]),
    ({"top_p": 1e-9}, [1, 0, 0, 0]),
    ({"top_p": 0.49}, [1, 0, 0, 0]),
    ({"top_p": 0.51}, [2 / 3, 1 / 3, 0, 0]),
    ({"top_p": 0.74}, [2 / 3, 1 / 3, 0, 0]),
    ({"top_p": 0.76}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
    ({"top_p": 0.95}, [0.5, 0.25, 0.15, 0.1]),
    ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),  # of the two left, the first reaches 2/3
    ({"top_k": 3, "top_p": 0.8}, [2 / 3, 1 / 3, 0, 0]),
    ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),  # squares
    ({"temperature": 1e6}, [0.25, 0.25, 0.25, 0.25]),
    ({"temperature": 1e-3}, [1, 0, 0, 0]),
    ({"temperature": 1e-45}, [1, 0, 0, 0]),
    ({"temperature": 1e-300}, [1, 0, 0, 0]),
    ({"temperature": 0.5, "top_p": 0.9}, [0.8, 0.2, 0, 0]),  # 0.725 + 0.181 reach it
]  # fmt: skip
SAMPLES = 20_000


def _seeds(torch, number: int):
    return torch.tensor([row_seed(0, str(index)) for index in range(number)])


@pytest.mark.parametrize(("settings", "expected"), TRUNCATED, ids=[str(settings) for settings, _ in TRUNCATED])
def test_frequencies_are_those_of_the_truncated_distribution(torch, settings, expected):
    # Twice: the likeliest first, and the order reversed, for nothing may depend on where a token stands.
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        logits = torch.tensor(PROBABILITIES).log()[order].expand(SAMPLES, -1) + 7.0
        tokens = draw(logits, SamplingSettings(**settings), _seeds(torch, SAMPLES), position=0)
        counts = torch.bincount(tokens, minlength=4)[order].numpy()
        possible = np.array(expected) > 0
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            result = scipy.stats.chisquare(counts[possible], np.array(expected)[possible] * SAMPLES)
            assert result.pvalue > 1e-3, (counts, expected)


@pytest.mark.parametrize(
    ("settings", "expected"), TRUNCATED[:13], ids=[str(settings) for settings, _ in TRUNCATED[:13]]
)
def test_the_kept_tokens_have_these_probabilities(torch, settings, expected):
    logits = torch.tensor([PROBABILITIES]).log()
    assert _kept(logits, SamplingSettings(**settings)).softmax(-1)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_equal_tokens_stay_together_under_top_k_and_the_first_wins_under_top_p(torch):
    logits = torch.zeros(1, 4)
    assert _kept(logits, SamplingSettings(top_k=2)).isfinite().tolist() == [[True] * 4]
    assert _kept(logits, SamplingSettings(top_p=0.5)).isfinite().tolist() == [[True, True, False, False]]


def test_a_token_without_probability_is_never_drawn(torch):
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]).expand(5_000, -1)
    assert set(draw(logits, SamplingSettings(), _seeds(torch, 5_000), 0).tolist()) == {1, 3}


def test_greedy_is_the_first_of_the_likeliest(torch):
    assert draw(torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 2.0]]), None, _seeds(torch, 2), 0).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [None, SamplingSettings()])
def test_logits_that_are_not_finite_stop_the_run(torch, bad, settings):
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    with pytest.raises(NonFiniteError, match="the model's logits are not finite"):
        draw(logits, settings, _seeds(torch, 3), 0)
    with pytest.raises(NonFiniteError):
        draw(torch.full((1, 4), -torch.inf), settings, _seeds(torch, 1), 0)


def test_a_rows_token_does_not_depend_on_the_other_rows(torch):
    logits = torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    settings = SamplingSettings(temperature=0.7, top_k=8, top_p=0.9)
    together = draw(logits, settings, _seeds(torch, 50), 3)
    alone = [draw(logits[row : row + 1], settings, _seeds(torch, 50)[row : row + 1], 3).item() for row in range(50)]
    assert together.tolist() == alone


def test_the_mixer_is_splitmix64(torch):
    """The first outputs of the published generator from state 0 and from 1234567 (Vigna's reference code)."""
    outputs = [int(value) % 2**64 for value in mix(torch.zeros(3, dtype=torch.int64), torch.arange(3))]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    outputs = [int(value) % 2**64 for value in mix(torch.full((3,), 1234567), torch.arange(3))]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_numbers_lie_within_0_and_1_and_fill_it_evenly(torch):
    numbers = uniforms(_seeds(torch, SAMPLES), 5)
    assert numbers.dtype == torch.float64
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert scipy.stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3


def test_the_largest_hash_is_not_rounded_to_1(torch, monkeypatch):
    from workbench.generation import draw as module

    for value, inside in ((-1, 1 - 2**-53), (0, 2**-54)):
        monkeypatch.setattr(module, "mix", lambda seeds, position, value=value: torch.tensor([value]))
        assert uniforms(torch.zeros(1, dtype=torch.int64), 0).item() == inside


def test_uniform_numbers_of_rows_and_positions_are_uncorrelated(torch):
    rows = torch.stack([uniforms(mix(torch.full((200,), 7), torch.arange(200)), place) for place in range(200)], 1)
    for table in (rows, rows.T):
        correlations = np.corrcoef(table.numpy())[np.triu_indices(200, 1)]
        # Of 200 numbers each: deviation 1 / sqrt(200); the largest of 19,900 lies at about 4 of them.
        assert abs(correlations).max() < 5.5 / 200**0.5
        assert abs(correlations.mean()) < 5 / (200 * 19_900) ** 0.5


def test_seeds_belong_to_the_identity_and_the_run(torch):
    seeds = {row_seed(seed, identity) for seed in range(10) for identity in ("a", "b", "ab", "")}
    assert len(seeds) == 40
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
    assert row_seed(3, "a") == row_seed(3, "a")
