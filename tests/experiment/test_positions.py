"""Texts longer than their model has positions are refused by row, whoever reads them, and a plan says so before."""

from __future__ import annotations

import json
import shutil

import pytest

LONG = "ab" * 20
HYPERPARAMETERS = {"steps": 1, "learning_rate": 1e-3, "precision": "float32"}


@pytest.fixture
def short(lab, tiny_folder):
    """A folder in the lab whose model has 32 positions."""
    folder = shutil.copytree(tiny_folder, lab / "short")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 32}))
    return folder


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


FITS = {"prompt": "1+1=", "completion": "2"}
ROWS = {
    "rows": (FITS, {"prompt": LONG, "completion": "2"}),
    "pairs": ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": LONG}),
    "text": ({"text": "a"}, {"text": LONG}),
    "prompts": ({"prompt": "1+1=", "answer": "2"}, {"prompt": LONG[:30], "answer": "2"}),
}
TRAINERS = {
    "sft": ("rows", {"batch_rows": 1}),
    "pretrain": ("text", {"batch_rows": 1}),
    "dpo": ("pairs", {"batch_pairs": 1}),
    "grpo": ("prompts", {"batch_prompts": 1, "group_size": 2, "max_new_tokens": 4, "rewards": [{"reward": "number"}]}),
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_training_row_beyond_the_positions_is_refused_by_its_place(trainer, lab, command, define, short):
    form, settings = TRAINERS[trainer]
    write(lab / "data.jsonl", *ROWS[form])
    define("long", {"question": "?", "trainer": trainer, "model": {"path": "short"}, "data": {"path": "data.jsonl"},
                    "hyperparameters": HYPERPARAMETERS | settings})  # fmt: skip
    done = command("run", "long")
    assert done.returncode == 2, done.stderr
    assert "data.jsonl:2" in done.stderr
    assert "the model has positions for 32 (max_position_embeddings); cut" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_says_that_rows_may_be_too_long_and_cut_ones_are_trained_on(lab, command, define, short):
    write(lab / "data.jsonl", *ROWS["prompts"])
    _, settings = TRAINERS["grpo"]
    define("long", {"question": "?", "trainer": "grpo", "model": {"path": "short"}, "data": {"path": "data.jsonl"},
                    "hyperparameters": HYPERPARAMETERS | settings})  # fmt: skip
    planned = command("plan", "long").stdout
    assert "data.max_tokens 1,024 and max_new_tokens 4 are more than the model's 32 positions: longer rows" in planned
    assert "positions" not in command("plan", "long", "--set", "data.max_tokens=28").stdout
    assert "positions" in command("plan", "long", "--set", "data.max_tokens=29").stdout
    done = command("run", "long", "--set", "data.max_tokens=28")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["rows", "pairs", "prompts"])
def test_a_held_out_row_beyond_the_positions_is_refused_by_its_place(what, lab, command, define, short):
    write(lab / "data.jsonl", ROWS["pairs"][0] if what == "pairs" else FITS)
    write(lab / "held_out.jsonl", *ROWS["pairs" if what == "pairs" else "rows"])
    trainer, settings = ("dpo", {"batch_pairs": 1}) if what == "pairs" else ("sft", {"batch_rows": 1})
    if what == "prompts":
        write(lab / "held_out.jsonl", FITS, {"prompt": LONG[:30], "completion": "2"})
    evaluate = {"pairs": "held_out.jsonl"} if what == "pairs" else {"path": "held_out.jsonl", "max_new_tokens": 4}
    define("long", {"question": "?", "trainer": trainer, "model": {"path": "short"}, "data": {"path": "data.jsonl"},
                    "hyperparameters": HYPERPARAMETERS | settings, "evaluate": evaluate})  # fmt: skip
    done = command("run", "long")
    assert done.returncode == 2, done.stderr
    assert "held_out.jsonl:2" in done.stderr
    assert "the model has positions for 32 (max_position_embeddings)" in done.stderr


def test_collecting_and_sampling_beyond_the_positions_are_refused(lab, command, define, definitions, short):
    config = short / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 12}))
    collect = {"collect": {"task": "sort", "digits": 8, "pairs": 8}}
    define("long", {"question": "?", "trainer": "dpo", "model": {"path": "short"}, "data": collect,
                    "hyperparameters": HYPERPARAMETERS | {"batch_pairs": 2}})  # fmt: skip
    for done in (command("run", "long"), command("sample", "short", "sort 123: ", "--max-new-tokens", "8")):
        assert done.returncode == 2, done.stderr
        assert "the model has positions for 12" in done.stderr
        assert "Traceback" not in done.stderr
