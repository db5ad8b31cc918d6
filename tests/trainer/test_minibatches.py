"""A rollout cut into updates, by hand."""

from __future__ import annotations

import pytest

from workbench.errors import DataError


@pytest.fixture
def rows(torch):
    """Two prompts of two completions, of 1, 2, 3 and 4 tokens."""
    lengths = torch.tensor([1, 2, 3, 4])
    return {
        "prompt_index": torch.tensor([0, 0, 1, 1]),
        "completion_ids": torch.arange(16).view(4, 4),
        "completion_mask": torch.arange(4) < lengths[:, None],
        "units": lengths.double(),
        "tokens": lengths.double(),
    }


def cut(rows, learned, counted, passes=1, minibatches=1):
    import numpy as np
    import torch

    from workbench.trainer.online.minibatches import cut_rollout

    first, second = (torch.tensor(part).bool() for part in (learned, counted))
    return cut_rollout(rows, first, second, passes, minibatches, np.random.default_rng(0))


def test_rows_that_are_not_computed_leave_their_units_to_one_that_is(rows):
    (batch,) = cut(rows, [0, 1, 1, 0], [1, 1, 1, 1])
    assert batch["completion_ids"].tolist() == [[4, 5, 6], [8, 9, 10]]  # cut to the longest
    assert batch["units"].tolist() == [2.0 + 1.0 + 4.0, 3.0]
    assert rows["units"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_where_nothing_is_learned_a_row_that_counts_is_computed(rows):
    (batch,) = cut(rows, [0, 0, 0, 0], [0, 1, 1, 1])
    assert batch["completion_ids"].tolist() == [[4, 5]]
    assert batch["completion_mask"].tolist() == [[True, True]]


def test_a_row_that_does_not_count_has_no_token_where_nothing_else_is_there(rows):
    uncounted = rows | {"units": rows["units"] * 0, "tokens": rows["tokens"] * 0}
    (batch,) = cut(uncounted, [0, 0, 0, 0], [0, 0, 0, 0])
    assert batch["completion_mask"].any().item() is False
    assert batch["units"].sum() == 0


def test_minibatches_are_of_whole_prompts_and_only_the_first_is_fresh(rows):
    updates = cut(rows, [1] * 4, [1] * 4, passes=3, minibatches=2)
    assert [sorted(batch["units"].tolist()) in ([1.0, 2.0], [3.0, 4.0]) for batch in updates] == [True] * 6
    assert all(sum(batch["units"].sum() for batch in updates[i : i + 2]) == 10 for i in (0, 2, 4))
    assert [batch["fresh"].tolist() for batch in updates] == [[1.0, 1.0]] + [[0.0, 0.0]] * 5


def test_more_minibatches_than_prompts_are_refused(rows):
    with pytest.raises(DataError, match="2 prompts in this process cannot be cut into 3 minibatches"):
        cut(rows, [1] * 4, [1] * 4, minibatches=3)
