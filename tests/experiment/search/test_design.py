"""What is drawn from a space: typed values within their ranges, no setting twice, a longer design after a shorter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pydantic import ValidationError

from workbench.experiment.search.design import design, size_of
from workbench.experiment.search.settings import Dimension

SPACE = {
    "rate": Dimension(log=(1e-4, 1e-1)),
    "smooth": Dimension(linear=(0.0, 0.5)),
    "rows": Dimension.model_validate({"int": (2, 5)}),
    "loss": Dimension(choice=["sigmoid", "ipo", {"hinge": 0.5}]),
}


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_a_design_lies_in_its_space_and_a_longer_one_begins_with_a_shorter_one(sampler):
    long = design(SPACE, sampler, 40, seed=3)
    assert long[:7] == design(SPACE, sampler, 7, seed=3)
    assert long[:7] != design(SPACE, sampler, 7, seed=4)
    assert all(SPACE[name].holds(value) for setting in long for name, value in setting.items())
    assert {type(setting["rows"]) for setting in long} == {int}
    assert {setting["rows"] for setting in long} == {2, 3, 4, 5}
    assert all(float(f"{setting['rate']:.4g}") == setting["rate"] for setting in long)


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_a_logarithmic_range_has_as_many_draws_below_its_geometric_mean_as_above(sampler):
    drawn = [setting["rate"] for setting in design({"rate": SPACE["rate"]}, sampler, 512, seed=0)]
    below = np.mean([rate < math.sqrt(1e-4 * 1e-1) for rate in drawn])
    assert below == pytest.approx(0.5, abs=0.01 if sampler == "sobol" else 0.07)


def test_sobol_covers_each_part_of_a_square_where_chance_leaves_gaps():
    """Of 64 points of a (0, 2)-sequence each of 64 equal cells of 8 x 8 holds one."""
    square = {name: Dimension(linear=(0.0, 1.0)) for name in ("x", "y")}

    def cells(sampler: str) -> int:
        return len({(int(s["x"] * 8), int(s["y"] * 8)) for s in design(square, sampler, 64, seed=1)})

    assert cells("sobol") >= 60  # a value rounded to four digits may cross a cell's edge
    assert cells("random") < 50


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_a_small_space_is_drawn_whole_and_no_setting_twice(sampler):
    small = {"rows": Dimension.model_validate({"int": (1, 3)}), "loss": Dimension(choice=["a", "b"])}
    assert size_of(small) == 6
    assert len(design(small, sampler, 50, seed=0)) == 6
    assert design({}, sampler, 5, seed=0) == [{}]
    assert size_of({"narrow": Dimension(linear=(1.0, 1.001)), "rows": small["rows"]}) == 2 * 3
    assert size_of({"narrow": Dimension(log=(0.9999, 1.002))}) == 4
    assert size_of({"wide": Dimension(linear=(1.0, 2.01))}) == math.inf


def test_the_places_of_a_range_by_hand():
    assert [Dimension(log=(0.01, 1.0)).at(place) for place in (0, 0.5, 1)] == [0.01, 0.1, 1.0]
    assert [Dimension.model_validate({"int": (2, 5)}).at(place) for place in (0, 0.25, 0.74, 0.75, 1)] == [
        2,
        3,
        4,
        5,
        5,
    ]
    assert [Dimension(choice=["a", "b"]).at(place) for place in (0, 0.49, 0.5, 1)] == ["a", "a", "b", "b"]
    assert Dimension(linear=(0.0, 1 / 3)).at(1) == 0.3333
    assert Dimension(linear=(1 / 3, 1.0)).at(0) == 1 / 3  # its four digits would lie outside


@pytest.mark.parametrize(
    "said",
    [{}, {"log": [1, 2], "int": [1, 2]}, {"log": [0, 1]}, {"log": [2, 1]}, {"linear": [1, 1]}, {"int": [1.5, 2]},
     {"choice": ["a"]}, {"choice": ["a", "a"]}, {"log": [1, math.inf]}, {"uniform": [0, 1]}],
)  # fmt: skip
def test_nonsense_is_no_dimension(said):
    with pytest.raises(ValidationError):
        Dimension.model_validate(said)
