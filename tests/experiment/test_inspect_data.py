"""`workbench plan` reads the data files: what is not read, what would stop a run, what leaks, how much can be told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.data import forms
from workbench.data.formats import parse_example
from workbench.data.wanted import format_of
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.running.held_out_files import asks


def _write(path: Path, *rows: dict) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def plan(lab, command, define, definitions):
    """plan(data, evaluate) -> the lines of the plan of an SFT run."""

    def lines(data: dict, evaluate: dict) -> list[str]:
        define("own", definitions["start"] | {"data": data, "evaluate": evaluate})
        done = command("plan", "own")
        broken = "  cannot run: " in done.stdout
        assert done.returncode == (2 if broken else 0), done.stderr
        assert (done.stdout.splitlines()[-1] == "1 of 1 run cannot run") == broken
        return done.stdout.splitlines()

    return lines


ROWS = [{"prompt": f"{a}+1=", "completion": str(a + 1)} for a in range(20)]


def test_a_plan_names_what_is_not_read_what_repeats_and_what_leaks(lab, plan):
    _write(lab / "train.jsonl", *({**row, "id": 1} for row in ROWS), ROWS[0])
    _write(lab / "test.jsonl", *ROWS[:6], {"prompt": "9+9=", "completion": "18"})
    lines = plan({"path": "train.jsonl"}, {"path": "test.jsonl"})
    assert lines[lines.index("data") + 1 :][:3] == [
        "  train.jsonl: 21 rows; 1 row has the prompt of a row before; not read: id (20 rows)",
        "  test.jsonl: 7 rows; held out",
        "  6 of 7 held-out prompts (85.7 %) stand in the training data",
    ]


def test_a_plan_says_that_data_cannot_be_read_as_the_definition_asks(lab, plan):
    _write(lab / "train.jsonl", *ROWS)
    wrong = {"path": "train.jsonl", "columns": {"prompt": "promt"}}
    [line] = [line for line in plan(wrong, {"path": "train.jsonl"}) if "own/main/seed0  " in line]
    assert line == (
        "  own/main/seed0  cannot run: train.jsonl: columns: prompt: promt: none of its 20 rows has that column, "
        "allowed prompt, completion; did you mean prompt?"
    )
    _write(lab / "test.jsonl", *ROWS[:3], {"prompt": "p", "completion": ""}, {"prompt": "p"})
    [line] = [line for line in plan({"path": "train.jsonl"}, {"path": "test.jsonl"}) if "own/main/seed0  " in line]
    assert line.endswith("test.jsonl:4: completion is empty, allowed text (and 1 more bad row)")


CHAT = {"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]}


@pytest.mark.parametrize(
    ("row", "verifier", "asked"),
    [(CHAT, None, False), (CHAT, "exact", True), (CHAT | {"answer": 2}, None, True), (ROWS[0], None, True)],
)
def test_a_conversation_is_asked_where_its_answer_can_be_checked(lab, define, definitions, row, verifier, asked):
    _write(lab / "test.jsonl", row)
    define("own", definitions["start"] | {"evaluate": {"path": "test.jsonl", "verifier": verifier}})
    [spec] = load_experiment("own", folder=lab / "experiments").runs
    assert asks(spec, parse_example(format_of(row, forms.ROWS.wanted), row)) is asked


def test_a_plan_promises_exact_match_only_where_it_is_measured(lab, plan):
    _write(lab / "chat.jsonl", *[CHAT] * 90)
    silent = plan({"path": "chat.jsonl"}, {"path": "chat.jsonl"})
    assert not any("in exact match" in line for line in silent)
    lines = plan({"path": "chat.jsonl"}, {"path": "chat.jsonl", "verifier": "number", "prompts": 80})
    assert any(line.startswith("  two checkpoints on 80 prompts: ") for line in lines)
    lines = plan({"path": "chat.jsonl"}, {"path": "chat.jsonl", "verifier": "number"})
    assert any(line.startswith("  two checkpoints on 90 prompts: ") for line in lines)
