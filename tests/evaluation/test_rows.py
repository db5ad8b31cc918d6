"""The held-out loss, row by row, by hand and against the model's own logits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from workbench.data.ragged import Ragged
from workbench.data.sets import RowSet
from workbench.evaluation.rows import RowEvaluator


def test_a_rows_loss_is_that_of_its_learned_tokens_alone(speaker, tokenizer):
    """P(1 | a) = 1/4, P(2 | 1) = 1/2; "a" is the prompt, and nothing predicts it."""
    ids = Ragged.from_rows([tokenizer.encode("a12"), tokenizer.encode("a1")])
    rows = RowSet(ids, np.array([False, True, True, False, True]))
    model = speaker({"a": {"1": 0.25, "3": 0.75}, "1": {"2": 0.5, "3": 0.5}})
    metrics = RowEvaluator(rows)(model, 0)
    assert metrics == {"eval/loss": pytest.approx((math.log(8) + math.log(4)) / 3, abs=1e-5)}


@pytest.mark.parametrize("batch_rows", [1, 4, 64])
def test_records_are_the_rows_in_their_order_whatever_the_batch(torch, small_llama, tmp_path, batch_rows):
    generator = np.random.default_rng(0)
    ids = Ragged.from_rows([generator.integers(1, 17, generator.integers(2, 9)) for _ in range(9)])
    labelled = generator.random(len(ids.values)) < 0.6
    labelled[ids.offsets[1:] - 1] = True
    model, records = small_llama(), tmp_path / "losses.jsonl"
    metrics = RowEvaluator(RowSet(ids, labelled), batch_rows=batch_rows, records=records)(model, 5)
    found = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(row["step"], row["row_id"]) for row in found] == [(5, f"row{index}") for index in range(9)]
    for index, row in enumerate(found):
        tokens = torch.tensor(ids[index].astype(np.int64))
        learned = labelled[ids.offsets[index] : ids.offsets[index + 1]][1:]
        with torch.no_grad():
            scores = model(tokens[None]).logits[0, :-1].double().log_softmax(-1)
        slowly = -sum(scores[i, tokens[i + 1]].item() for i in np.flatnonzero(learned))
        assert (row["loss_sum"], row["num_tokens"]) == (pytest.approx(slowly, abs=1e-4), learned.sum())
    total = sum(row["loss_sum"] for row in found) / sum(row["num_tokens"] for row in found)
    assert metrics["eval/loss"] == pytest.approx(total)
