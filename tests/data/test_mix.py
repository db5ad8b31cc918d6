"""Several sources drawn as one: shares, orders, epochs, and sets joined."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.forms.judged import JudgedSet
from workbench.data.mix import MixedSet, MixLoader, Source, joined, rounded
from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, PromptSet, RowSet, Texts
from workbench.errors import DataError


def _rows(first: int, number: int) -> RowSet:
    """Rows of two to four tokens, each of which names its row."""
    ids = Ragged.from_rows([[first + row] * (2 + row % 3) for row in range(number)])
    return RowSet(ids, np.ones(len(ids.values), bool))


def _loader(sizes=(6, 3), shares=(2 / 3, 1 / 3), batch_rows=4, **more):
    sources = [
        Source(name, _rows(100 * place, size)) for place, (name, size) in enumerate(zip("abcd", sizes, strict=False))
    ]
    by_step = shares if callable(shares) else lambda _: shares
    return MixLoader(MixedSet(sources), batch_rows, 7, by_step, **more)


def test_an_epoch_by_the_number_of_rows_is_every_row_once():
    loader = _loader()
    assert loader.end_after(1.0) == 3
    drawn = np.concatenate([loader.rows_of(position) for position in range(3)])
    assert sorted(drawn.tolist()) == list(range(9))
    assert loader.drawn(3) == [(6, 1.0), (3, 1.0)]


def test_shares_are_of_rows_drawn_and_a_small_source_starts_over():
    loader = _loader(shares=(0.25, 0.75))
    rows = [loader.rows_of(position) for position in range(4)]
    assert [np.bincount(loader.data.batch(batch)["source_ids"], minlength=2).tolist() for batch in rows] == [[1, 3]] * 4
    # Three rows of b a batch: each batch is one pass over it.
    assert [sorted(batch[batch >= 6].tolist()) for batch in rows] == [[6, 7, 8]] * 4
    assert loader.drawn(4) == [(4, 4 / 6), (12, 4.0)]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    weights=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=4).filter(lambda found: sum(found) > 0.01),
    batch_rows=st.integers(1, 7),
)
def test_no_source_is_a_whole_row_behind(weights, batch_rows):
    shares = np.array(weights) / sum(weights)
    loader = _loader([5] * len(weights), shares, batch_rows)
    for batches in range(1, 30):
        drawn = np.array([rows for rows, _ in loader.drawn(batches)])
        assert drawn.sum() == batches * batch_rows
        assert (batches * batch_rows * shares - drawn).max() < len(weights) / 2 + 0.5


@pytest.mark.parametrize(("due", "total", "found"), [([1.5, 1.5], 3, [2, 1]), ([-0.7, -0.7, 3.4], 2, [0, 0, 2])])
def test_what_is_due_is_rounded_to_the_total(due, total, found):
    assert rounded(np.array(due), total).tolist() == found


def test_any_position_gives_its_batch_whatever_was_read_before():
    shares = lambda step: (0.9, 0.1) if step < 6 else (0.2, 0.8)  # noqa: E731
    whole = [_loader(shares=shares).rows_of(position).tolist() for position in range(12)]
    asked = _loader(shares=shares, steps_per_batch=1)
    for position in (11, 0, 5, 4, 6, 2, 11):
        assert asked.rows_of(position).tolist() == whole[position]
    assert whole != [_loader(shares=shares, steps_per_batch=3).rows_of(position).tolist() for position in range(12)]


def test_processes_share_a_batch_without_loss():
    whole = _loader()
    parts = [_loader(rank=rank, world_size=2) for rank in range(2)]
    one, *both = (next(iter(loader)) for loader in (whole, *parts))
    ids = lambda batch: sorted(batch["input_ids"][:, 0].tolist())  # noqa: E731
    assert sorted(ids(both[0]) + ids(both[1])) == ids(one)
    sources = collections.Counter(both[0]["source_ids"].tolist() + both[1]["source_ids"].tolist())
    assert sources == collections.Counter(one["source_ids"].tolist())


def test_a_source_is_divided_into_bands_from_easy_to_hard():
    hard = Source("a", _rows(0, 7), difficulty=np.array([3, 1, 2, 9, 9, 0, 5]))
    mixed = MixedSet([hard, Source("b", _rows(100, 3), 2.0, np.array([2, 1, 0]))], bands=3)
    assert mixed.names == ("a-1", "a-2", "a-3", "b-1", "b-2", "b-3")
    assert [part.tolist() for part in mixed.parts] == [[5, 1, 2], [0, 6], [3, 4], [9], [8], [7]]
    batch = mixed.batch(np.array([3, 5, 7]))
    assert (batch["source_ids"].tolist(), batch["loss_weight"].tolist()) == ([2, 0, 5], [1.0, 1.0, 2.0])
    with pytest.raises(DataError, match="source b has 3 rows, allowed 4 or more: one a band"):
        MixedSet([hard, Source("b", _rows(100, 3), 1.0, np.array([2, 1, 0]))], bands=4)


def test_a_batch_names_sources_and_the_weights_of_their_losses():
    plain = MixedSet([Source("a", _rows(0, 2)), Source("b", _rows(10, 1))])
    assert plain.batch(np.array([2, 0]))["source_ids"].tolist() == [1, 0]
    assert "loss_weight" not in plain.batch(np.array([0]))
    weighted = MixedSet([Source("a", _rows(0, 2)), Source("b", _rows(10, 1), 3.0)])
    assert weighted.batch(np.array([2, 0, 2]))["loss_weight"].tolist() == [3.0, 1.0, 3.0]


def _sets(form: str, first: int, number: int):
    rows = _rows(first, number)
    texts = Texts.of([f"{first + row}" if row else None for row in range(number)])
    return {
        "rows": rows,
        "pairs": PairSet(rows.ids, rows.ids, rows.ids, rows.ids.values * 0.5, rows.ids.values * 0.25),
        "judged": JudgedSet(rows, "score", np.arange(number, dtype=np.float32)),
        "prompts": PromptSet(rows.ids, texts, texts, texts, Texts.of(['{"columns": {"a": 1}}'] * number)),
    }[form]


@pytest.mark.parametrize("form", ["rows", "pairs", "judged", "prompts"])
def test_a_joined_set_has_every_row_of_its_parts(form):
    parts = [_sets(form, 10, 3), _sets(form, 20, 1), _sets(form, 30, 2)]
    whole, places = joined(parts), [(part, row) for part in parts for row in range(len(part))]
    assert len(whole) == 6
    for number, (part, row) in enumerate(places):
        own, there = part.batch(np.array([row])), whole.batch(np.array([number]))
        assert own.keys() == there.keys()
        for key in own:
            assert list(map(str, own[key])) == list(map(str, there[key])), key


def test_a_run_on_a_mix_resumes_exactly(small_llama, tmp_path):
    from tests.trainers import outcome
    from workbench.trainer import SFTTrainer

    def make(folder, **settings):
        shares = lambda step: (1 - step / 6, step / 6)  # noqa: E731
        chosen = {"steps": 5, "precision": "float32", "device": "cpu", "learning_rate": 0.01} | settings
        sources = [Source("a", _rows(1, 5)), Source("b", _rows(8, 4), loss_weight=2.0)]
        loader = MixLoader(MixedSet(sources), 4, 7, shares)
        return SFTTrainer(small_llama(), None, loader, settings=chosen, output_dir=folder)

    whole = make(tmp_path / "whole")
    whole.train()
    part = make(tmp_path / "part")
    part.progress.num_steps = 3
    part.train()
    again = make(tmp_path / "part")
    assert again.resume()
    again.train()
    assert outcome(again, tmp_path / "part") == outcome(whole, tmp_path / "whole")
