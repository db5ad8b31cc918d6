"""Held-out metrics by hand, and the records that they are made of."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from workbench.data.ragged import Ragged
from workbench.data.sets import PairSet, save_reference
from workbench.evaluation.pairs import PairEvaluator
from workbench.evaluation.prompts import HeldOutPrompt, PromptEvaluator
from workbench.evaluation.settings import EvaluateSettings
from workbench.models.reference import frozen_reference
from workbench.rewards import get_verifier
from workbench.trainer.pairs import completion_logprobs

SETTINGS = EvaluateSettings(task="sort", max_new_tokens=4)


def _prompts(tokenizer, *texts, answer="12"):
    return [HeldOutPrompt(text, answer, f"id {text}", tuple(tokenizer.encode(text))) for text in texts]


def _evaluator(tokenizer, prompts, settings=SETTINGS, verifier="sort", **options):
    return PromptEvaluator(prompts, settings, tokenizer, verifier=verifier, **options)


SAYS_12 = {" ": {"1": 1.0}, "1": {"2": 1.0}}


def test_a_model_that_always_says_12_is_right_where_12_is_the_answer(speaker, tokenizer):
    prompts = _prompts(tokenizer, "sort 21: ", "sort 12: ", "sort 31: ")
    assert _evaluator(tokenizer, prompts)(speaker(SAYS_12), 0) == {
        "eval/exact_match_greedy": 2 / 3,
        "eval/exact_match_sampled": 2 / 3,
        "eval/completion_tokens": 3.0,  # its end included
        "eval/ended": 1.0,
        "eval/num_prompts": 3.0,
    }


def test_greedy_and_sampled_are_told_apart(speaker, tokenizer):
    """The likeliest answer is wrong; each sample is right with probability 0.4."""
    prompts = [
        HeldOutPrompt("sort 21: ", "12", str(index), tuple(tokenizer.encode("sort 21: "))) for index in range(400)
    ]
    metrics = _evaluator(tokenizer, prompts)(speaker({" ": {"1": 0.4, "2": 0.6}, "1": {"2": 1.0}}), 0)
    assert metrics["eval/exact_match_greedy"] == 0.0
    assert abs(metrics["eval/exact_match_sampled"] - 0.4) < 4 * (0.4 * 0.6 / 400) ** 0.5
    assert metrics["eval/completion_tokens"] == pytest.approx(2 + metrics["eval/exact_match_sampled"])


def test_without_sampling_greedy_alone_is_measured_and_recorded(speaker, tokenizer, tmp_path):
    model, prompts = speaker(SAYS_12), _prompts(tokenizer, "sort 21: ", "sort 3: ")
    settings = EvaluateSettings(task="sort", max_new_tokens=4, sampling=None)
    records = tmp_path / "completions.jsonl"
    assert _evaluator(tokenizer, prompts, settings, records=records)(model, 0) == {
        "eval/exact_match_greedy": 1 / 2, "eval/completion_tokens": 3.0, "eval/ended": 1.0, "eval/num_prompts": 2.0
    }  # fmt: skip
    assert [json.loads(line)["split"] for line in records.read_text().splitlines()] == ["greedy", "greedy"]
    reference = frozen_reference(speaker({" ": {"1": 0.5, "2": 0.5}, "1": {"2": 1.0}}))
    metrics = _evaluator(tokenizer, prompts, settings, reference=reference)(model, 0)
    assert metrics["eval/kl_start"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [({"task": "sort"}, 64), ({"path": "a.jsonl"}, 256), ({"path": "a.jsonl", "max_new_tokens": 9}, 9),
     ({"pairs": "a.jsonl"}, 64), ({"path": None, "pairs": "a.jsonl"}, 64)],
)  # fmt: skip
def test_answers_of_a_file_may_be_longer_than_a_tasks(settings, tokens):
    assert EvaluateSettings(**settings).max_new_tokens == tokens
    assert EvaluateSettings.model_validate_json(json.dumps(settings), strict=True).max_new_tokens == tokens


def test_sampling_settings_shape_the_sampled_answers_alone(speaker, tokenizer):
    prompts = _prompts(tokenizer, *(f"sort {index}: " for index in range(10, 40)))
    model = speaker({" ": {"1": 0.6, "2": 0.4}, "1": {"2": 0.9, "<eos>": 0.1}})
    settings = EvaluateSettings(task="sort", max_new_tokens=4, sampling={"top_k": 1})
    reference = frozen_reference(speaker({" ": {"1": 0.5, "2": 0.5}, "1": {"2": 0.5, "<eos>": 0.5}}))
    truncated, whole = (
        _evaluator(tokenizer, prompts, one, reference=reference)(model, 0) for one in (settings, SETTINGS)
    )
    assert truncated["eval/exact_match_sampled"] == truncated["eval/exact_match_greedy"]
    assert truncated["eval/completion_tokens"] == 3.0
    assert whole["eval/completion_tokens"] < 3.0
    assert truncated["eval/kl_start"] == whole["eval/kl_start"], "measured at temperature 1 whatever is sampled"


def test_an_answer_that_is_cut_has_not_ended(speaker, tokenizer):
    model = speaker({" ": {"1": 1.0}, "1": {"1": 1.0}})
    metrics = _evaluator(tokenizer, _prompts(tokenizer, "sort 21: "))(model, 0)
    assert (metrics["eval/ended"], metrics["eval/completion_tokens"]) == (0.0, 4.0)


def test_the_divergence_from_itself_is_0_and_only_measured_where_there_is_a_start(speaker, tokenizer):
    prompts = _prompts(tokenizer, "sort 21: ", "sort 12: ")
    metrics = _evaluator(tokenizer, prompts, reference=frozen_reference(speaker(SAYS_12)))(speaker(SAYS_12), 0)
    assert metrics["eval/kl_start"] == 0.0
    # ln 2 at the first position, 0 at the others.
    reference = frozen_reference(speaker({" ": {"1": 0.5, "2": 0.5}, "1": {"2": 1.0}}))
    metrics = _evaluator(tokenizer, prompts, reference=reference)(speaker(SAYS_12), 0)
    assert metrics["eval/kl_start"] == pytest.approx(math.log(2), abs=1e-5)


def test_a_step_does_not_change_the_samples(speaker, tokenizer):
    model = speaker({" ": {"1": 0.5, "2": 0.5}, "1": {"2": 0.5, "<eos>": 0.5}})
    evaluator = _evaluator(tokenizer, _prompts(tokenizer, *(f"sort {index}: " for index in range(10, 30))))
    assert evaluator(model, 0) == evaluator(model, 50)
    other = EvaluateSettings(task="sort", max_new_tokens=4, seed=1)
    assert _evaluator(tokenizer, evaluator.prompts, other)._seeds != evaluator._seeds


def test_every_completion_is_recorded(speaker, tokenizer, tmp_path):
    records = tmp_path / "completions.jsonl"
    evaluator = _evaluator(tokenizer, _prompts(tokenizer, "sort 21: ", "sort 3: "), records=records)
    evaluator(speaker(SAYS_12), 0)
    evaluator(speaker({" ": {"3": 1.0}, "3": {"3": 1.0}}), 5)
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert rows[0] == {
        "step": 0,
        "split": "greedy",
        "prompt_id": "id sort 21: ",
        "sample_index": 0,
        "prompt": "sort 21: ",
        "completion": "12",
        "num_tokens": 3,
        "ended": True,
        "rewards": {"sort": 1.0},
        "exact_match": 1.0,
    }
    assert [(row["step"], row["split"], row["prompt"]) for row in rows] == [
        (step, split, prompt)
        for step in (0, 5)
        for split in ("greedy", "sampled")
        for prompt in ("sort 21: ", "sort 3: ")
    ]
    assert [row["exact_match"] for row in rows] == [1, 0, 1, 0, 0, 0, 0, 0]
    assert [(row["completion"], row["num_tokens"], row["ended"]) for row in rows[4:]] == [("3333", 4, False)] * 4


def test_metrics_are_the_means_of_the_records(small_llama, tokenizer, tiny_folder, tmp_path):
    from workbench.models.load import load_model

    prompts = _prompts(tokenizer, *(f"sort {index}: " for index in range(10, 40)), answer="a")
    settings = EvaluateSettings(path="x.jsonl", max_new_tokens=6, sampling={"temperature": 3.0})
    records = tmp_path / "completions.jsonl"
    metrics = _evaluator(tokenizer, prompts, settings, "exact", records=records)(load_model(tiny_folder), 3)
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    sampled = [row for row in rows if row["split"] == "sampled"]
    assert len(sampled) == len(rows) / 2 == 30
    assert metrics["eval/completion_tokens"] == np.mean([row["num_tokens"] for row in sampled])
    assert metrics["eval/ended"] == np.mean([row["ended"] for row in sampled])
    for row in rows:
        assert row["exact_match"] == get_verifier("exact")(row["prompt"], row["completion"], "a")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "sort", "path": "a.jsonl"}, "one of task, path, split"),
        ({"task": "sort", "prompts": 0}, "greater than 0"),
        ({"task": "sort", "sampling": {"temperature": 0}}, "greater than 0"),
        ({"task": "sort", "sampling": {"temperature": math.inf}}, "finite"),
        ({"task": "sort", "sampling": {"top_p": 0}}, "greater than 0"),
        ({"task": "sort", "sampling": {"top_p": 1.1}}, "less than or equal to 1"),
    ],
)
def test_settings_that_measure_nothing_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        EvaluateSettings(**settings)


# Pairs


def _score(model, batch):
    return completion_logprobs(model, batch)[0]


@pytest.fixture
def pairs(torch, tmp_path):
    """13 ragged pairs whose reference log-probabilities are numbers of our own."""
    generator = np.random.default_rng(0)
    parts = [
        Ragged.from_rows([generator.integers(1, 17, generator.integers(1, 6)) for _ in range(13)]) for _ in range(3)
    ]
    known = [-3 * generator.random(len(part.values), np.float32) for part in parts[1:]]
    save_reference(tmp_path / "ref", *known)
    return PairSet(*parts).with_reference(tmp_path / "ref")


def _sum_slowly(torch, model, prompt, completion):
    total, ids = 0.0, [int(token) for token in prompt]
    for token in completion:
        with torch.no_grad():
            total += model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)[int(token)].item()
        ids.append(int(token))
    return total


@pytest.mark.parametrize("batch_pairs", [1, 4, 64])
def test_h_is_the_sum_of_log_probabilities_less_the_starts(torch, small_llama, pairs, tmp_path, batch_pairs):
    model = small_llama()
    records = tmp_path / "pairs.jsonl"
    metrics = PairEvaluator(pairs, _score, batch_pairs=batch_pairs, records=records)(model, 7)
    chosen, rejected = (
        np.array([_sum_slowly(torch, model, pairs.prompts[row], part[row]) for row in range(13)])
        - [known[part.offsets[row] : part.offsets[row + 1]].sum() for row in range(13)]
        for part, known in ((pairs.chosen, pairs.ref_chosen), (pairs.rejected, pairs.ref_rejected))
    )
    expected = chosen - rejected
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [(row["step"], row["pair_id"]) for row in rows] == [(7, f"pair{index}") for index in range(13)]
    assert [row["h"] for row in rows] == pytest.approx(expected, abs=3e-5)
    assert metrics["eval/pair_accuracy"] == (expected > 0).mean()
    assert metrics["eval/pair_margin"] == pytest.approx(expected.mean(), abs=1e-5)
    assert metrics["eval/num_pairs"] == 13.0
    assert 0 < metrics["eval/pair_accuracy"] < 1


@pytest.mark.parametrize(("own", "accuracy"), [("logprob", 0.5), ("mean_logprob", 1.0)])
def test_a_method_is_measured_by_its_own_score_beside_the_common_one(torch, small_llama, tmp_path, own, accuracy):
    # -3 over 3 tokens against -2 over 1: by the sum the rejected one is likelier, by the mean the chosen one.
    pairs = PairSet(Ragged.from_rows([[1], [1]]), Ragged.from_rows([[1] * 3, [1]]), Ragged.from_rows([[1], [1]]))
    save_reference(tmp_path / "ref", -np.ones(4, np.float32), -np.ones(2, np.float32))
    sums = torch.tensor([-1.0, -3.0, -5.0, -2.0])  # the shorter pair is scored first
    evaluator = PairEvaluator(pairs.with_reference(tmp_path / "ref"), lambda *_: sums, own=own)
    assert evaluator(small_llama(), 0)["eval/pair_accuracy_own"] == accuracy
    assert "eval/pair_accuracy_own" not in PairEvaluator(evaluator.pairs, lambda *_: sums)(small_llama(), 0)


def test_a_policy_equal_to_its_start_ties_every_pair(torch, small_llama, pairs, tmp_path):
    model = small_llama().eval()
    # The start is scored pair by pair, the policy in batches: in float32 their sums differ.
    with torch.no_grad():
        scored = [completion_logprobs(model, pairs.batch(np.array([row]))) for row in range(13)]
    known = (np.concatenate([row[side][0].numpy() for row in scored]) for side in (1, 2))
    save_reference(tmp_path / "same", *known)
    metrics = PairEvaluator(pairs.with_reference(tmp_path / "same"), _score, batch_pairs=5)(model, 0)
    assert metrics["eval/pair_accuracy"] == 0.5
    assert metrics["eval/pair_margin"] == 0.0


@pytest.mark.parametrize(
    ("h", "accuracy"),
    [([1, 2, 3], 1), ([-1, -2, 5], 1 / 3), ([0, 0], 0.5), ([1, 0], 0.75), ([-1, 0], 0.25), ([1e-7, -1e-7], 0.5)],
)
def test_ties_count_one_half(torch, small_llama, tmp_path, h, accuracy):
    parts = [Ragged.from_rows([[1]] * len(h)) for _ in range(3)]
    save_reference(tmp_path / "ref", -np.float32(h), np.zeros(len(h), np.float32))
    evaluator = PairEvaluator(
        PairSet(*parts).with_reference(tmp_path / "ref"),
        lambda model, batch: torch.zeros(2 * len(batch["chosen_input_ids"])),
    )
    metrics = evaluator(small_llama(), 0)
    assert metrics["eval/pair_accuracy"] == pytest.approx(accuracy)
    assert metrics["eval/pair_margin"] == pytest.approx(np.mean(h), abs=1e-6)


def test_a_policy_that_scores_nan_has_no_accuracy(torch, small_llama, tmp_path):
    parts = [Ragged.from_rows([[1], [2]]) for _ in range(3)]
    save_reference(tmp_path / "ref", np.zeros(2, np.float32), np.zeros(2, np.float32))
    evaluator = PairEvaluator(
        PairSet(*parts).with_reference(tmp_path / "ref"), lambda model, batch: torch.tensor([1.0, math.nan, 0.0, 0.0])
    )
    assert math.isnan(evaluator(small_llama(), 0)["eval/pair_accuracy"])


def test_pairs_are_scored_without_dropout(small_llama, pairs):
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = small_llama()
    add_lora(model, LoraSettings(rank=2, alpha=4, dropout=0.5), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.3)
    evaluator = PairEvaluator(pairs, _score)
    assert evaluator(model.train(), 0) == evaluator(model.eval(), 0)
