"""The check math: LaTeX by value, as the library math-verify says, within limits."""

from __future__ import annotations

import time

import math_verify
import pytest

from workbench.rewards import answer_problem, check_of_answers
from workbench.rewards import math_answer as judge
from workbench.rewards.math_answer import is_math, math_match

RIGHT = [
    ("\\frac{1}{2}", "\\boxed{0.5}"), ("2\\sqrt{3}", "\\boxed{\\sqrt{12}}"), ("2\\sqrt{3}", "2\\sqrt{3}"),
    ("7/2", "\\boxed{3\\frac{1}{2}}"), ("1000", "so $10^3$"), ("1000", "10^3"), ("42", "\\fbox{42} since 3<5"),
    ("1234", "$1\\,234$"), ("#### 1,234", "The answer is 1,234."), ("x^2+1", "\\boxed{1+x^2}"), ("(1,2)", "$(1,2)$"),
    ("\\frac{3}{4}", "The answer is \\frac{3}{4}."), ("-7", "x = -7"),
]  # fmt: skip
WRONG = [
    ("2\\sqrt{3}", "\\boxed{5\\sqrt{3}}"), ("2", "2\\sqrt{3}"), ("3", "2\\sqrt{3}"), ("2", "the point is (1,2)"),
    ("2", "42 m^2"), ("18", "\\boxed{18} or \\boxed{19}"), ("18", "16 17 18"), ("31/2", "\\boxed{3\\frac{1}{2}}"),
    ("42", ""), ("5", "\\fbox{42} since 3<5"), ("234", "$1\\,234$"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "completion"), RIGHT)
def test_an_expression_of_the_same_value_is_right(answer, completion):
    assert math_match("p", completion, answer) == 1.0


@pytest.mark.parametrize(("answer", "completion"), WRONG)
def test_an_expression_of_another_value_is_wrong(answer, completion):
    assert math_match("p", completion, answer) == 0.0


PIECES = ["0", "1/2", "\\frac{1}{2}", "0.5", "\\sqrt{2}", "2", "x", "x+x", "2x", "\\pi", "3\\frac{1}{2}", "3.5", "10^3",
          "1000", "\\frac{\\sqrt{8}}{4}", "-1", "\\{1,2\\}", "\\{2,1\\}"]  # fmt: skip


def test_between_marks_it_says_what_math_verify_says():
    read = {piece: math_verify.parse(f"${piece}$", parsing_timeout=None) for piece in PIECES}
    for answer in PIECES:
        for said in PIECES:
            expected = math_verify.verify(read[answer], read[said], timeout_seconds=None)
            assert math_match("p", f"so ${said}$", f"${answer}$") == expected, (answer, said)


def test_an_expression_made_to_cost_is_not_right_and_takes_no_longer_than_the_limit(monkeypatch):
    monkeypatch.setattr(judge, "MAX_SECONDS", 0.5)
    judge._process.cache_clear()
    try:
        assert math_match("p", "$2$", "2") == 1.0
        begun = time.monotonic()
        assert math_match("p", "$9^{9^{9^9}}$", "2") == 0.0
        assert time.monotonic() - begun < 8
        assert math_match("p", "$2$", "2") == 1.0
    finally:
        judge._process.cache_clear()


def test_answers_that_are_none_are_refused_and_latex_ones_choose_the_check():
    assert not is_math("Paris")
    assert answer_problem("math", "Paris")
    assert answer_problem("number", "2\\sqrt{3}")
    assert answer_problem("number", "#### 18") is answer_problem("math", "\\frac{1}{2}") is None
    assert check_of_answers(["1", "\\frac{1}{2}"]) == "math"
    assert check_of_answers(["1", "Paris"]) == check_of_answers(["Paris", "\\frac{1}{2}"]) == "exact"
