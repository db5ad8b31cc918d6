# ruff: noqa: E501 - a case of the table is one line
"""Malformed definitions: the one line (or lines) that each prints, all at once, with nothing created."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from tests.experiment.conftest import trainers_with, with_trainers
from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.trainer.registry import trainer_names

SFT = """question: How well does it sort?
trainer: sft
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters:
  steps: 10
  learning_rate: 1e-3
threads: 1
"""
DPO = """question: How tight a tie?
trainer: dpo
start_from: sft_sort
data: {collect: {task: sort, pairs: 10}}
hyperparameters:
  beta: 0.1
  steps: 10
sweep:
  grid: {beta: [0.1, 1]}
  seeds: 2
"""
TRAINERS = ", ".join(trainer_names())
MANY = "the 27 names that `workbench explain sft` lists"
MANY_DPO = "the 38 names that `workbench explain dpo` lists"
NO_DEFAULT = "found nothing, allowed a value: it has no default"
A_NAME = "the name of a file in experiments/ (letters, digits, - and _, at most 100)"
ARM_KEYS = "trainer, start_from, model, teacher, lora, data, hyperparameters, evaluate, budget, threads"
TOP_KEYS = f"{ARM_KEYS}, question, extends, arms, sweep, track"
DPO_NAMES = "sigmoid, cdpo, robust, ipo, ipo_sum, hinge, sigmoid_norm, exo_pair, nca_pair, bco_pair, bco_pair_unshifted, sppo_hard, apo_zero, apo_down, aot, aot_unpaired or discopop"

# base, what is replaced ("" appends), by what, and the lines after "experiments/case.yaml:".
CASES: list[tuple[str, str, str, list[str]]] = [
    # the file as a whole
    (SFT, SFT, "", ["1: file: found nothing, allowed a mapping such as `question: ...`"]),
    (SFT, SFT, "# only a comment\n", ["1: file: found nothing, allowed a mapping such as `question: ...`"]),
    (SFT, SFT, "sort", ["1: file: found 'sort', allowed a mapping such as `question: ...`"]),
    (SFT, SFT, "- a\n- b\n", ["1: file: found a list, allowed a mapping such as `question: ...`"]),
    (SFT, "  steps", "\tsteps", ["6: file: found a tab in the indentation, allowed spaces"]),
    (SFT, "steps: 10", "steps:\t10", ["6: file: found broken YAML (a tab between words; use spaces), allowed plain YAML"]),
    (SFT, "question", "\ufeffquestion", ["1: file: found a byte order mark (UTF-8), allowed UTF-8 without one"]),
    (SFT, "", "# \x07\n", ["9: file: found the character 0x07, allowed printable text"]),
    (SFT, "", "---\na: 1\n", ["9: file: found a second document, allowed one a file"]),
    (SFT, "", "#" * 70_000, ["1: file: found more than 65536 bytes, allowed a definition, which is short"]),
    (SFT, "", "[a, b]: 3\n", ["9: file: found a list or mapping as a key, allowed a plain name"]),
    (SFT, "", "? {a: b}\n: 3\n", ["9: file: found a list or mapping as a key, allowed a plain name"]),
    (SFT, "", "!!str a: 3\n", ["9: file: found 'tag:yaml.org,2002:str' as a key, allowed a plain name"]),
    (SFT, "", '"": 3\n', ['9: file: found "" as a key, allowed a plain name']),
    (SFT, "How well", "How: well", ["1: file: found broken YAML (mapping values are not allowed here; is a quote or an indent missing?), allowed plain YAML"]),
    # values that YAML itself may hold and a definition may not
    (SFT, "", "trainer: dpo\n", ["9: trainer: found a second time (first on line 2), allowed once"]),
    (SFT, "threads", "  steps: 3\nthreads", ["8: hyperparameters.steps: found a second time (first on line 6), allowed once"]),
    (SFT, "1e-3", ".nan", ["7: hyperparameters.learning_rate: found .nan, allowed finite numbers"]),
    (SFT, "1e-3", "-.inf", ["7: hyperparameters.learning_rate: found -.inf, allowed finite numbers"]),
    (SFT, "1e-3", "1e999", ["7: hyperparameters.learning_rate: found '1e999', allowed finite numbers"]),
    (SFT, "1e-3", "nan", ["7: hyperparameters.learning_rate: found 'nan', allowed a number"]),
    (SFT, "10", "9" * 25, [f"6: hyperparameters.steps: found '{'9' * 25}', allowed whole numbers below 2**63"]),
    (SFT, "10", "010", ["6: hyperparameters.steps: found '010', allowed numbers without a leading zero, did you mean 10 or '010'?"]),
    (SFT, "10", "!!int 10", ["6: hyperparameters.steps: found the tag 'tag:yaml.org,2002:int', allowed plain data; quote a value to make it text"]),
    (SFT, "10", "!x 10", ["6: hyperparameters.steps: found the tag '!x', allowed plain data; quote a value to make it text"]),
    (SFT, "", "evaluate: *x\n", ["9: evaluate: found *x, allowed a name anchored above"]),
    (SFT, "", "evaluate: &x [*x]\n", ["9: evaluate[0]: found *x inside itself, allowed no circle"]),
    (SFT, "", "arms:\n  <<: {a: {}}\n", ["10: arms: found the merge key <<, allowed `extends: NAME` to share settings"]),
    # unknown and missing keys
    (SFT, "threads", "theads", [f"8: theads: found an unknown key, allowed {TOP_KEYS}, did you mean threads?"]),
    (SFT, "hyperparameters:", "hyperparams:", [f"5: hyperparams: found an unknown key, allowed {TOP_KEYS}, did you mean hyperparameters?"]),
    (SFT, "learning_rate", "learning-rat", [f"7: hyperparameters.learning-rat: found an unknown key, allowed {MANY}, did you mean learning_rate?"]),
    (SFT, "steps", "beta", [f"6: hyperparameters.beta: found an unknown key, allowed {MANY}, did you mean {trainers_with('beta')}?"]),
    (SFT, "steps", "seed", ["6: hyperparameters.seed: found it under hyperparameters, allowed as sweep.seeds"]),
    (SFT, "steps", "evaluate_every", ["6: hyperparameters.evaluate_every: found it under hyperparameters, allowed as evaluate.every"]),
    (SFT, "steps: 10", "budget: {flops: 1}", ["6: hyperparameters.budget: found it under hyperparameters, allowed as budget"]),
    (SFT, "question: How well does it sort?\n", "", [f"1: question: {NO_DEFAULT}"]),
    (SFT, "trainer: sft\n", "", [f"1: trainer: found nothing, allowed a trainer: {TRAINERS}"]),
    (SFT, "data: {task: sort, rows: 128}\n", "", ["1: data: found nothing, allowed one of task, path, dataset, collect, mix"]),
    (SFT, "model: {preset: tiny}\n", "", ["1: model: found nothing, allowed a model such as {preset: tiny}, or start_from: NAME"]),
    # types and ranges
    (SFT, "How well does it sort?", "", ["1: question: found nothing, allowed text"]),
    (SFT, "How well does it sort?", "''", ['1: question: found "", allowed at least 1 characters']),
    (SFT, "1e-3", "-1", ["7: hyperparameters.learning_rate: found -1, allowed numbers >= 0"]),
    (SFT, "1e-3", "'0.1'", ["7: hyperparameters.learning_rate: found '0.1', allowed a number, did you mean 0.1 without quotes?"]),
    (SFT, "1e-3", "3e-4x", ["7: hyperparameters.learning_rate: found '3e-4x', allowed a number"]),
    (SFT, "1e-3", "[1e-3]", ["7: hyperparameters.learning_rate: found a list, allowed a number; values to compare stand in sweep.grid"]),
    (SFT, "10", "true", ["6: hyperparameters.steps: found true, allowed a whole number"]),
    (SFT, "10", "10.5", ["6: hyperparameters.steps: found 10.5, allowed a whole number"]),
    (SFT, "10", "0", ["6: hyperparameters.steps: found 0, allowed numbers > 0"]),
    (SFT, "threads: 1", "threads: 0", ["8: threads: found 0, allowed numbers >= 1"]),
    (SFT, "threads: 1", "threads: 2000", ["8: threads: found 2000, allowed numbers <= 1024"]),
    (SFT, "threads: 1", "threads: two", ["8: threads: found 'two', allowed a whole number"]),
    (SFT, "steps: 10", "schedule: cosin", ["6: hyperparameters.schedule: found 'cosin', allowed constant, linear, cosine, warmup_stable_decay or range_test, did you mean cosine?"]),
    (SFT, "steps: 10", "adam_betas: [0.9, 1.5]", ["6: hyperparameters.adam_betas[1]: found 1.5, allowed numbers <= 1"]),
    (SFT, "steps: 10", "adam_betas: [0.9]", [f"6: hyperparameters.adam_betas[1]: {NO_DEFAULT}"]),
    (SFT, "steps: 10", "adam_betas: [0.9, 0.9, 0.9]", ["6: hyperparameters.adam_betas: found a list, allowed at most 2 values"]),
    (SFT, "steps: 10", "early_stopping: {metrc: eval/x}", [f"6: hyperparameters.early_stopping.metric: {NO_DEFAULT}", "6: hyperparameters.early_stopping.metrc: found an unknown key, allowed metric, mode, patience, min_change, did you mean metric?"]),
    (SFT, "steps: 10", "early_stopping: {metric: eval/x}", ["6: hyperparameters.early_stopping: found without evaluate, allowed with a held-out evaluation"]),
    (SFT, "model: {preset: tiny}", "model: tiny", ["3: model: found 'tiny', allowed a mapping, did you mean {preset: tiny}?"]),
    (SFT, "data: {task: sort, rows: 128}", "data: [sort]", ["4: data: found a list, allowed a mapping"]),
    (SFT, "data: {task: sort", "data: {task: sort, path: x", ["4: data: found task and path, allowed one of task, path, dataset, collect, mix"]),
    (SFT, "data: {task: sort", "data: {tsk: sort", ["4: data: found tsk, rows, allowed one of task, path, dataset, collect, mix, did you mean task?"]),
    (SFT, "", "budget: {flop: 3}\n", ["9: budget.flop: found an unknown key, allowed flops, tokens, seconds, did you mean flops?"]),
    (SFT, "", "budget: {tokens: -3}\n", ["9: budget.tokens: found -3, allowed numbers > 0"]),
    (SFT, "", "track: wandb\n", ["9: track: found 'wandb', allowed a list, did you mean [wandb]?"]),
    (SFT, "", "track: [wandbb]\n", ["9: track[0]: found 'wandbb', allowed tensorboard or wandb, did you mean wandb?"]),
    # trainers, and data that does not fit them
    (SFT, "trainer: sft", "trainer: stf", [f"2: trainer: found 'stf', allowed {TRAINERS}, did you mean sft?"]),
    (SFT, "trainer: sft", "trainer: 5", ["2: trainer: found 5, allowed text"]),
    (SFT, "{task: sort, rows: 128}", "{collect: {task: sort, pairs: 10}}", ["4: data.collect: found preference pairs for trainer sft, allowed completions, such as 4096"]),
    (DPO, "{collect: {task: sort, pairs: 10}}", "{task: sort, rows: 9}", ["4: data.task: found rows of a task for trainer dpo, allowed path to a preference file, or collect: {task: ...} to make pairs"]),
    (DPO, "beta: 0.1", "loss: sigmod", [f"6: hyperparameters.loss: found 'sigmod', allowed {DPO_NAMES}, did you mean sigmoid?"]),
    (DPO, "beta: 0.1", "loss: {sigmod: 1.0}", ["6: hyperparameters.loss.sigmod: found an unknown key, allowed the 17 names that schema.json lists, did you mean sigmoid?"]),
    (DPO, "beta: 0.1", "loss: {sigmoid: 0}", ["6: hyperparameters.loss.sigmoid: found 0, allowed numbers > 0"]),
    (DPO, "beta: 0.1", "loss: {}", ["6: hyperparameters.loss: found a mapping, allowed at least 1 values"]),
    (DPO, "beta: 0.1", "loss: exo_pair", ["9: hyperparameters: exo_pair needs label_smoothing in (0, 0.5)"]),
    (DPO, "beta: 0.1", "loss: apo_zero\n  divergence: alpha", ["10: hyperparameters: apo_zero has no form under another divergence than reverse_kl, for it is no function of a difference of two scores; use sigmoid, cdpo, robust, ipo, ipo_sum, hinge, sigmoid_norm, exo_pair, discopop"]),
    (DPO, "beta: 0.1\n  steps: 10", "sync_reference_every: 5\n  steps: 10\nlora: {}", ["8: lora: found together with a reference that moves (sync_reference_every), which has no weights of its own where it is the policy with its adapter off; allowed one of them"]),
    (DPO, "beta: 0.1", "label_smoothing: 0.7", ["6: hyperparameters.label_smoothing: found 0.7, allowed numbers < 0.5"]),
    # starts
    (DPO, "sft_sort", "sft_sorted", ["3: start_from: found 'sft_sorted', allowed case, sft_sort, did you mean sft_sort?"]),
    (DPO, "sft_sort", "../sft_sort", [f"3: start_from: found '../sft_sort', allowed {A_NAME}, did you mean sft_sort?"]),
    (DPO, "sft_sort", "case", ["3: start_from: found a circle (case -> case), allowed a chain that ends in a model"]),
    (DPO, "sft_sort", "[sft_sort]", ["3: start_from: found a list, allowed text or a mapping"]),
    (DPO, "sft_sort", "{experment: sft_sort}", [f"3: start_from.experiment: {NO_DEFAULT}", "3: start_from.experment: found an unknown key, allowed experiment, variant, seed, did you mean experiment?"]),
    (DPO, "sft_sort", "{experiment: sft_sort, variant: mian}", ["3: start_from.variant: found 'mian', allowed main, did you mean main?"]),
    (DPO, "sft_sort", "{experiment: sft_sort, seed: 4}", ["3: start_from.seed: found seed 4, allowed the seeds of sft_sort: 0"]),
    (DPO, "sft_sort", "{experiment: sft_sort, seed: match}", ["3: start_from.seed: found seed 1 to match this run's, allowed the seeds of sft_sort: 0"]),
    (DPO, "sft_sort", "{experiment: sft_sort, seed: any}", ["3: start_from.seed: found 'any', allowed a whole number or match"]),
    (DPO, "start_from: sft_sort", "start_from: sft_sort\nmodel: {preset: tiny}", ["3: start_from: found together with model, allowed one of them: a start brings its own model"]),
    (SFT, "question", "extends: nope\nquestion", ["1: extends: found 'nope', allowed case, sft_sort"]),
    (SFT, "question", "extends: case\nquestion", ["1: extends: found a circle (case -> case), allowed a chain that ends"]),
    (SFT, "question", "extends: [a]\nquestion", [f"1: extends: found a list, allowed {A_NAME}"]),
    # sweeps
    (DPO, "[0.1, 1]", "[0.1, 0.3, -0.1]", ["9: sweep.grid.beta[2]: found -0.1, allowed numbers > 0"]),
    (DPO, "{beta: [0.1, 1]}", "\n    beta:\n      - 0.1\n      - x", ["12: sweep.grid.beta[1]: found 'x', allowed a number"]),
    (DPO, "[0.1, 1]", "[]", ["9: sweep.grid.beta: found a list, allowed at least 1 values"]),
    (DPO, "[0.1, 1]", "0.1", ["9: sweep.grid.beta: found 0.1, allowed a list, did you mean [0.1]?"]),
    (DPO, "[0.1, 1]", "[1, 1.0]", ["9: sweep.grid.beta[1]: found 1.0 again, allowed each value once"]),
    (DPO, "[0.1, 1]", "[1], hyperparameters.beta: [2]", ["9: sweep.grid.hyperparameters.beta: found the same setting as axis beta, allowed one axis for a setting"]),
    (DPO, "{beta: [0.1", "{bta: [0.1", [f"9: sweep.grid.bta: found an unknown key, allowed {MANY_DPO}, did you mean beta?"]),
    (DPO, "{beta: [0.1", "{dta.collect.pairs: [5", ["9: sweep.grid.dta.collect.pairs: found an unknown section 'dta', allowed model, lora, data, hyperparameters, evaluate, budget, start_from, teacher, did you mean data?"]),
    (DPO, "grid:", "gird:", ["9: sweep.gird: found an unknown key, allowed grid, search, seeds, did you mean grid?"]),
    (DPO, "seeds: 2", "seeds: 0", ["10: sweep.seeds: found 0, allowed numbers > 0 or a list"]),
    (DPO, "seeds: 2", "seeds: two", ["10: sweep.seeds: found 'two', allowed a whole number or a list"]),
    (DPO, "seeds: 2", "seeds: [1, 1]", ["10: sweep.seeds: found a seed twice, allowed each once"]),
    (DPO, "seeds: 2", "seeds: [1, -1]", ["10: sweep.seeds[1]: found -1, allowed numbers >= 0"]),
    (DPO, "seeds: 2", "seeds: 5000", ["10: sweep.seeds: found 5000, allowed numbers <= 1000"]),
    (DPO, "seeds: 2", "seeds: 1000", ["9: sweep.grid: found 2,000 runs, allowed at most 1,000"]),
    # arms
    (SFT, "", "arms: [a]\n", ["9: arms: found a list, allowed a mapping, did you mean {first: {trainer: sft}, second: {trainer: dpo}}?"]),
    (SFT, "", "arms: {a: }\n", ["9: arms.a: found nothing, allowed a mapping"]),
    (SFT, "", "arms: {../a: {}}\n", ["9: arms.../a: found the name '../a', allowed letters, digits, - and _, at most 100"]),
    (SFT, "", "arms: {a: {question: x}}\n", [f"9: arms.a.question: found an unknown key, allowed {ARM_KEYS}"]),
    (SFT, "", "arms:\n  a: {trainer: dpo}\n", ["10: arms.a.data: trainer dpo drops the file's data and hyperparameters; give them, e.g. data: {path: pairs.jsonl}"]),
    (SFT, "", "arms:\n  a: {hyperparameters: {stesp: 3}}\n", [f"10: arms.a.hyperparameters.stesp: found an unknown key, allowed {MANY}, did you mean steps?"]),
    # several at once, in the order of the file
    (SFT.replace("threads: 1", "threads: 0").replace("1e-3", "fast"), "trainer: sft", "trainer: sf", [f"2: trainer: found 'sf', allowed {TRAINERS}, did you mean sft?", "7: hyperparameters.learning_rate: found 'fast', allowed a number", "8: threads: found 0, allowed numbers >= 1"]),
]  # fmt: skip


def edit(base: str, old: str, new: str) -> str:
    """base with old replaced once, or new appended."""
    assert old in base
    return base.replace(old, new, 1) if old else base + new


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/sft_sort.yaml").write_text(SFT)
    return tmp_path / "experiments"


GOOD = {
    "question": "question: How well does it sort?",
    "model": "model: {preset: tiny}",
    "data": "data: {task: sort, rows: 128}",
}
CORPUS = [
    tuple(with_trainers(line).split(" | ", 2))
    for line in Path(__file__).with_name("malformed.txt").read_text().splitlines()
    if not line.startswith("#")
]


def good_part(name: str) -> list[str]:
    """The lines before the wrong one: a trainer's, less one section where the name says so."""
    trainer, _, left_out = name.partition(" less ")
    lines = {**GOOD, "trainer": f"trainer: {trainer}"}
    if trainer == "dpo":
        lines["data"] = "data: {collect: {task: sort, pairs: 10}}"
    return [line for key, line in lines.items() if key != left_out]


def test_three_hundred_malformed_definitions_are_known() -> None:
    assert len({case[:3] for case in CASES}) + len({case[:2] for case in CORPUS}) >= 300


@pytest.mark.parametrize(("name", "line", "said"), CORPUS, ids=range(len(CORPUS)))
def test_a_wrong_line_is_named_with_what_was_found_and_what_is_allowed(
    folder: Path, name: str, line: str, said: str
) -> None:
    lines = [*good_part(name), line]
    (folder / "case.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    before = sorted(folder.parent.rglob("*"))
    started = time.monotonic()
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case")
    assert time.monotonic() - started < 1
    assert caught.value.problems == (f"experiments/case.yaml:{len(lines)}: {said}",)
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CORPUS if " less " not in name}))
def test_the_good_parts_of_the_corpus_are_good(folder: Path, name: str) -> None:
    (folder / "case.yaml").write_text("\n".join(good_part(name)) + "\nhyperparameters: {steps: 10}\n")
    assert len(load_experiment("case").runs) == 1


@pytest.mark.parametrize(("base", "old", "new", "lines"), CASES, ids=range(len(CASES)))
def test_a_malformed_definition_prints_just_these_lines(
    folder: Path, base: str, old: str, new: str, lines: list[str]
) -> None:
    (folder / "case.yaml").write_text(edit(base, old, new), encoding="utf-8")
    before = sorted(folder.parent.rglob("*"))
    started = time.monotonic()
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case")
    assert time.monotonic() - started < 1
    assert list(caught.value.problems) == [f"experiments/case.yaml:{line}" for line in lines]
    assert sorted(folder.parent.rglob("*")) == before


def test_the_bases_of_the_table_are_sound(folder: Path) -> None:
    (folder / "case.yaml").write_text(DPO.replace("seeds: 2", "seeds: 1"))
    assert [len(load_experiment(name).runs) for name in ("case", "sft_sort")] == [2, 1]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_text_that_is_not_utf8_is_one_line(folder: Path, encoding: str) -> None:
    (folder / "case.yaml").write_bytes((SFT + "# é\n").encode(encoding))
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("seed", range(300))
def test_a_damaged_definition_is_lines_of_one_form_or_sound(folder: Path, seed: int) -> None:
    source = random.Random(seed)
    text = source.choice([SFT, DPO])
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(text))
        text = source.choice(
            [
                text[:place] + text[place + source.randint(1, 5) :],
                text[:place]
                + source.choice(["x", ":", " ", "-", "[", "}", "'", "\n", "\t", "0", "null", "*a", "!t "])
                + text[place:],
            ]
        )
    (folder / "case.yaml").write_text(text)
    try:
        load_experiment("case")
        lines = ["experiments/case.yaml:1: file: sound"]
    except DefinitionError as error:
        lines = list(error.problems)
    assert lines
    for line in lines:
        assert re.fullmatch(r"experiments/[a-z_]+\.yaml:\d+: [^\n]+: [^\n]+", line), line


@pytest.mark.parametrize(
    "name", ["../x", "/abs", "", ".", "..", "a" * 300, "a\nb", "a\x00b", "x.yaml", "experiments/x", "-x", "a b", "a+b"]
)
@pytest.mark.usefixtures("folder")
def test_a_name_that_is_no_plain_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_experiment(name)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("command line: NAME: found ")
    assert "\n" not in caught.value.problems[0]


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder.parent / "outside.yaml").write_text(SFT)
    (folder / "case.yaml").symlink_to(folder.parent / "outside.yaml")
    with pytest.raises(DefinitionError, match="a link out of experiments/"):
        load_experiment("case")


@pytest.mark.usefixtures("folder")
def test_a_misspelt_name_names_the_nearest() -> None:
    with pytest.raises(DefinitionError) as caught:
        load_experiment("sft_srot")
    assert caught.value.problems == ("command line: NAME: found 'sft_srot', allowed sft_sort, did you mean sft_sort?",)


def test_a_fault_in_a_start_is_told_with_the_start_s_own_file_and_line(folder: Path) -> None:
    (folder / "sft_sort.yaml").write_text(SFT.replace("10", "-10"))
    (folder / "case.yaml").write_text(DPO.replace("beta: 0.1", "beta: -1"))
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case")
    assert "experiments/sft_sort.yaml:6: hyperparameters.steps: found -10, allowed numbers > 0" in caught.value.problems


def test_a_circle_of_two_is_named(folder: Path) -> None:
    (folder / "a.yaml").write_text(DPO.replace("sft_sort", "b"))
    (folder / "b.yaml").write_text(DPO.replace("sft_sort", "a"))
    with pytest.raises(DefinitionError) as caught:
        load_experiment("a")
    expected = "experiments/b.yaml:3: start_from: found a circle (a -> b -> a), allowed a chain that ends in a model"
    assert caught.value.problems == (expected,)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("hyperparameters: {steps: 1000000000000000000}", "hyperparameters.steps: found 1000000000000000000, allowed"),
        ("hyperparameters: {epochs: 1.0e300}", "hyperparameters.epochs: found 1e+300, allowed numbers <= 1,000,000"),
        ("hyperparameters: {batch_rows: 1000000000000}", "hyperparameters.batch_rows: found 1000000000000, allowed"),
        (
            "hyperparameters: {micro_batch_rows: 10000000000}",
            "hyperparameters.micro_batch_rows: found 10000000000, all",
        ),
        ("data: {path: x.jsonl, max_tokens: 10000000000}", "data.max_tokens: found 10000000000, allowed numbers <="),
        ("data: {task: sort, rows: 1000000000}", "data.rows: found 1000000000, allowed numbers <= 10,000,000"),
        ("evaluate: {task: sort, prompts: 100000000}", "evaluate.prompts: found 100000000, allowed numbers <= 10,"),
        ("hyperparameters: {learning_rate: 1.0e-400}", "hyperparameters.learning_rate: found '1.0e-400', so small"),
        ("sweep: {seeds: 1000000000}", "sweep.seeds: found 1000000000, allowed numbers <= 1000"),
        ("sweep: {seeds: [4294967296]}", "sweep.seeds[0]: found 4294967296, allowed numbers < 2,147,483,648"),
        ("data: {path: ~nosuchuser/x.jsonl}", "data.path: found '~nosuchuser/x.jsonl', but ~nosuchuser is no user"),
        (f"data: {{path: {'x' * 10_000}}}", "data.path: found 'xxxxx"),
        (f"evaluate: {{path: {'x/' * 5_000}}}", "evaluate.path: found 'x/x/"),
    ],
)
def test_numbers_and_paths_that_nothing_can_hold_are_refused(folder, line, said):
    (folder / "case.yaml").write_text("\n".join([*good_part(f"sft less {line.split(':')[0]}"), line]) + "\n")
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case")
    (told,) = caught.value.problems
    assert told.split(": ", 1)[1].startswith(said)
    assert len(told) < 250


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        (
            "sft_dpo",
            "data: {collect: {task: sort, pairs: 1000000000}}",
            "found 1000000000, allowed numbers <= 10,000,000",
        ),
        (
            "sft_dpo",
            "data: {collect: {task: sort, pairs: 10000000, samples_per_prompt: 5000}}",
            "pairs x samples_per_prompt: found 50,000,000,000 completions to sample, allowed at most 1,000,000,000",
        ),
        (
            "grpo",
            "hyperparameters: {batch_prompts: 1000000, group_size: 1000, max_new_tokens: 64}",
            "found 64,000,000,000 tokens of a rollout, allowed at most 1,000,000,000",
        ),
    ],
)
def test_settings_that_are_each_allowed_may_not_ask_together_for_what_nothing_can_hold(folder, name, line, said):
    trainer = "start_from: sft_sort\ntrainer: dpo" if name == "sft_dpo" else "model: {preset: tiny}\ntrainer: grpo"
    data = "" if line.startswith("data") else "data: {task: sort}"
    (folder / "case.yaml").write_text(f"question: q\n{trainer}\n{data}\n{line}\n")
    with pytest.raises(DefinitionError) as caught:
        load_experiment("case")
    assert any(said in told for told in caught.value.problems), caught.value.problems


def load_grid(folder, values):
    sweep = f"sweep: {{grid: {{weight_decay: [{values}]}}}}"
    (folder / "case.yaml").write_text("\n".join([*good_part("sft less sweep"), sweep]))
    return load_experiment("case")


@pytest.mark.parametrize("values", ["0.0, -0.0", "0, -0.0", "1, 1.0", "1.0e-1, 0.1"])
def test_two_spellings_of_a_value_are_one_value_of_a_grid(folder, values):
    with pytest.raises(DefinitionError, match="again, allowed each value once"):
        load_grid(folder, values)


def test_minus_zero_is_zero(folder):
    assert load_grid(folder, "-0.0, 0.1").runs[0].variant == "weight_decay=0.0"
