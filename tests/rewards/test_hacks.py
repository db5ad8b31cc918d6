"""What a policy finds when a check can be satisfied without being right: every trick here must earn nothing."""

from __future__ import annotations

import time

import pytest

from workbench.rewards import get_verifier
from workbench.rewards.build import build_rewards
from workbench.rewards.number import extract_number
from workbench.rewards.reward import Sample
from workbench.rewards.settings import RewardSettings


def reward(completion, *, prompt="p", answer=None, ended=True, **fields) -> float:
    rewards = build_rewards([RewardSettings.model_validate(fields)], task=None, device="cpu")
    return rewards.score([Sample(prompt, completion, answer, len(completion), ended, 64)]).total[0]


SAY_18 = {  # question, and texts that are not right though they have what is
    "many answers, of which one may be right": [
        "16 17 18 19", "#### 18 #### 19", "\\boxed{18} \\boxed{19}", "\\boxed{18 or 19}", "\\boxed{18, 19}",
        "The answer is 18. The answer is 19.", "18\n19", "A: 18\nA: 19", "18/19", "1819", "18,19,20", "18.19",
    ],
    "text after a mark that is right without it": ["#### 19\n18 is not it", "\\boxed{19} not 18", "#### x 19, 18"],
    "a mark in the middle": ["#### 18\nNo: #### 19", "so #### 19 it is, not\n18"],
    "a sign or size of another": ["-18", "\u221218", "- $18 -18", "(-18)", "18e1", "18e-1", "1.8e2", "18e99999",
                                  "180", "018.5"],
    "other digits": ["\uff11\uff18", "\u0661\u0668", "\u00b9\u2078", "XVIII", "eighteen", "1\u20098", "1 8", "1_8",
                     "18\u0663", "\u066318", "18\u00b2", "18\u00bd", "18\uff13", "18.\u0663"],
    "nothing": ["", " ", "\n", "####", "\\boxed{}", "\\boxed{18", "answer:", "nan", "inf", "\x00"],
    "the prompt again": ["What is 9 + 9?", "9 + 9 =", "9 + 9"],
    "a box in a box": ["\\boxed{\\text{18} 19}", "\\boxed{\\boxed{19}} 18", "\\boxed{{18} - 1}",
                       "\\boxed{\\sqrt{18} + 1}"],
}  # fmt: skip
FORGIVEN = {"\\boxed{18"}
"""Cut in the box: the number is there."""


@pytest.mark.parametrize("trick", SAY_18)
def test_a_number_is_right_only_where_it_is_the_one_answer(trick):
    prompt = "What is 9 + 9?"
    earned = {text: reward(text, prompt=prompt, answer="#### 18", reward="number") for text in SAY_18[trick]}
    assert {text for text, value in earned.items() if value} <= FORGIVEN


@pytest.mark.parametrize(
    ("text", "number"),
    [("\\boxed{\\text{8} }", 8), ("\\boxed{{5}} 6", 5), ("\\boxed{\\frac{1}{2}} 6", 0.5), ("\\boxed{a\\} 5} 6", 5),
     ("\\boxed{x_{1} = 4}", 4), ("\\boxed{3} and }", 3), ("\\boxed{4", 4), ("\\boxed{{4}", 4)],
)  # fmt: skip
def test_a_box_ends_where_its_brace_is_closed(text, number):
    assert extract_number(text) == number


COUNTDOWN = [
    "-1+4", "+3", "1--2", "2-(-1)", "(1+2", "1+2)", "12", "1 2", "1(2)", "(1)(2)", "2*1.5", "01+2", "1+02", "1+1+1",
    "1+2+0", "1+2+1-1", "3", "1+2=3", "3=1+2", "1+2;", "1+2#", "1+2 3", "1+2//1", "1+2**1", "1\u00d72+1", "6\u00f72",
    "1\uff0b2", "\uff11+2", "1+\u0662", "1+2\u00b9", "1+2\u200b", "\u200b1+2", "1+2\u2028", "1+2\r", "1+2\n",
    "1\u2212-2",
    "[1+2]", "{1+2}", "1+2\\", "$1+2$", "\\boxed{1+2}", "make 3 from 1 2: 1+2", "make 3 from 1 2: ", "1+2 or 2+1",
    "1e0+2",
    "0b1+2", "1+2j", "1+2.", "()1+2", "1+()2", "", " ", "((1)+(2)",
]  # fmt: skip


@pytest.mark.parametrize("text", COUNTDOWN)
def test_countdown_takes_nothing_but_an_expression_of_its_numbers(text):
    prompt = "make 3 from 1 2: "
    assert reward(text, prompt=prompt, reward="countdown") == 0.0
    assert (
        reward("1+2", prompt=prompt, reward="countdown")
        == reward("((1)+(2))", prompt=prompt, reward="countdown")
        == 1.0
    )


@pytest.mark.parametrize(
    "text", ["12 ", "12\n", "sort 21: 12", "1 2", "1\u0662", "\uff11\uff12", "12\u200b", "012", "112", ""]
)
def test_sort_takes_nothing_but_the_digits(text):
    assert reward(text, prompt="sort 21: ", reward="sort") == 0.0


@pytest.mark.parametrize(
    "text", ["", "Paris or Rome", "Paris Paris", "paris", "Pari\u0455", "Par\u200bis", "Paris.", "**Paris**"]
)
def test_exact_takes_nothing_but_the_answer(text):
    assert reward(text, answer="Paris", reward="exact") == 0.0


FORMS = {  # form: fulfilled; not
    "gsm8k": (
        ["#### 18", "so\n#### 18", "so\n#### -1,018.50\n", "so\n\n#### $18 \n\n"],
        ["18", "####18", "#### ", "####", "#### eighteen", "#### 18 apples", "#### 18.", "#### 18\nso",
        "so #### 18", " #### 18",
         "##### 18", "#### 18\n#### 18", "####\n#### 18", "#### 1 8", "#### 18 19", "#### \uff11\uff18",
         "#### \u221218", "#### 1,8",
         "#### 18\u2028x", "#### 18\x0bx", "#### #### 18", "**#### 18**", "#### 1e3", "#### 18\r\n#"],
    ),
    "boxed": (
        ["\\boxed{18}", "so $\\boxed{18}$.", "so \\[ \\boxed{\\frac{1}{2}} \\]", "**\\boxed{x}**\n",
        "\\boxed{\\{1\\}}"],
        ["18", "boxed{18}", "\\boxed{}", "\\boxed{ }", "\\boxed{{}}", "\\boxed{-}", "\\boxed{18", "\\boxed{{18}",
        "\\boxed {18}",
         "\\boxed{18} or \\boxed{19}", "\\boxed{\\boxed{18}}", "\\boxed{18} is it", "\\boxed{18}}", "\\boxed{18} 19",
         "\\boxed{18\\}", "\\boxed18", "\\boxed{\u200b}"],
    ),
    "think_answer": (
        ["<think>so</think><answer>18</answer>", "<think>\na\n</think>\n\n<answer>\n18\n</answer>\n"],
        ["18", "<answer>18</answer>", "<think></think><answer>18</answer>", "<think>so</think><answer></answer>",
         "<think> \n</think><answer>18</answer>", "<think>so</think><answer> </answer>",
         "<think>.</think><answer>1</answer>",
         "<think>so</think>18<answer>18</answer>", "a<think>so</think><answer>18</answer>",
         "<think>so</think><answer>18</answer>b", "<answer>18</answer><think>so</think>",
         "<think>so<answer>18</answer></think>",
         "<think>so</think><answer>18</answer><answer>19</answer>",
         "<think>a</think><think>b</think><answer>18</answer>",
         "<think><think>a</think><answer>18</answer>", "<THINK>so</THINK><ANSWER>18</ANSWER>",
         "< think>a</think><answer>1</answer>",
         "<think>so</think><answer>18", "<think>so<answer>18</answer>", "so</think><answer>18</answer>"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_whole_or_not_there(form):
    fulfilled, broken = FORMS[form]
    assert [text for text in fulfilled + broken if reward(text, format=form)] == fulfilled
    assert [text for text in fulfilled if reward(text, format=form, ended=False)] == []


@pytest.mark.parametrize("form", FORMS)
def test_a_graded_form_gives_1_for_the_whole_alone_and_nothing_for_none_of_it(form):
    fulfilled, broken = FORMS[form]
    assert {reward(text, format=form, graded=True) for text in fulfilled} == {1.0}
    assert all(0 <= reward(text, format=form, graded=True) < 1 for text in broken)
    assert all(0 < reward(text, format=form, graded=True, ended=False) < 1 for text in fulfilled)
    for nothing in ("", " ", "18", "x" * 100, "\n\n"):
        assert reward(nothing, format=form, graded=True) == 0.0


@pytest.mark.parametrize(
    ("form", "text", "parts", "of"),
    [("gsm8k", "#### 18\nso", 1, 4), ("gsm8k", "so #### 18", 1, 4), ("gsm8k", "#### x", 2, 4),
     ("gsm8k", "####\n####", 0, 4),
     ("boxed", "\\boxed{", 1, 4), ("boxed", "\\boxed{} so", 1, 4), ("boxed", "\\boxed{18} so", 2, 4),
     ("think_answer", "<think>", 1, 8), ("think_answer", "</think><think>", 2, 8),
     ("think_answer", "<answer>18</answer><think>so</think>", 4, 8),
     ("think_answer", "<think>so</think>, <answer></answer>", 5, 8)],
)  # fmt: skip
def test_a_graded_form_is_the_share_of_its_parts(form, text, parts, of):
    assert reward(text, format=form, graded=True) == parts / of


def test_a_thought_that_the_prompt_opened_is_not_opened_again():
    def think(text, prompt="Q\n<think>\n"):
        return reward(text, prompt=prompt, format="think_answer")

    assert think("so</think><answer>18</answer>") == 1.0
    assert think("<think>so</think><answer>18</answer>") == 0.0
    assert think("</think><answer>18</answer>") == 0.0
    assert think("so</think><answer>18</answer>", prompt="What does <think> mean?") == 0.0


def test_an_empty_completion_earns_nothing_from_any_length():
    for length in ({"target": 1}, {"target": 100}, {"target": 2, "maximum": 3}, {"buffer": 8}, {"buffer": 64}):
        assert reward("", length=length) <= 0.0


@pytest.mark.parametrize("name", ["gsm8k", "boxed", "think_answer"])
@pytest.mark.parametrize("text", ["#" * 10**5, "\\boxed{" * 10**5, "<think>" * 10**5, "{" * 10**6, "\n" * 10**6,
                                  "\\boxed{1}" + "." * 10**6 + "x", "#### " + "1," * 10**5])  # fmt: skip
def test_no_text_takes_a_form_long(name, text):
    begun = time.process_time()
    assert reward(text, format=name) == 0.0
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("name", ["exact", "number"])
def test_a_prompt_copied_is_no_answer(name):
    for prompt in ("How many of 7 are left of 12?", "Is it 6 or 7?", "\\boxed{}", ""):
        assert get_verifier(name)(prompt, prompt, "5") == 0.0
