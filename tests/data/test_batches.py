"""Padding, stored sets and loaders, against slow references."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.batches import BatchLoader
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, RowSet, save_reference
from workbench.errors import DataError

ROWS = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(rows=ROWS, left=st.booleans(), data=st.data())
def test_padding_equals_a_loop_over_rows(rows, left, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    width = max(1, *(len(rows[row]) for row in chosen))
    expected = [[(-1, False)] * (width - len(rows[row])) for row in chosen]
    for padding, row in zip(expected, chosen, strict=True):
        real = [(value, True) for value in rows[row]]
        padding[:] = padding + real if left else real + padding
    padded, mask = Ragged.from_rows(rows).padded(np.array(chosen), -1, left=left)
    assert [list(zip(*pair, strict=True)) for pair in zip(padded.tolist(), mask.tolist(), strict=True)] == expected


def test_no_rows_are_a_ragged_array_too():
    empty = Ragged.from_rows([])
    assert (len(empty), empty.lengths.tolist()) == (0, [])
    assert [len(Ragged.from_rows([[], [1], []])[row]) for row in range(3)] == [0, 1, 0]


def _row_set(lengths=(3, 1, 2)):
    ids = Ragged.from_rows([[10 * row + place for place in range(length)] for row, length in enumerate(lengths, 1)])
    return RowSet(ids, np.arange(len(ids.values)) % 2 == 1)


def test_a_batch_of_rows_is_padded_right_and_labels_what_is_learned(torch):
    batch = _row_set().batch(np.array([0, 1]))
    assert batch["input_ids"].tolist() == [[10, 11, 12], [20, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 11, -100], [20, -100, -100]]
    assert batch["attention_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64


def _pair_set():
    return PairSet(Ragged.from_rows([[1, 2], [3]]), Ragged.from_rows([[4], [5, 6]]), Ragged.from_rows([[7, 8, 9], [0]]))


def test_a_batch_of_pairs_pads_prompts_left_and_completions_right(tmp_path):
    save_reference(tmp_path / "ref", np.float32([-1, -2, -3]), np.float32([-4, -5, -6, -7]))
    batch = _pair_set().with_reference(tmp_path / "ref").batch(np.array([0, 1]))
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "prompt_input_ids": [[1, 2], [0, 3]],
        "prompt_attention_mask": [[True, True], [False, True]],
        "chosen_input_ids": [[4, 0], [5, 6]],
        "chosen_attention_mask": [[True, False], [True, True]],
        "rejected_input_ids": [[7, 8, 9], [0, 0, 0]],
        "rejected_attention_mask": [[True, True, True], [True, False, False]],
        "ref_chosen_logprobs": [[-1, 0], [-2, -3]],
        "ref_rejected_logprobs": [[-4, -5, -6], [-7, 0, 0]],
    }
    assert _pair_set().lengths.tolist() == [8, 5]


@pytest.mark.parametrize("lengths", [(3, 1, 2), (0, 4, 0), ()])
def test_rows_are_loaded_as_they_were_saved(tmp_path, lengths):
    saved = _row_set(lengths)
    saved.save(tmp_path / "rows")
    loaded = RowSet.load(tmp_path / "rows")
    for one, other in ((saved.ids.values, loaded.ids.values), (saved.ids.offsets, loaded.ids.offsets),
                       (saved.labelled, loaded.labelled)):  # fmt: skip
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


def test_pairs_are_loaded_as_they_were_saved(tmp_path):
    saved = _pair_set()
    saved.save(tmp_path / "pairs")
    loaded = PairSet.load(tmp_path / "pairs")
    rows = np.array([1, 0])
    assert {k: v.tolist() for k, v in saved.batch(rows).items()} == {
        k: v.tolist() for k, v in loaded.batch(rows).items()
    }


def _taken(loader, number):
    """The rows (told by their first id) of the next batches."""
    batches = iter(loader)
    return [[first // 10 - 1 for first in next(batches)["input_ids"][:, 0].tolist()] for _ in range(number)]


SIZES = [(1, 1), (1, 4), (5, 2), (5, 5), (7, 3), (4, 9), (6, 4)]


@pytest.mark.parametrize(("num_rows", "batch_rows"), SIZES)
def test_each_epoch_is_a_permutation_and_every_batch_is_full(num_rows, batch_rows):
    loader = BatchLoader(_row_set([1] * num_rows), batch_rows, seed=3)
    rows = np.concatenate([loader.rows_of(position) for position in range(3 * num_rows)])
    assert len(rows) == 3 * num_rows * batch_rows
    for epoch in rows.reshape(-1, num_rows):
        assert sorted(epoch) == list(range(num_rows))
    assert len(loader) == -(-num_rows // batch_rows)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(BatchLoader(_row_set([1] * 20), 20, seed=seed).rows_of(epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9


def test_a_batch_holds_the_rows_of_its_position():
    data = _row_set([1, 3, 2, 5, 4])
    loader = BatchLoader(data, 3, seed=0)
    for position, rows in enumerate(_taken(loader, 7)):
        assert collections.Counter(rows) == collections.Counter(loader.rows_of(position).tolist())


@pytest.mark.parametrize("position", [0, 1, 4, 9, 100])
def test_a_position_resumes_exactly_the_batches_that_were_due(position):
    data = _row_set([1 + row % 3 for row in range(7)])
    unbroken = _taken(BatchLoader(data, 3, seed=5), position + 4)
    loader = BatchLoader(data, 3, seed=5)
    _taken(loader, min(position, 2))
    loader.position = position
    assert _taken(loader, 4) == unbroken[position:]
    assert loader.position == position + 4


@pytest.mark.parametrize(("world_size", "batch_rows"), [(1, 4), (2, 4), (2, 5), (3, 4), (4, 4)])
def test_the_processes_part_each_batch_among_them(world_size, batch_rows):
    data = _row_set([1 + row % 3 for row in range(7)])
    whole = _taken(BatchLoader(data, batch_rows, seed=1), 6)
    shares = [
        _taken(BatchLoader(data, batch_rows, seed=1, rank=rank, world_size=world_size), 6) for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert collections.Counter(batch) == collections.Counter(row for part in parts for row in part)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_fewer_rows_than_processes_and_no_rows_at_all_are_refused():
    with pytest.raises(DataError, match="2 rows a step are fewer than the 3 processes that share them"):
        BatchLoader(_row_set(), 2, seed=0, world_size=3)
    with pytest.raises(DataError, match="there are no rows to train on"):
        BatchLoader(_row_set([]), 2, seed=0)


@pytest.mark.parametrize(
    ("epochs", "rows", "sizes"),
    [
        (1, 33, [32, 1]),
        (2, 33, [32, 32, 2]),
        (1, 32, [32]),
        (0.5, 33, [17]),  # half of 33 rows is 16.5: a broken row counts whole
        (1.1, 10, [11]),  # the product of binary numbers is 11.000000000000002
        (3, 5, [15]),
        (1e-6, 33, [1]),
    ],
)
def test_epochs_count_rows_and_the_last_batch_takes_those_left(epochs, rows, sizes):
    loader = BatchLoader(_row_set([1] * rows), 32, seed=3)
    assert loader.end_after(epochs) == len(sizes)
    taken = [loader.rows_of(position) for position in range(len(sizes))]
    assert [len(part) for part in taken] == sizes
    counts = np.bincount(np.concatenate(taken), minlength=rows)
    assert counts.max() - counts.min() <= (0 if float(epochs).is_integer() else 1)
    # What goes on behind the end takes up where it was cut.
    more = np.concatenate([*taken, *(loader.rows_of(len(sizes) + place) for place in range(3))])
    endless = BatchLoader(_row_set([1] * rows), 32, seed=3)
    assert more.tolist() == np.concatenate([endless.rows_of(p) for p in range(len(sizes) + 3)])[: len(more)].tolist()


def test_a_last_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(DataError, match=r"1 epoch of 33 rows end with a batch of 1, .* 1 for each of 2 .*; set steps"):
        BatchLoader(_row_set([1] * 33), 32, seed=0, world_size=2).end_after(1)
    with pytest.raises(DataError, match="end with a batch of 3, and one needs 4 here"):
        BatchLoader(_row_set([1] * 35), 32, seed=0).end_after(1, 4)
    assert BatchLoader(_row_set([1] * 34), 32, seed=0, world_size=2).end_after(1) == 2
