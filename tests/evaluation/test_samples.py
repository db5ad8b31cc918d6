"""pass@k and majority@k by hand, and as a model is measured by them."""

from __future__ import annotations

import itertools
import json
import math
import statistics

import pytest
from pydantic import ValidationError

from workbench.evaluation.prompts import HeldOutPrompt, PromptEvaluator
from workbench.evaluation.samples import majority_at, pass_at
from workbench.evaluation.settings import EvaluateSettings
from workbench.models.reference import frozen_reference
from workbench.rewards import votes as votes_module
from workbench.rewards.math_answer import math_match
from workbench.rewards.votes import votes


def test_pass_at_k_is_the_share_of_choices_of_k_samples_that_hold_a_right_one():
    assert pass_at(1, 3, 8) == pytest.approx(3 / 8)
    assert pass_at(2, 1, 4) == pytest.approx(1 - 3 / 6)  # C(3, 2) / C(4, 2)
    assert pass_at(8, 0, 8) == 0.0
    assert pass_at(6, 3, 8) == 1.0
    for num_right, k in itertools.product(range(6), range(1, 6)):
        choices = list(itertools.combinations([True] * num_right + [False] * (5 - num_right), k))
        assert pass_at(k, num_right, 5) == pytest.approx(statistics.fmean(map(any, choices)))
    assert pass_at(512, 1, 1024) == pytest.approx(0.5)  # numbers of more than 300 digits


def test_the_answer_that_most_samples_give_is_elected():
    right = [False, True, True, False]
    assert majority_at(4, [0, 1, 1, 3], right) == 1.0
    assert majority_at(4, [0, 1, 2, 0], right) == 0.0


def test_of_answers_that_tie_each_counts_its_share():
    assert majority_at(4, [0, 1, 1, 0], [False, True, True, False]) == 0.5
    assert majority_at(3, [0, 1, 2], [False, True, False]) == pytest.approx(1 / 3)


def test_a_sample_without_an_answer_votes_for_nothing():
    assert majority_at(4, [None, None, 2, None], [False, False, True, False]) == 1.0
    assert majority_at(2, [None, None], [False, False]) == 0.0


def test_a_majority_of_fewer_samples_is_the_mean_over_blocks_in_the_order_drawn():
    """Two blocks of three; the seventh sample is in none."""
    cast, right = [0, 0, 2, 2, 2, 0, 2], [False, False, True, True, True, False, True]
    assert majority_at(3, cast, right) == 0.5
    assert majority_at(1, cast, right) == pytest.approx(4 / 7)


def test_the_majority_of_one_sample_is_its_own_answer_and_pass_at_1_says_the_same():
    right = [True, False, True, True]
    assert majority_at(1, [0, 1, 0, 0], right) == pass_at(1, 3, 4) == 0.75


@pytest.mark.parametrize(
    ("verifier", "texts", "expected"),
    [
        ("exact", ["yes", " yes ", "no", ""], [0, 0, 2, None]),
        ("number", ["so 0.5", "The answer is 1/2.", "no number", "0.25"], [0, 0, None, 3]),
        ("reasoning_gym", ["<answer>7</answer>", "I say <answer> 7 </answer>", "7", "8"], [0, 0, 0, 3]),
        ("sort", ["123", " 123", "123"], [0, 1, 0]),
        ("countdown", ["1+2", "2+1", "1+2"], [0, 1, 0]),
    ],
)
def test_a_vote_is_for_the_answer_as_the_verifier_reads_it(verifier, texts, expected):
    for is_right in (False, True):
        assert votes(verifier, texts, [is_right] * len(texts)) == expected


def test_answers_in_latex_are_the_same_by_value():
    texts = [r"so \boxed{2\sqrt{3}}", r"$\sqrt{12}$", r"\boxed{5}", "it is 5", "", "no\nanswer"]
    assert votes("math", texts, [False] * 6) == [0, 0, 2, 2, None, None]


@pytest.mark.parametrize(
    ("gold", "said", "others"),
    [
        (r"\text{east}", ["east", "The answer is east.", r"\boxed{\text{east}}"], ["west", "The answer is west."]),
        (r"\infty", ["infinity", r"$\infty$"], ["zero"]),
        ("5", ["$x=5$", "$y=5$", "it is 5"], ["$x=6$", "6"]),
    ],
)
def test_what_math_finds_right_votes_for_one_answer_and_what_it_finds_wrong_for_others(gold, said, others):
    texts = said + others
    right = [math_match("", text, gold) == 1.0 for text in texts]
    assert right == [True] * len(said) + [False] * len(others)
    assert votes("math", texts, right) == [0] * len(said) + [len(said)] * len(others)


def test_an_answer_is_compared_with_one_text_of_each_other_answer(monkeypatch):
    asked = []

    def told(prompt, completion, answer):
        asked.append(completion)
        return math_match(prompt, completion, answer)

    monkeypatch.setattr(votes_module.math_answer, "math_match", told)
    texts = ["$5$", "$x=5$", "$10/2$", r"\frac{10}{2}", "$7$", "it is 7", "$15/3$"]
    assert votes("math", texts, [False] * 7) == [0, 0, 0, 0, 4, 4, 0]
    assert asked == ["$x=5$", "$10/2$", "$7$", "$15/3$"]


HALF = {" ": {"1": 0.4, "2": 0.6}, "1": {"2": 1.0}, "2": {"<eos>": 1.0}}
"""Says 12, which is right, or 2."""


def _measured(speaker, tokenizer, records=None, *, number=100, **settings):
    prompts = [
        HeldOutPrompt("sort 21: ", "12", str(index), tuple(tokenizer.encode("sort 21: "))) for index in range(number)
    ]
    given = EvaluateSettings(task="sort", max_new_tokens=4, **settings)
    evaluator = PromptEvaluator(prompts, given, tokenizer, verifier="sort", records=records)
    return evaluator(speaker(HALF), 3)


def test_a_model_that_is_right_at_0_4_has_the_expected_pass_and_majority(speaker, tokenizer):
    found = _measured(speaker, tokenizer, number=400, samples=6, pass_at=[1, 3], majority_at=[3])
    assert found["eval/pass_at_1"] == pytest.approx(found["eval/exact_match_sampled"])
    for name, expected in (("pass_at_1", 0.4), ("pass_at_3", 1 - 0.6**3), ("majority_at_3", 3 * 0.4**2 * 0.6 + 0.4**3)):
        assert abs(found[f"eval/{name}"] - expected) < 4 * math.sqrt(0.25 / 400)


def test_the_record_holds_every_sample_its_vote_and_what_they_come_to(speaker, tokenizer, tmp_path):
    records = tmp_path / "completions.jsonl"
    found = _measured(speaker, tokenizer, records, number=20, samples=4, pass_at=[1, 2], majority_at=[4])
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    sampled = [row for row in rows if row["split"] == "sampled"]
    assert [row["sample_index"] for row in sampled] == [0, 1, 2, 3] * 20
    assert len(rows) - len(sampled) == 20
    firsts = [row for row in sampled if "pass_at_2" in row]
    assert [row["sample_index"] for row in firsts] == [0] * 20
    for name in ("pass_at_1", "pass_at_2", "majority_at_4"):
        assert statistics.fmean(row[name] for row in firsts) == pytest.approx(found[f"eval/{name}"])
    for row in firsts:
        own = [each for each in sampled if each["prompt_id"] == row["prompt_id"]]
        assert row["pass_at_1"] == pytest.approx(statistics.fmean(each["exact_match"] for each in own))
        assert row["majority_at_4"] == majority_at(4, [e["vote"] for e in own], [e["exact_match"] == 1 for e in own])


def test_more_samples_leave_the_first_one_and_the_divergence_as_they_were(speaker, tokenizer, tmp_path):
    prompts = [HeldOutPrompt("sort 21: ", "12", str(i), tuple(tokenizer.encode("sort 21: "))) for i in range(20)]
    found, firsts = [], []
    for samples in (1, 5):
        settings = EvaluateSettings(task="sort", max_new_tokens=4, samples=samples)
        reference = frozen_reference(speaker({" ": {"1": 0.5, "2": 0.5}, "1": {"2": 1.0}, "2": {"<eos>": 1.0}}))
        records = tmp_path / f"{samples}.jsonl"
        evaluator = PromptEvaluator(prompts, settings, tokenizer, verifier="sort", reference=reference, records=records)
        found.append(evaluator(speaker(HALF), 0))
        rows = map(json.loads, records.read_text().splitlines())
        firsts.append([row["completion"] for row in rows if row["split"] == "sampled" and not row["sample_index"]])
    assert firsts[0] == firsts[1]
    assert found[0]["eval/kl_start"] == found[1]["eval/kl_start"]
    assert found[0].keys() == found[1].keys()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pass_at": [8]}, "K = 1 for pass@8, allowed samples: 8 or more"),
        ({"samples": 4, "majority_at": [2, 8]}, "K = 4 for majority@8"),
        ({"samples": 4, "sampling": None}, "4 samples with sampling: null"),
        ({"sampling": None, "pass_at": [1]}, "pass@1 with sampling: null"),
        ({"samples": 4, "sampling": {"top_k": 1}}, "top_k: 1, which gives the same completion every time"),
        ({"samples": 4, "pass_at": [2, 2]}, "2 twice"),
        ({"samples": 0}, "greater than or equal to 1"),
        ({"samples": 1000, "prompts": 100_000}, "1,000 for 100,000 prompts"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, told):
    with pytest.raises(ValidationError, match=told.replace("?", r"\?")):
        EvaluateSettings(**{"task": "sort", **settings})


def test_what_was_not_asked_for_is_not_written_down():
    """Fingerprints are made of what is written down: those of finished runs do not move."""
    assert not {"samples", "pass_at", "majority_at"} & EvaluateSettings(task="sort").model_dump().keys()
    said = EvaluateSettings(task="sort", samples=8, pass_at=[1, 8]).model_dump(mode="json")
    assert (said["samples"], said["pass_at"]) == (8, [1, 8])
    assert "majority_at" not in said
