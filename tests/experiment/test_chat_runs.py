"""A run that was trained through a chat template is asked through it, and ends where its template ends an answer."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.experiment.stages.collect import read_pairs
from workbench.models.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ ('<end>' if m.role == 'assistant' else '\n') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
ANSWERS = {"a": "1", "b": "22", "c": "333"}


@pytest.fixture
def chat_run(lab, command, define, tiny_folder):
    """Learned from messages until it answers; held out are plain prompts."""
    shutil.copytree(tiny_folder, lab / "base")
    (lab / "base" / "chat_template.jinja").write_text(TEMPLATE)
    rows = [
        {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
        for prompt, answer in ANSWERS.items()
    ]
    (lab / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    held_out = [{"prompt": prompt, "completion": answer} for prompt, answer in ANSWERS.items()]
    (lab / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in held_out))
    definition = {
        "question": "Does it answer?",
        "trainer": "sft",
        "model": {"path": "base", "add_tokens": ["<end>"]},
        "data": {"path": "train.jsonl"},
        "hyperparameters": {"steps": 60, "batch_rows": 3, "learning_rate": 1e-2, "precision": "float32"},
        "evaluate": {"path": "test.jsonl", "sampling": None, "kl": False, "max_new_tokens": 8},
    }
    define("talk", definition)
    done = command("run", "talk")
    assert done.returncode == 0, done.stderr
    return lab / "runs/talk/main/seed0"


@pytest.mark.slow
def test_plain_prompts_are_asked_through_the_template_that_training_used(chat_run, command):
    row = json.loads((chat_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (row["eval/exact_match_greedy"], row["eval/ended"]) == (1.0, 1.0)
    notes = json.loads((chat_run / "status.json").read_text())["notes"]
    assert "training data: <end> ends an answer, and is taken for an end of sequence" in notes
    end = Tokenizer.load(chat_run / "model").token_id("<end>")
    assert json.loads((chat_run / "model/generation_config.json").read_text())["eos_token_id"] == [1, end]
    for more, expected in (([], "22"), (["--raw"], None), (["--system", "s"], None)):
        done = command("sample", "talk/main/seed0", "b", "--temperature", "0", "--max-new-tokens", "8", *more)
        assert done.returncode == 0, done.stderr
        assert expected is None or done.stdout == f"{expected}\n"
    refused = command("sample", "talk/main/seed0", "b", "--raw", "--system", "s")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
def test_pairs_that_were_sampled_are_learned_as_the_ids_that_were(lab, command):
    assert command("run", "sweep").returncode == 0
    for stage in (lab / "runs/stages").glob("collect-*"):
        rows = [json.loads(line) for line in (stage / "pairs.jsonl").read_text().splitlines()]
        pairs = list(read_pairs(stage / "pairs.jsonl"))
        assert len(pairs) == len(rows) > 0
        tokenizer = Tokenizer.load(lab / "runs/start/main/seed0/model")
        for row, pair in zip(rows, pairs, strict=True):
            assert tokenizer.encode(row["prompt"]) == pair.prompt_ids
            assert tokenizer.decode(pair.chosen_ids, False) == row["chosen"] + "<eos>"


@pytest.mark.slow
def test_a_run_is_trained_asked_and_saved_with_the_template_that_its_definition_gives(lab, command, define):
    """A base model has none; prompts held out and asked of the result go through it too."""
    import transformers

    (lab / "turns.jinja").write_text(TEMPLATE.replace("<end>", "<eos>"))
    rows = [
        {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": a}]} for p, a in ANSWERS.items()
    ]
    (lab / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (lab / "test.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "completion": a}) + "\n" for p, a in ANSWERS.items())
    )
    definition = {
        "question": "Does it answer?",
        "trainer": "sft",
        "model": {"preset": "tiny", "chat_template": "turns.jinja"},
        "data": {"path": "train.jsonl"},
        "hyperparameters": {"steps": 60, "batch_rows": 3, "learning_rate": 1e-2, "precision": "float32"},
        "evaluate": {"path": "test.jsonl", "sampling": None, "kl": False, "max_new_tokens": 8},
    }
    define("given", definition)
    planned = command("plan", "given")
    assert "chat template turns.jinja" in planned.stdout, planned.stderr
    shown = command("data", "given")
    assert "u|s|e|r|:| |c|" in shown.stdout, shown.stderr
    done = command("run", "given")
    assert done.returncode == 0, done.stderr
    run = lab / "runs/given/main/seed0"
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (row["eval/exact_match_greedy"], row["eval/ended"]) == (1.0, 1.0)
    asked = command("sample", "given/main/seed0", "b", "--temperature", "0", "--max-new-tokens", "8")
    assert asked.stdout == "22\n"
    theirs = transformers.AutoTokenizer.from_pretrained(run / "model")
    messages = [{"role": "user", "content": "b"}]
    assert theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "user: b\nassistant: "
    kept = command("plan", "given").stdout
    assert "finished" in kept
    (lab / "turns.jinja").write_text(TEMPLATE.replace("<end>", "<eos>") + "{# another #}")
    changed = command("plan", "given").stdout
    assert changed.split("work")[0] != kept.split("work")[0], "another text is another model"
