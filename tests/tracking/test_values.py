"""Metric values pool exactly, whatever the split."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.tracking.values import Max, Mean, Sum, pool, pool_metrics, results, settle


@given(st.lists(st.lists(st.integers(-1000, 1000)), min_size=1))
def test_parts_pool_to_the_whole(parts):
    metrics = [
        {"sum": Sum(sum(part)), "mean": Mean(sum(part), len(part)), **({"max": Max(max(part))} if part else {})}
        for part in parts
    ]
    whole = [value for part in parts for value in part]
    found = results(pool_metrics(metrics))
    assert found["sum"] == sum(whole)
    if whole:
        assert found["mean"] == sum(whole) / len(whole)
        assert found["max"] == max(whole)


def test_a_mean_is_not_a_mean_of_means():
    assert pool(Mean(1.0, 1), Mean(9.0, 3)).result() == 2.5


def test_a_mean_of_nothing_is_nan():
    assert math.isnan(Mean(0.0, 0).result())


@pytest.mark.parametrize("values", [(math.nan, 1.0), (1.0, math.nan)])
def test_a_nan_that_was_seen_is_told_in_any_order(values):
    assert math.isnan(pool(Max(values[0]), Max(values[1])).result())
    assert math.isnan(pool(Sum(values[0]), Sum(values[1])).result())


def test_kinds_do_not_mix():
    with pytest.raises(TypeError, match="cannot pool Sum with Mean"):
        pool(Sum(1.0), Mean(1.0, 1))


def test_tensors_pool_without_leaving_their_device_and_settle_as_floats():
    pooled = pool(Mean(torch.tensor(3.0), 1), Mean(torch.tensor(5.0), torch.tensor(3)))
    assert isinstance(pooled.total, torch.Tensor)
    assert settle({"a": pooled, "b": Max(torch.tensor(2.0))}) == {"a": Mean(8.0, 4.0), "b": Max(2.0)}
