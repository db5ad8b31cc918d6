"""The reader of definition files: YAML 1.2 scalars, lines, and nothing that can name code or run away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workbench.experiment.definition.source import MAX_NODES, Node, parse_value, read_source, resolve_scalar, show


def read(tmp_path: Path, text: str | bytes) -> tuple[Node | None, list[str]]:
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    problems: list[str] = []
    return read_source(path, "experiments/x.yaml", problems)[0], problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3.0e-4", 0.0003),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2", -2),
        ("+7", 7),
        ("0", 0),
        ("0.10", 0.1),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("nan", "nan"),
        ("e5", "e5"),
        ("1e", "1e"),
        ("/data/x.jsonl", "/data/x.jsonl"),
    ],
)
def test_a_bare_scalar_is_read_as_yaml_1_2_reads_it(text: str, value: object) -> None:
    found, problem = resolve_scalar(text)
    assert not problem
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", [".nan", ".inf", "-.Inf", "+.inf", "1e999", "-1e400", "010", "-007", "9" * 30])
def test_a_number_that_is_not_finite_or_not_plain_is_refused(text: str) -> None:
    assert resolve_scalar(text)[1].startswith("found ")


@pytest.mark.parametrize("text", ["1e-400", "-1.5E-999", ".000001e-330", f"0.{'0' * 400}1"])
def test_a_number_that_would_be_read_as_zero_is_refused(text: str) -> None:
    assert "read as 0" in resolve_scalar(text)[1]


@pytest.mark.parametrize("text", ["0.0", "0e-400", "-0.000", "0E5"])
def test_zero_is_zero_however_it_is_written(text: str) -> None:
    assert resolve_scalar(text) == (0.0, "")


def test_quotes_keep_a_number_text(tmp_path: Path) -> None:
    node, problems = read(tmp_path, "a: '1e-3'\nb: \"true\"\n")
    assert not problems
    assert node is not None
    assert node.plain() == {"a": "1e-3", "b": "true"}


def test_every_value_knows_its_line_and_name(tmp_path: Path) -> None:
    node, problems = read(tmp_path, "a:\n  b:\n    - 1\n    - 2\nc: {d: 3}\n")
    assert not problems
    assert node is not None
    item = node.value["a"].value["b"].value[1]
    assert (item.where, item.field) == ("experiments/x.yaml:4", "a.b[1]")
    below = node.get("c.d")
    assert below is not None
    assert (below.where, below.field) == ("experiments/x.yaml:5", "c.d")


def test_an_alias_takes_the_value_and_its_own_name(tmp_path: Path) -> None:
    node, problems = read(tmp_path, "a: &shared {x: 1}\nb: *shared\n")
    assert not problems
    assert node is not None
    assert node.plain() == {"a": {"x": 1}, "b": {"x": 1}}
    assert node.value["b"].field == "b"
    assert node.value["b"].where == "experiments/x.yaml:2"


def test_an_alias_bomb_is_refused_before_it_is_written_out(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]
    started = time.monotonic()
    node, problems = read(tmp_path, "\n".join(lines))
    assert time.monotonic() - started < 0.5
    assert node is None
    assert len(problems) == 1
    assert f"more than {MAX_NODES} values" in problems[0]


@pytest.mark.parametrize("text", ["a: " + "[" * 20_000, "a: " + "{a: " * 10_000, "- " * 20_000, "? " * 20_000])
def test_deep_nesting_is_refused_at_once(tmp_path: Path, text: str) -> None:
    started = time.monotonic()
    node, problems = read(tmp_path, text)
    assert time.monotonic() - started < 1
    assert node is None
    assert len(problems) == 1


def test_a_file_at_the_size_limit_is_read_within_a_second(tmp_path: Path) -> None:
    text = "".join(f"k{number}: 'some text that fills'\n" for number in range(2_000))
    started = time.monotonic()
    node, problems = read(tmp_path, text)
    assert time.monotonic() - started < 1
    assert node is not None, problems


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system", "!env HOME"]
)
def test_a_tag_is_never_acted_on(tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    node, problems = read(tmp_path, f"a: {tag}\n")
    assert node is None
    assert problems
    assert all("found the tag" in problem for problem in problems)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("seed", range(300))
def test_no_bytes_raise_anything(tmp_path: Path, seed: int) -> None:
    import random

    source = random.Random(seed)
    base = bytearray(b"question: q\nsweep:\n  grid: {beta: [0.1, 1]}\narms: &a {x: *a}\n- !!t 'q\"")
    for _ in range(source.randint(1, 12)):
        place = source.randrange(len(base))
        base[place : place + source.randint(0, 3)] = bytes(source.choices(range(256), k=source.randint(0, 3)))
    node, problems = read(tmp_path, bytes(base))
    assert (node is None) == bool(problems)
    assert all(problem.startswith("experiments/x.yaml:") and "\n" not in problem for problem in problems)


def test_an_unreadable_path_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    problems: list[str] = []
    assert read_source(tmp_path, "experiments/x.yaml", problems) == (None, "")
    assert problems == ["experiments/x.yaml:1: file: found Is a directory, allowed a readable file"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.2", 0.2), ("[1, 2]", [1, 2]), ("{a: 1e-3}", {"a": 0.001}), ("'5'", "5"), ("a: b", "a: b"), ("x#y", "x#y")],
)
def test_an_override_is_a_bare_scalar_unless_it_opens_a_bracket_or_quote(text: str, value: object) -> None:
    problems: list[str] = []
    node = parse_value(text, "--set k", "k", problems)
    assert not problems
    assert node is not None
    assert node.plain() == value


@pytest.mark.parametrize("text", ["[1, 2", "{a: !!python/name:os.system x}", "'abc", "[\udcff]", "a\x00b", "[*x]"])
def test_a_broken_override_is_one_line_with_its_place(text: str) -> None:
    problems: list[str] = []
    assert parse_value(text, "--set k", "k", problems) is None
    assert len(problems) == 1
    assert problems[0].startswith("--set k: ")


def test_a_found_value_is_shown_on_one_short_line() -> None:
    assert show("a\nb\x1b[31m") == '"a\\nb\\u001b[31m"'
    assert len(show("x" * 500)) <= 60
