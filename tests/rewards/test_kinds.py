"""The rewards that a definition may name: what each gives, what it refuses, and what its fingerprint holds."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from pydantic import ValidationError

from workbench.errors import DefinitionError, RewardError
from workbench.permissions import Permissions
from workbench.rewards.build import build_rewards, reward_files, rewards_identity
from workbench.rewards.reward import Sample
from workbench.rewards.settings import RewardSettings


def sample(completion="", prompt="p", answer=None, num_tokens=3, ended=True, token_limit=8) -> Sample:
    return Sample(prompt, completion, answer, num_tokens, ended, token_limit)


def entry(**fields) -> RewardSettings:
    return RewardSettings.model_validate(fields)


def build(*entries, task=None):
    return build_rewards(
        [entry(**fields) for fields in entries], task=task, device="cpu", permissions=Permissions(reward_code=True)
    )


def values(fields, *samples) -> list[float]:
    return build(fields).score(samples).total


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "found none of them, allowed exactly one of reward, format, regex, length, model, model_from, file"),
     ({"reward": "exact", "regex": "a"}, "found reward and regex, allowed exactly one"),
     ({"reward": "exakt"}, "'exact', 'number'"), ({"reward": "exact", "wait": 1}, "wait"),
     ({"reward": "exact", "workers": 2}, "workers belongs to file, found it with reward"),
     ({"regex": "a", "graded": True}, "graded belongs to format"), ({"file": "a.py", "match": "search"}, "match "),
     ({"regex": "(a"}, r"found '\(a', allowed a pattern \(missing \)"), ({"regex": ""}, "at least 1 character"),
     ({"regex": "(" * 2000}, "allowed a pattern"),
     ({"length": {}}, "exactly one of target, buffer"), ({"length": {"target": 2, "buffer": 2}}, "exactly one"),
     ({"length": {"target": 4, "maximum": 4}}, r"maximum is 4; it must be > target \(4\)"),
     ({"length": {"buffer": 4, "maximum": 3}}, r"must be >= buffer"), ({"length": {"target": 0}}, "greater than 0"),
     ({"reward": "exact", "weight": float("nan")}, "finite"), ({"reward": "exact", "name": "a/b"}, "pattern"),
     ({"file": "a.py", "timeout_seconds": 0}, "greater than 0"), ({"file": "a.py", "workers": 0}, "greater than")],
)  # fmt: skip
def test_an_entry_is_of_one_kind_and_takes_that_kinds_options(fields, message):
    with pytest.raises(ValidationError, match=message):
        entry(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"reward": "exact"}, {"length": {"target": 3}, "weight": 0.5}, {"file": "a.py", "workers": 2, "name": "a"}],
)
def test_an_entry_is_written_as_it_was_said(fields):
    assert entry(**fields).model_dump(mode="json") == fields
    assert entry(**entry(**fields).model_dump(mode="json")) == entry(**fields)


def test_rewards_are_named_by_what_they_check_unless_they_have_a_name():
    rewards = build({"reward": "number"}, {"format": "boxed", "weight": 0.5}, {"regex": "a", "name": "a"},
                    {"length": {"target": 3}, "weight": 0.0})  # fmt: skip
    assert [reward.name for reward in rewards.rewards] == ["number", "boxed", "a", "length"]
    assert rewards.maximum == 1 + 0.5 + 1
    with pytest.raises(DefinitionError, match="the name regex twice"):
        build({"regex": "a"}, {"regex": "b"})


@pytest.mark.parametrize("name", ["sort", "countdown"])
def test_a_task_is_not_right_in_a_completion_that_was_cut(name):
    prompt, right = {"sort": ("sort 21: ", "12"), "countdown": ("make 3 from 1 2: ", "1+2")}[name]
    assert values({"reward": name}, sample(right, prompt), sample(right, prompt, ended=False)) == [1.0, 0.0]


@pytest.mark.parametrize("name", ["exact", "number"])
def test_a_check_against_an_answer_judges_the_text_alone(name):
    assert values({"reward": name}, sample("18", answer="18", ended=False)) == [1.0]


@pytest.mark.parametrize(
    ("name", "answer", "problem"),
    [
        ("exact", None, "no answer"),
        ("number", None, "no answer"),
        ("number", "eight", "no number"),
        ("sort", "18", "is none of task sort"),
        ("countdown", None, "is none of task countdown"),
    ],
)
def test_a_prompt_that_nothing_is_right_for_stops_instead_of_giving_0(name, answer, problem):
    with pytest.raises(RewardError, match=f"reward {name}: the prompt.* {problem}.*prompt 'p'"):
        values({"reward": name}, sample("18", answer=answer))


@pytest.mark.parametrize(
    ("length", "expected"),
    [({"target": 4}, {0: 0, 1: 0.25, 2: 0.5, 4: 1, 6: 0.5, 8: 0, 9: 0, 100: 0}),
     ({"target": 1}, {0: 0, 1: 1, 2: 0}), ({"target": 4, "maximum": 5}, {4: 1, 5: 0, 6: 0, 2: 0.5}),
     # DAPO: 0 up to 8 - 4, then down to -1 at 8.
     ({"buffer": 4}, {0: 0, 4: 0, 5: -0.25, 6: -0.5, 8: -1, 9: -1}),
     ({"buffer": 2, "maximum": 6}, {4: 0, 5: -0.5, 6: -1, 8: -1}), ({"buffer": 8}, {0: 0, 1: -0.125})],
)  # fmt: skip
def test_length_declines_linearly(length, expected):
    found = values({"length": length}, *[sample("x" * n, num_tokens=n) for n in expected])
    assert dict(zip(expected, found, strict=True)) == expected


def test_the_most_that_a_length_gives_is_1_at_its_target_and_0_without():
    assert build({"length": {"target": 4}}).maximum == 1.0
    assert build({"length": {"buffer": 4}}).maximum == 0.0


@pytest.mark.parametrize(
    ("regex", "match", "completion", "expected"),
    [(r"\d+", "whole", "12", 1), (r"\d+", "whole", "12\n", 0), (r"\d+$", "whole", "12\n", 0),
     (r"\d+", "whole", "a12", 0), (r"\d+", "whole", "1\u0662", 0), (r"\w+", "whole", "\u00e9", 0),
     (r"a.b", "whole", "a\nb", 0), (r"(?s)a.b", "whole", "a\nb", 1), (r"\d", "search", "a1b", 1),
     (r"^\d$", "search", "a\n1\nb", 0), (r"(?m)^\d$", "search", "a\n1\nb", 1),
     (r"a|ab", "whole", "ab", 1), (r"a*", "whole", "", 1), (r"a+", "search", "", 0)],
)  # fmt: skip
def test_a_pattern_matches_the_whole_completion_or_a_part(regex, match, completion, expected):
    assert values({"regex": regex, "match": match}, sample(completion)) == [expected]


def test_a_pattern_without_end_stops_with_an_error():
    begun = time.monotonic()
    with pytest.raises(RewardError, match=r"reward regex: the pattern '\(a\|a\?\)\+' took more than 1 s.*prompt 'p'"):
        values({"regex": "(a|a?)+"}, sample("a" * 20_000 + "b"))
    assert time.monotonic() - begun < 10


OWN = """
import dataclasses
@dataclasses.dataclass
class Judge:
    bonus: float
def reward(prompts, completions, num_tokens):
    return [len(c) + Judge(0.5).bonus for c in completions]
def strict(completions, answers, **columns):
    return [float(c == a) for c, a in zip(completions, answers)]
def odd(texts):
    return []
number = 3
"""


@pytest.fixture
def own(tmp_path):
    """A file of own rewards."""
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def test_own_code_gives_the_values_of_its_function(own):
    rewards = build({"file": str(own)}, {"file": str(own), "function": "strict", "weight": 0.0})
    scores = rewards.score([sample("abc", answer="x"), sample("x", answer="x")])
    assert scores.by_name == {"reward": [3.5, 1.5], "strict": [0.0, 1.0]}
    assert rewards.maximum is None


def test_own_code_is_not_run_unless_that_was_allowed(own):
    own.write_text(f"open({str(own.with_suffix('.ran'))!r}, 'w')\n" + OWN)
    for more in ({}, {"workers": 2}):
        with pytest.raises(DefinitionError, match=r"mine.py is Python that would be run.*--allow-reward-code"):
            build_rewards([entry(file=str(own), **more)], task=None, device="cpu")
    assert rewards_identity([entry(file=str(own))], None)
    assert not own.with_suffix(".ran").exists()


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [("1/0", "reward", r"mine.py: raised ZeroDivisionError: .*\(mine.py:1\), allowed a file that runs"),
     ("def", "reward", "raised SyntaxError"), ("import sys; sys.exit(3)", "reward", "raised SystemExit: 3"),
     (OWN, "rewrd", r"no function rewrd, allowed Judge, reward, strict, odd"), (OWN, "number", "no function number"),
     ("x = 1", "reward", "no function reward, allowed a file that has one"),
     (OWN, "odd", "its parameter texts is not there")],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_why_before_anything_is_scored(own, text, function, message):
    own.write_text(text)
    for more in ({}, {"workers": 2}):
        with pytest.raises(DefinitionError, match=message):
            build({"file": str(own), "function": function, **more})


def test_a_file_that_is_not_there_is_named(own):
    for path, message in ((own.with_name("no.py"), "no such file"), (own.with_suffix(".txt"), "no such file")):
        with pytest.raises(DefinitionError, match=f"{path.name}: {message}"):
            build({"file": str(path)})
        with pytest.raises(DefinitionError, match=message):
            reward_files([entry(file=str(path))])


def test_identity_holds_contents_and_versions_but_no_paths_and_no_speed(own, tmp_path):
    def identity(path, **fields):
        return rewards_identity([entry(file=str(path), **fields)], None)

    copy = tmp_path / "copy.py"
    copy.write_text(OWN)
    assert identity(own) == identity(copy)
    assert identity(own, workers=2) == identity(own, workers=4, timeout_seconds=1.0) != identity(own)
    assert identity(own, function="strict") != identity(own) != identity(own, weight=2.0)
    before = identity(own)
    own.write_text(OWN + "\n")
    assert identity(own) != before
    assert list(reward_files([entry(file=str(own)), entry(reward="exact")])) == [str(own)]
    assert rewards_identity([], "sort") == rewards_identity([entry(reward="sort")], None)
    for fields in ({"format": "boxed"}, {"regex": "a"}, {"length": {"target": 3}}, {"reward": "number"}):
        (found,) = rewards_identity([entry(**fields)], None)
        assert found["version"] >= 1
        assert found | {"version": 0} == fields | {"version": 0}


def test_a_thought_that_the_template_opened_counts_for_form_and_pattern():
    """The model's completion begins behind it."""
    opened = replace(sample("so</think><answer>18</answer>"), prefill="<think>\n")
    for fields in ({"format": "think_answer"}, {"regex": "<think>(?s:.*)</think>.*", "match": "whole"}):
        found = values(fields, opened, replace(opened, prefill=""), replace(opened, completion=""))
        assert found == [1.0, 0.0, 0.0]
