"""`workbench data`: what is shown is what is trained on, decoded from the stage itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from workbench.data.counts import Counts
from workbench.data.forms import ROWS
from workbench.experiment.look.text import OPEN, section_lines
from workbench.experiment.look.view import Section, Token, _tokens


def _section(lengths: list[int], **counts) -> Section:
    return Section(
        "training data", "a.jsonl", ROWS, "text", 10, Counts(**counts), np.array(lengths), (), None, ["main"]
    )


def test_each_length_falls_into_the_bin_that_names_it():
    found = _section([3, 3, 7, 10, 120]).histogram
    assert (found.edges[0], found.edges[1], found.edges[-1]) == (0, 10, 130)
    assert (found.counts[0], found.counts[1], found.counts[-1]) == (3, 1, 1)
    assert sum(found.counts) == 5
    single = _section([24, 24]).histogram
    assert (single.edges, single.counts) == ((24, 25), (2,))


def test_a_terminal_is_never_acted_upon_by_the_data():
    section = _section([3], bad=1, bad_examples=["a:1: \x1b[31m"], rows=1)
    assert "\x1b" not in "\n".join(section_lines(section, colour=False))


def test_a_character_of_several_tokens_is_shown_at_its_last(tiny_folder):
    class Bytes:
        def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
            return bytes(ids).decode(errors="replace")

    ids = np.array([*"é".encode(), ord("x")])
    tokens = list(_tokens(Bytes(), ids, np.array([True, True, False])))
    assert tokens == [Token("", True, False), Token("é", True, False), Token("x", False, False)]


def _lines(done) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_task_is_shown_with_its_learned_tokens_and_a_page(lab, command):
    lines = _lines(command("data", "start", "--rows", "1"))
    [row] = [line for line in lines if OPEN in line and "<eos>" in line]
    prompt, _, learned = row.strip().replace("|", "").partition(OPEN)
    assert prompt.startswith("sort ")
    assert learned == "".join(sorted(prompt.removeprefix("sort ").rstrip(": "))) + "<eos>⟧"
    page = lab / lines[-1]
    assert page == lab / "runs/start/data/train.html"
    assert page.read_text().count('class="l s"') == 40
    assert "http" not in page.read_text()
    assert any(path.name.startswith("data-v") for path in (lab / "runs/stages").iterdir())


def test_a_file_is_shown_with_its_bad_and_truncated_rows(lab, command, define, definitions):
    rows = [{"text": "abc"}, {"text": ""}, {"text": "abcdefghijkl"}]
    (lab / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    definition = definitions["start"] | {"data": {"path": "mine.jsonl", "max_tokens": 8, "bad_rows": "skip"}}
    define("file", definition)
    text = "\n".join(_lines(command("data", "file")))
    for line in (
        "mine.jsonl:2: text is empty, allowed text",
        "mine.jsonl:3: lost 5 tokens of the text",
        "1 to max_tokens 8; text: 5 tokens of 1 rows",
        "<- max_tokens 8",
    ):
        assert line in text
    held_out = _lines(command("data", "file", "--split", "held_out"))
    assert held_out[0] == "held-out prompts: the task sort, held out"


@pytest.mark.slow
def test_unpaired_rows_can_be_looked_at_and_not_trained_on_as_plain_ones(lab, command, define, definitions):
    rows = [
        f'{{"prompt": "a", "completion": "{text}", "label": {label}}}\n'
        for text, label in (("b", "false"), ("c", "true"))
    ]
    (lab / "kto.jsonl").write_text("".join(rows))
    define("kto", definitions["start"] | {"data": {"path": "kto.jsonl"}})
    shown = _lines(command("data", "kto"))
    assert {"  format      unpaired", "    desirable: false|"} <= set(shown)
    done = command("run", "kto")
    assert (done.returncode, "found unpaired rows" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["sweep"])
def test_data_that_rests_on_an_unfinished_run_says_what_to_run(lab, command, name):
    done = command("data", name)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert done.stderr.strip().endswith("start/main/seed0, which is not finished; make exp NAME=start")


def test_a_longer_override_of_another_kind_of_data_keeps_what_stands_before_it(lab, command):
    (Path(lab) / "mine.jsonl").write_text('{"text": "abcdefgh"}\n')
    lines = _lines(command("data", "start", "--set", "data.max_tokens=4", "data.path=mine.jsonl"))
    assert any("1 to max_tokens 4" in line for line in lines)
