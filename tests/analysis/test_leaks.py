"""What was held out and also trained on stands first in a report, and qualifies what it claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.report.pages import answer_of
from analysis.study import open_study

Make = Callable[..., Path]
TEXT = "16 of 16 held-out prompts (100 %) stand in the training data"


def _mark(folder: Path, variants: list[str], share: float) -> None:
    for variant in variants:
        for path in (folder / variant).glob("seed*/status.json"):
            status = json.loads(path.read_text())
            path.write_text(json.dumps(status | {"overlaps": [{"share": share, "text": TEXT}]}))


def test_a_claim_on_prompts_that_were_trained_on_is_qualified(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    plain = answer_of(open_study(folder))
    _mark(folder, ["beta=0.1", "beta=1"], 1.0)
    answer = answer_of(open_study(folder))
    assert answer.result == f"Qualified, for {TEXT}: {plain.result}"
    assert answer.flags[0].startswith(f"{TEXT}: the values show what was memorised")


def test_the_settings_that_it_holds_of_are_named(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    _mark(folder, ["beta=1"], 0.5)
    assert answer_of(open_study(folder)).flags[0].startswith(f"{TEXT} (at beta = 1): ")


@pytest.mark.parametrize("share", [0.0, 0.01, None, "1"])
def test_one_percent_qualifies_nothing(make_experiment: Make, share) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    plain = answer_of(open_study(folder))
    _mark(folder, ["beta=0.1", "beta=1"], share)
    assert answer_of(open_study(folder)) == plain


def test_pairs_that_were_trained_on_qualify_no_claim_about_prompts(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    plain = answer_of(open_study(folder))
    for path in folder.glob("*/seed*/status.json"):
        overlap = {"share": 0.5, "text": "8 of 16 held-out pairs stand in them", "held_out": "held-out pairs"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"overlaps": [overlap]}))
    answer = answer_of(open_study(folder))
    assert answer.result == plain.result
    assert answer.flags[0].startswith("8 of 16 held-out pairs stand in them: ")


def test_what_leaks_of_a_set_that_does_not_decide_is_told_and_qualifies_no_claim(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    plain = answer_of(open_study(folder))
    text = "9 of 9 held-out prompts of gsm8k (100 %) stand in the training data"
    for path in folder.glob("*/seed*/status.json"):
        overlap = {"share": 1.0, "text": text, "held_out": "held-out prompts of gsm8k"}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"overlaps": [overlap]}))
    answer = answer_of(open_study(folder))
    assert answer.result == plain.result
    assert answer.flags[0].startswith(f"{text}: the values show what was memorised")
