"""A plan tells what cannot run in the words in which the run would refuse it."""

from __future__ import annotations

import json
import re

import pytest
import torch

from workbench.data.chat import render_chat
from workbench.errors import DataError, DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.plan_text import describe_plan
from workbench.models.presets import make_preset
from workbench.models.tokenizer import Tokenizer
from workbench.trainer.machine.device import training_device


def test_what_begins_from_a_run_that_cannot_run_cannot_run(lab, define, definitions):
    define("start", definitions["start"] | {"data": {"path": "nowhere.jsonl"}})
    found = describe_plan(load_experiment("sweep", folder=lab / "experiments"), lab / "runs", jobs=1, fresh=False)
    assert (found.broken, found.exit_code) == ("5 of 5 runs cannot run", 2)
    assert found.text.count("cannot run: start/main/seed0, which it begins from, cannot run") == 4
    assert "every run is finished" not in found.text


def test_a_plan_tells_that_a_gpu_is_asked_for_where_there_is_none_as_the_run_does(lab):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    experiment = load_experiment("start", ["device=cuda"], lab / "experiments")
    found = describe_plan(experiment, lab / "runs", jobs=1, fresh=False)
    with pytest.raises(DefinitionError) as refused:
        training_device("cuda")
    assert f"cannot run: {refused.value}" in found.text
    assert (found.broken, found.exit_code) == ("1 of 1 run cannot run", 2)


TURNS = [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    "row",
    [{"messages": TURNS}, {"prompt": TURNS[:1], "completion": TURNS[1:]}, {"prompt": "1+1=", "completion": "2"}],
)
def test_a_plan_refuses_what_needs_a_chat_template_in_the_words_of_the_run(lab, define, definitions, row):
    (lab / "train.jsonl").write_text(json.dumps(row) + "\n")
    data = {"path": str(lab / "train.jsonl"), "chat_template": "completion" in row}
    preset = lab / "preset"
    make_preset("tiny", preset, seed=0)
    with pytest.raises(DataError) as refused:
        render_chat(Tokenizer.load(preset), (("user", "1+1="),))

    def planned(**model):
        define("own", definitions["start"] | {"data": data, "evaluate": None, "model": model})
        return describe_plan(load_experiment("own", folder=lab / "experiments"), lab / "runs", jobs=1, fresh=False)

    for found in (planned(preset="tiny"), planned(path=str(preset))):
        assert f"cannot run: {refused.value}" in found.text
        assert found.exit_code == 2
    assert planned(preset="tiny", chat_template="zephyr").exit_code == 0


def test_a_plan_refuses_a_template_without_its_tokens_also_where_the_data_is_a_task(lab):
    experiment = load_experiment("start", ["model.chat_template=chatml"], lab / "experiments")
    found = describe_plan(experiment, lab / "runs", jobs=1, fresh=False)
    assert "cannot run: preset tiny: model.chat_template chatml needs the token <|im_start|>" in found.text
    assert found.exit_code == 2


def planned(lab, define, **changes):
    base = {"question": "q", "model": {"preset": "tiny"}, "hyperparameters": {"steps": 2}}
    define("own", base | changes)
    found = describe_plan(load_experiment("own", folder=lab / "experiments"), lab / "runs", jobs=1, fresh=False)
    return found.text, found.exit_code


@pytest.mark.parametrize("label", [True, False])
def test_a_plan_refuses_rows_of_one_label_alone(lab, define, label):
    file = lab / "labelled.jsonl"
    rows = [{"prompt": "ab", "completion": "c", "label": label}] * 3
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = f"{file}:1: label is {str(label).lower()} here and in all 3 rows, allowed rows of both kinds"
    text, code = planned(lab, define, trainer="kto", data={"path": str(file)})
    assert f"cannot run: {told}" in text
    assert code == 2
    file.write_text(file.read_text() + json.dumps(rows[0] | {"label": not label}) + "\n")
    assert planned(lab, define, trainer="kto", data={"path": str(file)})[1] == 0


def test_a_plan_refuses_more_rows_than_a_task_has_alone_and_in_a_mix(lab, define):
    few, many = ({"task": "sort", "digits": 2, "rows": rows} for rows in (20, 200))
    for data in (many, {"mix": [many, few | {"name": "more"}]}):
        text, code = planned(lab, define, trainer="sft", data=data)
        assert re.search(
            r"cannot run: experiments/own.yaml:\d+: sort has \d+ train prompts of this size, 200 are", text
        )
        assert code == 2
    assert planned(lab, define, trainer="sft", data=few)[1] == 0


def test_a_plan_lets_a_source_of_one_prompt_be_drawn_by_its_pass_rate(lab, define):
    file = lab / "one.jsonl"
    file.write_text(json.dumps({"prompt": "ab", "answer": "c"}) + "\n")
    data = {"mix": [{"path": str(file)}], "curriculum": {"pass_rate": {"within": [0.1, 0.9]}}}
    sampling = {"steps": 2, "batch_prompts": 2, "group_size": 2, "max_new_tokens": 4, "rewards": [{"reward": "exact"}]}
    text, code = planned(lab, define, trainer="grpo", data=data, hyperparameters=sampling)
    assert code == 0, text


def test_a_plan_refuses_a_source_with_fewer_rows_than_bands(lab, define):
    file = lab / "few.jsonl"
    file.write_text(json.dumps({"prompt": "ab", "completion": "c"}) + "\n")
    data = {"mix": [{"path": str(file)}], "curriculum": {"bands": 3, "hardest_from": 2}}
    text, code = planned(lab, define, trainer="sft", data=data)
    assert "cannot run: source few has 1 row, allowed 3 or more: one a band" in text
    assert code == 2


@pytest.mark.parametrize(
    ("samplers", "problem"),
    [
        ([], "data.collect.from: found a list, allowed"),
        (["start", "start"], "data.collect: from: found start, start, allowed each of them once"),
    ],
)
def test_samplers_are_named_once_each_and_one_at_least(lab, define, samplers, problem):
    data = {"collect": {"task": "sort", "completions": 8, "from": samplers}}
    with pytest.raises(DefinitionError, match=re.escape(problem)):
        planned(lab, define, trainer="sft", data=data)
