"""What counts as right: exactly the answers that are, and nothing is ever evaluated."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.rewards import get_verifier, verifier_version
from workbench.rewards.countdown import MAX_CHARACTERS, MAX_DEPTH, countdown_prompt, verify_countdown
from workbench.rewards.number import extract_number, number_match
from workbench.rewards.sort import sort_prompt, verify_sort
from workbench.rewards.text import exact_match

COUNTDOWN = {  # target from numbers -> right, wrong
    "make 6 from 1 2 3: ": (["1+2+3", " 1 + 2 + 3 "], ["1+2+4", "3+3", "1+2+3+0", "6", "1+1+2+2", "3*2"]),
    "make 6 from 3 2 1: ": (["1*2*3"], []),
    "make 5 from 1 2 3: ": (["2*3-1"], []),
    "make 9 from 1 2 3: ": (["(1+2)*3", "((1+2)*(3))"], []),
    "make 2 from 4 3 6: ": (["4/6*3"], []),
    "make 2 from 3 6 4: ": (["3/(6/4)"], []),
    "make 1 from 3 3: ": (["3/3"], []),
    "make 7 from 7: ": (["7", "(7)"], []),
    "make 0 from 3 3: ": (["3-3"], []),
    "make 12 from 12: ": (["12"], []),
    "make 4 from 2 3 5: ": (["2-3+5"], []),
    "make 33 from 11 3: ": (["11*3"], []),
    "make 4 from 2 2: ": (["2+2"], ["2*2*1"]),
    "make 8 from 2 3: ": ([], ["2**3"]),
    "make 1 from 3 2: ": ([], ["3//2", "3%2", "3^2"]),
    "make 1 from 2 3: ": ([], ["2|3"]),
    "make 1 from 1: ": ([], ["-1", "+1"]),
    "make 1 from 2 1: ": ([], ["2+-1", "2-(-1)"]),
    "make 3 from 1 2: ": ([], ["1--2", "12", "1 2", "01+2", "1+2.0", "1e0+2", "1_+2", "0x1+2", "１+2", "١+٢", "¹+2",
     "1＋2", "1−-2", "1\xa0+2", "1+2\n", "\t1+2", "1+2\x00", "1+2=3", "=1+2", "1+2;", "1+2 ok", "", " ", "()",
     "(1+2", "1+2)", ")1+2(", "1+", "+", "1++2", "[1+2]", "1+2,", "__import__('os')", "1+2 if 1 else 2",
     "sum([1,2])", "None", "nan"]),
    "make 2 from 1 2: ": ([], ["1(2)", "(1)(2)"]),
    "make 1 from 1 0: ": (["1+0"], ["1/0", "1+00"]),
    "make 1 from 1 2 2: ": ([], ["1/(2-2)"]),
    "make 0 from 0 0: ": ([], ["0/0"]),
}  # fmt: skip


@pytest.mark.parametrize("prompt", COUNTDOWN)
def test_countdown_takes_every_number_once_to_the_target(prompt):
    right, wrong = COUNTDOWN[prompt]
    assert [completion for completion in right + wrong if verify_countdown(prompt, completion)] == right


def test_countdown_arithmetic_is_exact():
    assert verify_countdown(countdown_prompt(1, [1, 3, 3]), "1/3*3") == 1.0
    assert verify_countdown(countdown_prompt(24, [3, 3, 8, 8]), "8/(3-8/3)") == 1.0


def test_countdown_depth_and_length_end_somewhere_and_at_once():
    prompt = countdown_prompt(1, [1])
    deepest = "(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH
    assert verify_countdown(prompt, deepest) == 1.0
    assert verify_countdown(prompt, f"({deepest})") == 0.0
    assert verify_countdown(prompt, "1" + " " * MAX_CHARACTERS) == 1.0
    begun = time.monotonic()
    for bomb in ("(" * 10**6, "1*" * 10**6, "9" * 10**6, " " * 10**6 + "1", "9**9**9**9", "*".join("9" * 99)):
        assert verify_countdown(prompt, bomb) == (bomb.strip() == "1")
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    "prompt", ["", "make 1 from 1", "make 1 from 1:", "make from 1: ", "make 1 from : ", "sort 1: ", "make x from 1: ",
               "make 1 from 1:  ", "make 1 from 1  1: ", "make -1 from 1: ", "make ١ from 1: "]
)  # fmt: skip
def test_countdown_of_another_prompt_is_never_right(prompt):
    assert verify_countdown(prompt, "1") == 0.0


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("123+-*/() "), max_size=9))
def test_countdown_agrees_with_pythons_arithmetic(text):
    """Over characters of which Python reads the same, but for ** and //, a sign, and a call of a number."""
    import ast

    try:
        tree = ast.parse(text.strip(" "), mode="eval")
    except (SyntaxError, ValueError):
        assert verify_countdown(countdown_prompt(1, [1]), text) == 0.0
        return
    allowed = ast.Expression | ast.BinOp | ast.Constant | ast.Add | ast.Sub | ast.Mult | ast.Div
    numbers = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    if not numbers or not all(isinstance(node, allowed) for node in ast.walk(tree)):
        assert verify_countdown(countdown_prompt(1, [1]), text) == 0.0
        return
    try:
        value = _value(tree.body)
    except ZeroDivisionError:
        value = None
    right = value is not None and value >= 0 and value.denominator == 1
    assert verify_countdown(countdown_prompt(int(value) if right else 1, numbers), text) == right


def _value(node) -> Fraction:
    import ast

    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    left, right = _value(node.left), _value(node.right)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Sub):
        return left - right
    return left * right if isinstance(node.op, ast.Mult) else left / right


@pytest.mark.parametrize(
    ("digits", "completion", "right"),
    [("3120", "0123", 1), ("11", "11", 1), ("90", "09", 1), ("3120", "0123 ", 0), ("3120", " 0123", 0),
     ("3120", "123", 0), ("3120", "3210", 0), ("3120", "01234", 0), ("11", "1", 0), ("21", "", 0), ("21", "1２", 0)],
)  # fmt: skip
def test_sort_takes_the_digits_in_order_and_nothing_else(digits, completion, right):
    assert verify_sort(sort_prompt(digits), completion) == right


@pytest.mark.parametrize("prompt", ["", "sort : ", "sort 21:", "sort 2 1: ", "sort ٢١: ", "make 1 from 1: "])
def test_sort_of_another_prompt_is_never_right(prompt):
    assert verify_sort(prompt, "") == verify_sort(prompt, "12") == 0.0


NUMBERS = [
    ("7", 7), ("the answer is 7.", 7), ("3 + 4 = 7", 7), ("7\n", 7), ("-7", -7), ("x = -7", -7), ("(-7)", -7),
    ("1,234", 1234), ("1,234,567.5", Fraction("1234567.5")), ("$1,000.00", 1000), ("0.50", Fraction(1, 2)),
    (".5", Fraction(1, 2)), ("-.5", Fraction(-1, 2)), ("7%", 7), ("007", 7), ("3, 4", None), ("12,34", None),
    ("1,2345", None),
    ("10-3", None), ("(10)-3", None), ("10 - 3", None), ("10 -3", None), ("\u22127", -7),
    ("#### 18", 18), ("5\n#### -18\n", -18), ("#### 1,018 apples and 3", 1018), ("#### 1 #### 2", 2), ("7 ####18", 18),
    ("", None), ("none", None), ("7 ####", None), ("7 #### none", None), ("٣", None), ("-", None), (".", None),
    ("9" * 1000, int("9" * 1000)), ("9" * 1001, None), ("9" * 100_000, None),
    ("18.", 18), ("1.50.", Fraction(3, 2)), ("-$5", -5), ("$-5", -5), ("\u20137", -7), ("3\u20135", None),
    ("**18**", 18),
    ("3/4", Fraction(3, 4)), ("-3/4", Fraction(-3, 4)), ("16/2", 8), ("1.5/3", Fraction(1, 2)), ("3/0", None),
    ("3 / 4", None), ("1/2/2026", None), ("5/1,000", Fraction(1, 200)), ("0/5", 0),
    ("1e3", 1000), ("2.5E-1", Fraction(1, 4)), ("1e999", 10**999), ("1e1000", None), ("-1e-1000", None),
    ("nan", None), ("inf", None), ("-Infinity", None), ("1_000", None), ("0x1F", None), ("18e", None), ("1.2.3", None),
    ("\\boxed{18} in 5 days", 18), ("\\boxed{1}, so \\boxed{-2}", -2), ("\\boxed{\\frac{3}{4}}", Fraction(3, 4)),
    ("\\boxed{1{,}234}", 1234), ("\\boxed{x = \\$5}", 5), ("\\boxed{\\text{7 apples}}", 7), ("7 \\boxed{}", None),
    ("#### 3 \\boxed{4}", 3), ("\\boxed{4", 4), ("-\\dfrac{1}{2}", Fraction(-1, 2)),
    ("A: 18\n\nQ: 5 more?", 18), ("The answer is 18.\nIn 2 days", 18), ("A: 48 + 24 = 72", 72), ("Answer:\n18", 18),
    ("**Answer:** $1,250.50", Fraction("1250.5")), ("answer is 1. No: the answer is 2.\n3", 2),
    ("the answer is yes, 4 of\n5", 4), ("the answer is yes\n5", 5), ("Plan A: 3\nis 4", 3), ("BA: 3\nis 4", 4),
    ("\\boxed{4}\nA: 5", 4),
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), NUMBERS, ids=[text[:20] for text, _ in NUMBERS])
def test_the_number_is_the_one_that_the_first_mark_there_gives_else_the_last(text, number):
    assert extract_number(text) == number


PLAIN = [
    ("\\fbox{42} since 3<5", 42), ("1\\,234", 1234), ("1\\!234{,}567", 1234567), ("1\u2009234", 1234), ("$42$", 42),
    ("\\(42\\)", 42), ("\\[42\\]", 42), ("42\\%", 42), ("\\$42", 42), ("42^\\circ", 42), ("42 kg", 42), ("42kg", 42),
    ("42 km/h", 42), ("$42/hour", 42), ("42 a day", 42), ("<answer>42</answer>", 42), ("<b>42</b> apples", 42),
    ("6 * 7 = <<6*7=42>>42", 42), ("x = -42", -42), ("**42**", 42), ("*42*", 42), ("- 42", 42), ("1. 42", 42),
    ("> 42", 42), ("=> 42", 42), ("\u2192 42", 42), ("'42'", 42), ("42!", 42), ("42 - that is it", 42),
    ("42 (apples)", 42),
    ("\\text{42 apples}", 42), ("\\boxed{42 \\text{ apples}}", 42), ("\\boxed{x = 42}", 42), ("\\boxed{42^\\circ}", 42),
    ("+42", 42), ("is +42", 42), ("-\\frac{-1}{2}", Fraction(1, 2)), ("3+4=7.So", 7), ("It is 6 times.", 6),
]  # fmt: skip
PARTS = {
    "a power": ["10^3", "10^{3}", "2**3", "answer is 42 m^2", "42 \\text{ cm}^2", "x^2", "1.5*10^3", "10^-3", "5^3x"],
    "a mixed number": ["3 1/2", "\\boxed{3\\frac{1}{2}}", "3\\frac{1}{2}", "3 \\frac12", "3-1/2"],
    "a fraction": ["\\frac12", "\\frac{x}{2}", "\\frac{\\sqrt{3}}{2}", "1 / 2", "(1+2)/3", "1/2/3", "x/2"],
    "a root or a function": ["2\\sqrt{3}", "\\sqrt{3}", "sqrt(3)", "f(3)", "\\log 3", "\\sin(3)", "\u221a3",
                             "root of 3"],
    "a formula": ["2 + 3", "2+3", "x - 3", "n-3", "2(3)", "(2)(3)", "2*x + 3", "2 \u00d7 3", "x*3", "2 plus 3",
                  "apples * 3",
                  "2\\cdot3", "2 \\times 3", "x_3", "|3|", "|-3|", "\u00b13"],
    "a factor": ["3x", "3 x", "3\\pi", "3 \\pi", "3\u03c0", "3i", "#### 3y", "#### 3 + 4", "#### 3 * x",
                 "#### 3^2", "\\boxed{3!}"],
    "a comparison": ["2<3", "x > 3", "x >= 3", "x \u2264 3", "x != 3", "more than 3", "less than 3"],
    "a range": ["2-3", "2\u20133", "2 - 3", "2 to 3", "$2 to $3", "2% to 3%", "between 2 and 3", "from 2 through 3"],
    "a list": ["2, 3", "(2, 3)", "{2,3}", "2 or 3", "2; 3", "\\boxed{2, 3}", "\\boxed{2 or 3}", "1 234", "2 and 3",
               "2 & 3",
               "\\boxed{x = 2, x = 3}", "#### 3, 4", "#### 3 or 4", "\\boxed{2 3}"],
    "a date or a time": ["1/2/2003", "2026-01-03", "May 3", "May 3, 2003", "1:03", "3:1", "2 : 3"],
    "a word": ["R2D3", "x3", "covid-3", "No.3", "3rd", "v1.3", "1_3", "0x3", "3D", "3-year", "3st"],
    "a larger number": ["3 million", "3 hundred", "$3 billion", "3 dozen", "3k", "3M",
                        "1'003", "1\u2019003", "5'3", "5'3\""],
    "a sign in words": ["negative 3", "minus 3"],
    "a share of another": ["50% of 3", "2 out of 3", "half over 3", "2 of 3"],
}  # fmt: skip


@pytest.mark.parametrize(("text", "number"), PLAIN, ids=[text for text, _ in PLAIN])
def test_what_only_says_of_a_number_leaves_it_as_it_is(text, number):
    assert extract_number(text) == number


@pytest.mark.parametrize("kind", PARTS)
def test_a_number_that_is_part_of_something_else_is_none(kind):
    assert {text: extract_number(text) for text in PARTS[kind]} == dict.fromkeys(PARTS[kind])


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [("so 18", "work\n#### 18", 1), ("#### 18.0", "#### 18", 1), ("1,018", "1018", 1), ("-18", "18", 0),
     ("18", "180", 0),
     ("1.8", "18", 0), (".5", "5", 0), ("1.50", "1.5", 1), ("1/2", "0.5", 1), ("0.1", "1/10", 1), ("1/3", "0.3333", 0),
     ("50%", "50", 1), ("50%", "0.5", 0), ("0.30000000000000004", "0.3", 0), ("1e16", "10000000000000001", 0),
     ("A: 72", "24+48\n#### 72", 1), ("-0", "0", 1),
     ("no", "no", 0), ("18", "no", 0), ("no", "18", 0), ("", "", 0), ("18", None, 0)],
)  # fmt: skip
def test_numbers_match_by_value(completion, answer, right):
    assert number_match("p", completion, answer) == right


@pytest.mark.parametrize(
    ("part", "times", "end"),
    [("9", 10**6, ""), ("1/", 10**5, ""), ("1,", 10**5, ""), ("1", 10**5, "/"), ("1e", 10**5, ""), ("A:", 10**5, ""),
     (".", 10**6, ""), ("\\frac{", 10**5, ""), ("#### ", 10**5, ""), ("111,", 10**5, "1")],
)  # fmt: skip
def test_the_time_that_a_text_takes_grows_with_its_length_and_no_faster(part, times, end):
    def seconds(times):
        text, begun = part * times + end, time.process_time()
        number_match("p", text, text)
        return time.process_time() - begun

    # Were it with the square, four times the length would take sixteen times as long.
    assert seconds(times) < 8 * min(seconds(times // 4) for _ in range(2)) + 0.1


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [("Paris", "Paris", 1), (" Paris\n", "Paris", 1), ("paris", "Paris", 0), ("Paris.", "Paris", 0), ("", "", 1),
     ("", " ", 1), ("Pa ris", "Paris", 0), ("Paris", None, 0)],
)  # fmt: skip
def test_exact_match_is_of_the_text_but_for_spaces_at_its_ends(completion, answer, right):
    assert exact_match("p", completion, answer) == right


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(prompt=st.text(max_size=20), completion=st.text(max_size=40), answer=st.none() | st.text(max_size=20))
def test_every_verifier_gives_0_or_1_for_any_text(prompt, completion, answer):
    for name in ("sort", "countdown", "exact", "number"):
        assert get_verifier(name)(prompt, completion, answer) in (0.0, 1.0)
        assert get_verifier(name)("make 1 from 1: ", completion, answer) in (0.0, 1.0)
        assert verifier_version(name) >= 1


PART_OF_MORE = (
    *("\\boxed{x \\geq 5}", "$\\pm 5$", "$a \\cdot 5$", "$\\ln 5$", "$10~000$", "\\boxed{5}^2", "x = 5 or x = 7"),
    *("2 hours and 30 minutes", "5 feet 10 inches", "5 kg 3 g", "$2 dollars, 50 cents", "5 vs 6", "1 in 5", "5 (or 6)"),
    *("The answer is not 5", "It is 5, not 6", "it isn't 5", "5 bn"),
)
ALONE = {
    "<think>so 12</think> 18": 18, "<answer>18</answer> <p>": 18, "18<|im_end|>": 18, "10°C": 10, "5\\degree": 5,
    "at 7 p.m.": 7, "5~\\text{cm}": 5, "$\\approx 5$": 5, "\\underline{5}": 5,
    "5 days and 3 apples": 3, "x + 2 = 5, x = 3": 3,
}  # fmt: skip


@pytest.mark.parametrize("text", PART_OF_MORE)
def test_a_number_of_a_command_two_units_a_ratio_or_a_denial_is_none(text):
    assert extract_number(text) is None


@pytest.mark.parametrize("text", ALONE)
def test_tags_units_and_marks_leave_a_number_as_it_is(text):
    assert extract_number(text) == ALONE[text]
