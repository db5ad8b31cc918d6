"""Runs that train adapters and start from one another, through the command line."""

from __future__ import annotations

import importlib.util
import json

import pytest

pytestmark = [pytest.mark.multi, pytest.mark.slow]
LORA = {"rank": 4, "alpha": 8.0}


def first_row(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[0])


def last_row(run):
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_dpo_with_an_adapter_starts_from_sft_with_an_adapter(save, lab, define, definitions, command):
    define("start", definitions["start"] | {"lora": LORA | {"save": save}})
    sweep = definitions["sweep"] | {"lora": LORA, "sweep": {"seeds": 1}}
    define("sweep", sweep)
    done = command("run", "sweep")
    assert done.returncode == 0, done.stderr
    start, run = lab / "runs/start/main/seed0", lab / "runs/sweep/main/seed0"
    assert (start / "model/model.safetensors").exists() == (save == "merged")
    assert (first_row(run)["eval/kl_start"], first_row(run)["eval/pair_accuracy"]) == (0.0, 0.5)
    assert last_row(run)["eval/kl_start"] > 0
    again = command("run", "sweep")
    assert "1 of 1 run finished already" in again.stderr
    spoken = command("sample", "start", "3 1 2 >")
    assert spoken.returncode == 0, spoken.stderr


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_scores_its_reference_under_the_weights_in_4_bits(lab, define, definitions, command):
    define("sweep", definitions["sweep"] | {"lora": LORA | {"quantise": "nf4"}, "sweep": {"seeds": 1}})
    done = command("run", "sweep")
    assert done.returncode == 0, done.stderr
    run = lab / "runs/sweep/main/seed0"
    assert (first_row(run)["eval/kl_start"], first_row(run)["eval/pair_accuracy"]) == (0.0, 0.5)


def test_added_tokens_with_an_adapter_are_refused_by_the_definition(lab, define, definitions, command):
    define("start", definitions["start"] | {"model": {"preset": "tiny", "add_tokens": ["<think>"]}, "lora": LORA})
    done = command("plan", "start")
    assert done.returncode == 2
    assert "start.yaml" in done.stderr
    assert "model.add_tokens: found together with lora, which would leave their rows untaught" in done.stderr


def test_added_tokens_are_trained_and_stay_in_the_runs_model(lab, define, definitions, command):
    define("start", definitions["start"] | {"model": {"preset": "tiny", "add_tokens": ["<think>"]}})
    done = command("run", "start")
    assert done.returncode == 0, done.stderr
    model = lab / "runs/start/main/seed0/model"
    assert json.loads((model / "config.json").read_text())["vocab_size"] == 99  # 98 characters and ends
    assert "<think>" in (model / "tokenizer.json").read_text()
