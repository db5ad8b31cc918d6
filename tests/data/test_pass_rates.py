"""Prompts drawn by how often the model's own completions of them pass: rates, bands, order, and what a run keeps."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from workbench.data.curriculum import Curriculum
from workbench.data.mix import MixedSet, Source
from workbench.data.pass_rates import PassRateLoader
from workbench.data.ragged import Ragged
from workbench.data.sets import PromptSet, Texts
from workbench.errors import CheckpointError

HALF = {"within": [0.25, 0.75]}


def _prompts(first: int, number: int) -> PromptSet:
    ids = Ragged.from_rows([[1 + (first + row) % 16] * (2 + row % 3) for row in range(number)])
    texts = Texts.of([f"{first + row}" for row in range(number)])
    return PromptSet(ids, texts, Texts.of([None] * number), texts)


def _loader(sizes=(12,), batch_rows=4, steps_per_batch=1, rank=0, world_size=1, shares=None, **curriculum):
    settings = Curriculum.model_validate(curriculum or {"pass_rate": HALF})
    data = MixedSet([Source(name, _prompts(100 * i, n)) for i, (name, n) in enumerate(zip("ab", sizes, strict=False))])
    whole = shares or [1 / len(sizes)] * len(sizes)
    by_step = lambda step: [share * band for share in whole for band in settings.shares(step)]  # noqa: E731
    more = {"steps_per_batch": steps_per_batch, "rank": rank, "world_size": world_size}
    return PassRateLoader(data, batch_rows, 7, by_step, settings, **more)


def _learn(loader, steps, earned):
    """Takes so many batches, each observed; the rows of each. earned: of a row, what its completions earn."""
    taken, batches = [], iter(loader)
    for _ in range(steps):
        rows = sorted(next(batches)["row_ids"].tolist())
        loader.observe({row: earned(row) for row in rows})
        taken.append(rows)
    return taken


def test_prompts_in_the_band_are_all_drawn_before_one_repeats():
    taken = _learn(_loader(), 6, lambda row: [0.0, 1.0])
    assert sorted(chain(*taken[:3])) == sorted(chain(*taken[3:])) == list(range(12))
    assert taken[:3] != taken[3:]


def test_prompts_that_always_or_never_pass_are_left_out_until_their_rates_are_forgotten():
    earned = lambda row: [0.0, 1.0] if row < 6 else [row % 2]  # noqa: E731
    taken = _learn(_loader(pass_rate=HALF | {"forget_after": 5}), 12, earned)
    assert sorted(chain(*taken[:3])) == list(range(12))
    assert set(chain(*taken[3:5])) <= set(range(6))
    assert set(chain(*taken[5:])) & set(range(6, 12)), "they are tried again"
    never = _learn(_loader(pass_rate=HALF | {"forget_after": None}), 30, earned)
    assert set(chain(*never[3:])) == set(range(6))


def test_a_rate_is_what_passed_and_later_moves_towards_what_passed():
    loader = _loader(sizes=(1,), batch_rows=1, pass_rate={"within": [0, 1], "memory": 0.75, "passes_at": 0.5})
    batches = iter(loader)
    for earned, rate in (([0.5, 0.4, 1.0, 0.0], 0.5), ([1.0, 1.0], 0.75 * 0.5 + 0.25), ([0.0], 0.75 * 0.625)):
        next(batches)
        loader.observe({0: earned})
        assert loader.measures()["pass_rate/a"] == rate
    assert loader.measures() == {
        "pass_rate/a": 0.46875, "unmeasured/a": 0.0, "prompts/a-1": 0.0, "prompts/a-2": 1.0, "prompts/a-3": 0.0,
    }  # fmt: skip


def test_bands_of_rates_are_drawn_by_the_step_the_easy_ones_first():
    loader = _loader(batch_rows=12, pass_rate={}, bands=3, hardest_from=2)
    rates = {row: [float(row % 3 > 0), float(row % 3 > 1)] for row in range(12)}  # 0, 1/2 and 1
    [everything] = _learn(loader, 1, rates.__getitem__)
    assert everything == list(range(12))
    assert [loader.measures()[f"prompts/a-{band}"] for band in (1, 2, 3)] == [1 / 3] * 3
    loader.batch_rows = 4
    batch = next(iter(loader))  # after one step of two the middle band alone is drawn
    assert sorted(batch["row_ids"].tolist()) == [1, 4, 7, 10]
    assert batch["source_ids"].tolist() == [1] * 4
    loader.observe({})
    assert sorted(next(iter(loader))["row_ids"].tolist()) == [0, 3, 6, 9]
    loader.observe({})
    # The first batch was owed to the easiest band, and the prior put all prompts in the middle.
    assert loader.drawn(3) == [(0, 0.0), (16, 16 / 12), (4, 4 / 12)]
    assert loader.sources == ("a-1", "a-2", "a-3")


def test_a_band_with_too_few_prompts_takes_those_with_the_nearest_rates():
    loader = _loader(batch_rows=12)
    _learn(loader, 1, lambda row: [1.0] * row + [0.0] * (11 - row))  # rates 0, 1/11 ... 1
    loader.batch_rows = 8
    assert sorted(next(iter(loader))["row_ids"].tolist()) == [2, 3, 4, 5, 6, 7, 8, 9]


def test_prompts_as_far_from_a_band_are_equal_whatever_the_rounding_of_floats():
    loader = _loader(sizes=(2,), batch_rows=2, pass_rate={"within": [0.1, 0.9]})
    _learn(loader, 1, lambda row: [float(row == 0)])  # 0.1 above and, as floats are, a little more below
    loader.batch_rows = 1
    firsts = set()
    for seed in range(10):
        loader.seed = seed
        firsts.add(loader.rows_of(1).item())
    assert firsts == {0, 1}


def test_a_reward_that_rounding_alone_keeps_from_the_most_passes():
    loader = _loader(sizes=(1,), batch_rows=1, pass_rate={"within": [0, 1]})
    _learn(loader, 1, lambda row: [(0.6 + 0.3) + 0.1, 1.0 - 1e-9])
    assert loader.measures()["pass_rate/a"] == 0.5


def test_a_source_keeps_its_share_and_a_smaller_one_repeats():
    loader = _loader(sizes=(9, 2), shares=[0.25, 0.75])
    batch = next(iter(loader))
    assert sorted(batch["source_ids"].tolist()) == [1, 4, 4, 4]
    assert sorted(row for row in batch["row_ids"].tolist() if row >= 9) in ([9, 9, 10], [9, 10, 10])


def test_what_was_given_and_not_observed_is_given_again_and_no_row_twice_before():
    loader = _loader()
    batches = iter(loader)
    first, second = (next(batches)["row_ids"].tolist() for _ in range(2))
    assert not set(first) & set(second)
    kept = loader.state_dict()
    loader.position = 0
    assert next(iter(loader))["row_ids"].tolist() == first
    assert all((kept[name] == value).all() for name, value in loader.state_dict().items())


def test_a_loader_goes_on_from_its_state_alone():
    earned = lambda row: [float(row % 2), 1.0]  # noqa: E731
    whole, part, again = _loader(), _loader(), _loader()
    taken = _learn(whole, 9, earned)
    _learn(part, 4, earned)
    again.load_state_dict(part.state_dict())
    again.position = 4
    assert _learn(again, 5, earned) == taken[4:]
    assert again.measures() == whole.measures()
    assert again.drawn(9) == whole.drawn(9)


def test_a_state_of_other_data_or_bands_is_refused_and_changes_nothing():
    loader = _loader()
    kept = loader.state_dict()
    for other in (_loader(sizes=(5,)), _loader(pass_rate={}, bands=2, hardest_from=1)):
        _learn(other, 1, lambda row: [1.0])
        with pytest.raises(CheckpointError, match=r"of other data or bands: found shapes .*FRESH=1"):
            loader.load_state_dict(other.state_dict())
    with pytest.raises(CheckpointError, match=r"found shapes \{\}"):
        loader.load_state_dict({})
    assert all((kept[name] == value).all() for name, value in loader.state_dict().items())


def test_within_has_three_bands_whatever_the_default_of_bands():
    within = Curriculum.model_validate({"pass_rate": HALF})
    assert within.model_copy(update={"bands": 5}).num_bands == len(within.shares(0)) == 3
    assert Curriculum.model_validate({"pass_rate": {}, "bands": 4, "hardest_from": 1}).num_bands == 4


def test_processes_draw_one_batch_together():
    whole, *parts = (_loader(rank=rank, world_size=size) for rank, size in ((0, 1), (0, 2), (1, 2)))
    rows = lambda loader: next(iter(loader))["row_ids"].tolist()  # noqa: E731
    assert sorted(rows(whole)) == sorted(rows(parts[0]) + rows(parts[1]))


def test_a_prompt_is_in_the_band_of_its_rate_to_the_edges():
    for within, rates in (((0.0, 0.5), [0.0, 0.5]), ((0.5, 1.0), [0.5, 1.0]), ((0.25, 0.75), [0.25, 0.75])):
        loader = _loader(sizes=(2,), batch_rows=2, pass_rate={"within": within})
        _learn(loader, 1, lambda row, rates=rates: [float(i < 4 * rates[row]) for i in range(4)])
        assert loader.measures()["prompts/a-2"] == 1.0
    assert np.array(_loader(pass_rate={}, bands=2, hardest_from=1)._ranges).tolist() == [
        [0.5, 1.0],
        [0.0, pytest.approx(0.5)],
    ]
