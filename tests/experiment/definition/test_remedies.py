"""What a newcomer writes, and what the one line about it says to write instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, ROOT, blocks
from workbench.errors import DefinitionError
from workbench.experiment.definition.places import elsewhere
from workbench.experiment.definition.resolve import load_experiment

SFT = """question: Does it sort?
trainer: sft
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters: {steps: 3}
"""


def problems(folder: Path, text: str, *overrides: str) -> tuple[str, ...]:
    (folder / "case.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case", overrides, folder)
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("save: adapter", "lora.save"),
        ("lr: 1e-3", "hyperparameters.learning_rate"),
        ("epoch: 3", "hyperparameters.epochs"),
        ("batch_rows: 3", "hyperparameters.batch_rows"),
        ("every: 5", "evaluate.every"),
        ("samples_per_prompt: 5", "data.collect.samples_per_prompt"),
        ("patience: 5", "hyperparameters.early_stopping.patience"),
        ("path: mine.jsonl", "model.path, data.path or evaluate.path"),
        ("method: dpo", "trainer"),
        ("sweep: {beta: [1, 2]}", "sweep.grid.beta"),
        ("lora: {r: 8}", "lora.rank"),
        ("lora: true", "{rank: 16}"),
        ("budget: 100", "{tokens: 100}"),
        ("track: wandb", "[wandb]"),
        ("evaluate: none", "null"),
        ("evaluate: held_out.jsonl", "{path: held_out.jsonl}"),
        ("evaluate: {task: sort, temperature: 0.5}", "evaluate.sampling.temperature"),
        ("evaluate: {task: sort, prompts: 1_000}", "1000"),
        ("evaluate: {task: sort, prompts: 8.0}", "8"),
        ("sweep: {grid: {learning_rate: '0.1, 0.2'}}", "[0.1, 0.2]"),
    ],
)
def test_a_slip_is_told_what_to_write(tmp_path: Path, line: str, meant: str) -> None:
    (problem,) = problems(tmp_path, f"{SFT}{line}\n")
    assert problem.endswith(f", did you mean {meant}?")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.columns={prompt=question}", "allowed a colon and a space: {prompt: question}"),
        ("hyperparameters.adam_betas=[{a:1}]", "allowed a space after the colon: {a: 1}"),
        ("steps=5,", "allowed 5; no spaces around ="),
        ("learning_rate=0,001", "did you mean 0.001?"),
        ("learning_rate=1/1000", "did you mean 0.001?"),
        ("model=gpt2", "did you mean {path: gpt2} for a folder, {name: gpt2} for the hub?"),
        (
            "data=mine/train.jsonl",
            "found 'mine/train.jsonl', allowed a mapping, did you mean data.path=mine/train.jsonl?",
        ),
        ("track=wandb", "did you mean track=[wandb]?"),
        ("lora=8", "did you mean lora.rank=8?"),
        ("steps=", "found nothing after =, allowed a value; none at all is written steps=null"),
        ("stpes=3", "allowed the 27 names that `workbench explain sft` lists, did you mean steps?"),
        ("start_from=mine+steps=4", "is begun from by its folder: model.path=runs/mine+steps=4/main/seed0/model"),
        ("hyperparameters={steps: 5}", "allowed one of them at a time, such as steps=5"),
    ],
)
def test_an_override_is_told_what_to_write(tmp_path: Path, override: str, said: str) -> None:
    (problem,) = problems(tmp_path, SFT, override)
    assert said in problem


def test_of_many_definitions_the_nearest_is_named_and_not_all(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"sort_{number}.yaml").write_text(SFT)
    for name, near in (("sort_7x", ", did you mean sort_7?"), ("", "")):
        with pytest.raises(DefinitionError) as caught:
            load_experiment(name, folder=tmp_path)
        (problem,) = caught.value.problems
        assert "allowed one of the 30 files of " in problem
        assert problem.endswith(f"sort_0, sort_1, sort_10, sort_11, sort_12, sort_13, ... (ls {tmp_path.name}){near}")


def test_words_without_an_equals_sign_are_one_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SFT, "steps", "=", "5")
    assert problem.startswith("--set steps: found 'steps', '=', '5', allowed key=value")


def test_what_is_said_of_an_ambiguous_start_can_be_pasted(tmp_path: Path) -> None:
    grid = "sweep: {grid: {steps: [5, 6], learning_rate: [0.1, 0.2]}, seeds: 2}\n"
    (tmp_path / "first.yaml").write_text(SFT + grid)
    text = SFT.replace("model: {preset: tiny}", "start_from: first")
    (problem,) = problems(tmp_path, text)
    (written,) = re.findall(r"start_from: \{.*?\}", problem)
    (tmp_path / "case.yaml").write_text(text.replace("start_from: first", written))
    assert load_experiment("case", folder=tmp_path).runs[0].start == "first/steps=5,learning_rate=0.1/seed0"
    by_key = "start_from: first/steps=6,learning_rate=0.2/seed1"
    (tmp_path / "case.yaml").write_text(text.replace("start_from: first", by_key))
    assert load_experiment("case", folder=tmp_path).runs[0].start == by_key.removeprefix("start_from: ")


def test_a_field_of_a_section_is_found_from_anywhere() -> None:
    assert elsewhere("rank") == ", did you mean lora.rank?"
    assert elsewhere("rank", "data") == ", did you mean lora.rank?"
    assert elsewhere("nothing_like_it") == ""


BLOCKS = [
    (path.name, block)
    for path in DOCUMENTS
    for block in blocks(path, "yaml")
    if "trainer: rrhf" not in block  # tests/trainer/test_own_trainer.py runs it
]


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_every_definition_in_the_documents_loads(tmp_path: Path, name: str, block: str) -> None:
    """A block that is no whole definition is laid over the shortest one."""
    for path in (ROOT / "experiments").glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "base.yaml").write_text(SFT)
    extends = "" if "question:" in block else "question: What do the documents say?\n"
    given = {line.split(":")[0] for line in block.splitlines()}
    lines = [line for line in SFT.splitlines() if line.split(":")[0] not in given and not line.startswith("question")]
    if "start_from" in given or "arms" in given:
        lines = [line for line in lines if not line.startswith("model")]
    rest = "" if {"trainer", "extends", "arms"} & given and "question" in given else "\n".join(lines)
    (tmp_path / "block.yaml").write_text(f"{extends}{block}{rest}\n")
    assert load_experiment("block", folder=tmp_path).runs
