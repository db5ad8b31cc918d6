# ruff: noqa: E501 - a case of the table is one line
"""From a definition to its runs: arms, grid, seeds, extends, overrides, starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.experiment.conftest import trainers_with
from workbench.errors import DefinitionError
from workbench.experiment.definition.json_schema import definition_schema
from workbench.experiment.definition.merge import FREE_KEYS
from workbench.experiment.definition.overrides import SPACES
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import Experiment
from workbench.trainer.dpo_trainer import DPOSettings
from workbench.trainer.registry import trainer_names
from workbench.trainer.sft_trainer import SFTSettings

SFT = """question: How well does it sort?
trainer: sft
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters: {steps: 10, learning_rate: 1e-3}
evaluate: {task: sort, prompts: 16, every: 5}
"""
DPO = """question: How tight a tie?
trainer: dpo
start_from: sft
data: {collect: {task: sort, pairs: 10}}
hyperparameters: {beta: 0.1, steps: 10}
"""
SWEEP = DPO + "sweep:\n  grid: {beta: [0.1, 1], learning_rate: [1e-3, 1e-4]}\n  seeds: 2\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "sft.yaml").write_text(SFT)
    return folder


def load(folder: Path, text: str, *overrides: str) -> Experiment:
    (folder / "x.yaml").write_text(text)
    return load_experiment("x", overrides)


def problems(folder: Path, text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        load(folder, text, *overrides)
    return caught.value.problems


def variants(experiment: Experiment) -> list[str]:
    return list(dict.fromkeys(run.variant for run in experiment.runs))


def test_without_arms_or_grid_the_one_variant_is_main(folder: Path) -> None:
    (run,) = load(folder, SFT).runs
    assert run.key == run.folder == "x/main/seed0"
    assert (run.arm, run.start, dict(run.point)) == (None, None, {})


def test_runs_are_every_point_of_the_grid_with_every_seed(folder: Path) -> None:
    experiment = load(folder, SWEEP)
    assert [run.key for run in experiment.runs] == [
        f"x/beta={beta},learning_rate={rate}/seed{seed}"
        for beta in (0.1, 1)
        for rate in (0.001, 0.0001)
        for seed in (0, 1)
    ]
    last = experiment.runs[-1].hyperparameters
    assert isinstance(last, DPOSettings)
    assert (last.beta, last.learning_rate, last.seed) == (1.0, 0.0001, 1)
    assert dict(experiment.axes) == {"beta": (0.1, 1), "learning_rate": (0.001, 0.0001)}


def test_seeds_may_be_listed(folder: Path) -> None:
    assert [run.seed for run in load(folder, SFT + "sweep: {seeds: [3, 5]}\n").runs] == [3, 5]


def test_a_dotted_axis_sets_what_it_names(folder: Path) -> None:
    experiment = load(folder, SFT + "sweep: {grid: {data.rows: [64, 128]}}\n")
    assert variants(experiment) == ["data.rows=64", "data.rows=128"]
    assert [run.to_definition()["data"]["rows"] for run in experiment.runs] == [64, 128]


def test_threads_may_be_swept_by_their_bare_name(folder: Path) -> None:
    assert [run.threads for run in load(folder, SFT + "sweep: {grid: {threads: [1, 2]}}\n").runs] == [1, 2]


def test_evaluate_every_and_budget_reach_the_trainer_s_settings(folder: Path) -> None:
    (run,) = load(folder, SFT + "budget: {tokens: 500}\n").runs
    assert run.hyperparameters.evaluate_every == 5
    assert run.budget is not None
    assert run.budget.tokens == 500


def test_seed_budget_and_cadence_stand_once_in_a_run_s_record(folder: Path) -> None:
    (run,) = load(folder, SFT + "budget: {tokens: 500}\nsweep: {seeds: [7]}\n").runs
    record = run.to_definition()
    assert (record["seed"], record["budget"]["tokens"], record["evaluate"]["every"]) == (7, 500, 5)
    assert not {"seed", "budget", "evaluate_every"} & record["hyperparameters"].keys()
    assert run.hyperparameters.seed == 7


def test_an_arm_of_the_same_trainer_is_merged_and_another_trainer_replaces(folder: Path) -> None:
    arms = """arms:
  slow: {hyperparameters: {learning_rate: 1e-4}}
  dpo: {trainer: dpo, model: null, start_from: sft, data: {collect: {task: sort, pairs: 4}}, hyperparameters: {beta: 1}}
"""
    slow, dpo = load(folder, SFT + arms).runs
    assert isinstance(slow.hyperparameters, SFTSettings)
    assert (slow.hyperparameters.steps, slow.hyperparameters.learning_rate) == (10, 1e-4)
    assert isinstance(dpo.hyperparameters, DPOSettings)
    assert (dpo.hyperparameters.steps, dpo.hyperparameters.learning_rate) == (None, DPOSettings().learning_rate)
    assert (dpo.variant, dpo.start, dpo.model) == ("dpo", "sft/main/seed0", None)


def test_arms_and_grid_multiply_and_the_arm_comes_first_in_the_name(folder: Path) -> None:
    arms = "arms: {a: {}, b: {hyperparameters: {loss: hinge}}}\nsweep: {grid: {beta: [1, 2]}}\n"
    assert variants(load(folder, DPO + arms)) == ["a,beta=1", "a,beta=2", "b,beta=1", "b,beta=2"]


def test_an_axis_that_an_arm_s_trainer_lacks_is_an_error_that_names_who_has_it(folder: Path) -> None:
    text = SFT + "arms:\n  a: {}\n  d: {trainer: dpo, data: {path: p.jsonl}}\nsweep: {grid: {beta: [1, 2]}}\n"
    assert problems(folder, text) == (
        "experiments/x.yaml:10: sweep.grid.beta[0]: found an unknown key, allowed the 27 names that `workbench explain sft` lists, "
        f"did you mean {trainers_with('beta')}?",
        "experiments/x.yaml:10: sweep.grid.beta[1]: found an unknown key, allowed the 27 names that `workbench explain sft` lists, "
        f"did you mean {trainers_with('beta')}?",
    )


def test_a_file_is_laid_over_the_one_it_extends(folder: Path) -> None:
    (run,) = load(folder, "extends: sft\nquestion: Longer?\nhyperparameters: {steps: 20}\n").runs
    assert (run.question, run.hyperparameters.steps, run.hyperparameters.learning_rate) == ("Longer?", 20, 1e-3)
    assert run.origins["hyperparameters.steps"] == "experiments/x.yaml:3"
    assert run.origins["hyperparameters.learning_rate"] == "experiments/sft.yaml:5"


def test_extending_with_another_trainer_or_start_replaces_what_does_not_fit(folder: Path) -> None:
    text = "extends: sft\nquestion: q\ntrainer: dpo\nstart_from: sft\ndata: {collect: {task: sort, pairs: 9}}\n"
    (run,) = load(folder, text).runs
    assert (run.model, run.start, run.hyperparameters.steps) == (None, "sft/main/seed0", None)


def test_an_extended_file_s_fault_is_told_once_with_its_own_line(folder: Path) -> None:
    (folder / "sft.yaml").write_text(SFT.replace("steps: 10", "stepz: 10"))
    (problem,) = problems(folder, "extends: sft\nquestion: q\n")
    assert problem.startswith("experiments/sft.yaml:5: hyperparameters.stepz: ")


def test_an_override_is_kept_apart_and_wins_over_arm_and_file(folder: Path) -> None:
    experiment = load(folder, SFT + "arms: {a: {hyperparameters: {steps: 30}}}\n", "steps=7")
    assert experiment.name == "x+steps=7"
    assert experiment.definition == "x"
    assert experiment.runs[0].key == "x+steps=7/a/seed0"
    assert experiment.runs[0].hyperparameters.steps == 7
    assert experiment.runs[0].origins["hyperparameters.steps"] == "--set steps=7"


def test_an_override_of_a_swept_key_replaces_its_axis(folder: Path) -> None:
    assert variants(load(folder, SWEEP, "beta=0.5")) == [
        "beta=0.5,learning_rate=0.001",
        "beta=0.5,learning_rate=0.0001",
    ]
    assert load(folder, SWEEP, "beta=[5, 6, 7]").axes["beta"] == (5, 6, 7)


def test_an_override_of_an_axis_of_lists_is_one_value_unless_it_is_a_list_of_lists(folder: Path) -> None:
    text = DPO + "sweep: {grid: {adam_betas: [[0.9, 0.99], [0.9, 0.999]]}}\n"
    assert load(folder, text, "adam_betas=[0.8, 0.9]").axes["adam_betas"] == ([0.8, 0.9],)
    assert load(folder, text, "adam_betas=[[0.8, 0.9], [0.7, 0.9]]").axes["adam_betas"] == ([0.8, 0.9], [0.7, 0.9])


def test_overrides_never_reach_the_start(folder: Path) -> None:
    experiment = load(folder, DPO, "steps=3")
    (ancestor,) = experiment.ancestors.values()
    assert (ancestor.key, ancestor.hyperparameters.steps) == ("sft/main/seed0", 10)
    assert experiment.runs[0].hyperparameters.steps == 3


def test_a_mapping_of_the_command_line_without_its_space_says_what_to_write(folder: Path) -> None:
    [line] = problems(folder, DPO, "data.columns={prompt:question}")
    assert line == (
        "--set data.columns={prompt:question}: data.columns: found 'prompt:question', "
        "allowed a space after the colon: {prompt: question}"
    )


def test_the_order_of_overrides_does_not_change_the_folder(folder: Path) -> None:
    one, other = load(folder, SWEEP, "steps=3", "beta=2"), load(folder, SWEEP, "beta=2", "steps=3")
    assert one.name == other.name == "x+beta=2,steps=3"
    assert (
        load(folder, SWEEP, "beta=2.0e-1").name == load(folder, SWEEP, "hyperparameters.beta=0.20").name == "x+beta=0.2"
    )


def test_seeds_may_be_overridden_by_their_bare_name(folder: Path) -> None:
    experiment = load(folder, SWEEP, "seeds=1", "threads=2")
    assert experiment.name == "x+seeds=1,threads=2"
    assert {(run.seed, run.threads) for run in experiment.runs} == {(0, 2)}


def test_an_override_with_a_path_makes_a_short_name_that_still_tells_paths_apart(folder: Path) -> None:
    text = DPO.replace("{collect: {task: sort, pairs: 10}}", "{path: old.jsonl}")
    one, other = load(folder, text, "data.path=/a/pairs 1.jsonl"), load(folder, text, "data.path=/b/pairs 1.jsonl")
    assert one.name != other.name
    assert one.name.startswith("x+data.path=pairs-1.jsonl-")
    assert one.runs[0].to_definition()["data"]["path"] == "/a/pairs 1.jsonl"


@pytest.mark.parametrize("value", ["../../x", "/", "..", "a\u202eb", "x" * 5000, "[1,2]", "\u00e9"])
def test_the_folder_of_an_override_is_one_safe_name(folder: Path, value: str) -> None:
    text = DPO.replace("{collect: {task: sort, pairs: 10}}", "{path: old.jsonl}")
    try:
        name = load(folder, text, f"data.path={value}").name
    except DefinitionError:
        return
    assert len(name) < 200
    assert name.isascii()
    assert "/" not in name


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("bta=1", "--set bta=1: bta: found an unknown key, allowed the 38 names that `workbench explain dpo` lists, did you mean beta?"),
        ("beta=-1", "--set beta=-1: beta: found -1, allowed numbers > 0"),
        ("beta=.nan", "--set beta=.nan: beta: found .nan, allowed finite numbers"),
        ("beta", "--set beta: found 'beta', allowed key=value, such as beta=0.2 or data.path=pairs.jsonl" + SPACES),
        ("=1", "--set =1: found '=1', allowed key=value, such as beta=0.2 or data.path=pairs.jsonl" + SPACES),
        ("../x=1", "--set ../x=1: found '../x=1', allowed key=value, such as beta=0.2 or data.path=pairs.jsonl" + SPACES),
        ("track=[wandbb]", "--set track=[wandbb]: track[0]: found 'wandbb', allowed tensorboard or wandb, did you mean wandb?"),
        ("seeds=0", "--set seeds=0: sweep.seeds: found 0, allowed numbers > 0 or a list"),
        ("arms.a.threads=2", "--set arms.a.threads=2: arms.a.threads: found an unknown arm, allowed none"),
        ("trainer=dqo", f"--set trainer=dqo: trainer: found 'dqo', allowed {', '.join(trainer_names())}, did you mean dpo?"),
        ("evaluate_every=3", "--set evaluate_every=3: evaluate_every: found an unknown key, allowed the 38 names that `workbench explain dpo` lists, did you mean evaluate.every?"),
    ],
)  # fmt: skip
def test_a_broken_override_prints_one_line(folder: Path, override: str, line: str) -> None:
    assert problems(folder, DPO, override) == (line,)


def test_a_key_overridden_twice_is_refused(folder: Path) -> None:
    assert problems(folder, DPO, "beta=1", "hyperparameters.beta=2") == (
        "--set hyperparameters.beta=2: beta: found a second time, allowed once",
    )


def test_a_start_with_several_seeds_must_be_told_apart(folder: Path) -> None:
    (folder / "sft.yaml").write_text(SFT + "sweep: {seeds: 3}\n")
    (problem,) = problems(folder, DPO)
    assert problem == (
        "experiments/x.yaml:3: start_from: found sft, which has 3 seeds, allowed one of them, written as "
        "start_from: {experiment: sft, seed: match}, or seed: one of 0, 1, 2"
    )
    matched = load(folder, DPO.replace("sft", "{experiment: sft, seed: match}") + "sweep: {seeds: 2}\n")
    assert [run.start for run in matched.runs] == ["sft/main/seed0", "sft/main/seed1"]
    fixed = load(folder, DPO.replace("sft", "{experiment: sft, seed: 2}") + "sweep: {seeds: 2}\n")
    assert [run.start for run in fixed.runs] == ["sft/main/seed2", "sft/main/seed2"]


def test_a_start_with_several_variants_must_be_told_apart(folder: Path) -> None:
    (folder / "sft.yaml").write_text(SFT + "sweep: {grid: {steps: [5, 6]}}\n")
    (problem,) = problems(folder, DPO)
    assert problem.endswith(
        "found sft, which has 2 variants, allowed one of them, written as "
        "start_from: {experiment: sft, variant: steps=5}; variants: steps=5 | steps=6"
    )
    (run,) = load(folder, DPO.replace("sft", "{experiment: sft, variant: steps=6}")).runs
    assert run.start == "sft/steps=6/seed0"


def test_ancestors_are_every_start_in_the_order_they_must_be_made(folder: Path) -> None:
    (folder / "again.yaml").write_text(SFT.replace("model: {preset: tiny}", "start_from: sft"))
    experiment = load(folder, DPO.replace("sft", "again") + "sweep: {seeds: 3}\n")
    assert list(experiment.ancestors) == ["sft/main/seed0", "again/main/seed0"]
    assert experiment.ancestors["again/main/seed0"].start == "sft/main/seed0"


def test_an_arm_may_have_its_own_start(folder: Path) -> None:
    (folder / "other.yaml").write_text(SFT)
    experiment = load(folder, DPO + "arms: {a: {}, b: {start_from: other}}\n")
    assert [run.start for run in experiment.runs] == ["sft/main/seed0", "other/main/seed0"]
    assert set(experiment.ancestors) == {"sft/main/seed0", "other/main/seed0"}


def test_the_definition_of_a_run_names_no_machine(folder: Path) -> None:
    text = json.dumps([run.to_definition() for run in load(folder, SWEEP).runs])
    assert str(folder) not in text


def test_runs_that_pairs_are_collected_from_are_made_first_too(folder: Path) -> None:
    (folder / "other.yaml").write_text(SFT)
    experiment = load(folder, DPO.replace("pairs: 10", "pairs: 10, from: [start, other]"))
    assert experiment.runs[0].sources == ("start", "other/main/seed0")
    assert list(experiment.ancestors) == ["sft/main/seed0", "other/main/seed0"]


def test_an_unknown_run_to_collect_from_is_named(folder: Path) -> None:
    (problem,) = problems(folder, DPO.replace("pairs: 10", "pairs: 10, from: [start, sftt]"))
    assert problem == "experiments/x.yaml:4: data.collect.from[1]: found 'sftt', allowed sft, x, did you mean sft?"


def test_a_bare_section_may_be_overridden_as_a_whole(folder: Path) -> None:
    (run,) = load(folder, DPO + "lora: {rank: 4}\n", "lora=null").runs
    assert run.lora is None
    assert problems(folder, DPO, "data=5") == ("--set data=5: data: found 5, allowed a mapping",)
    assert problems(folder, DPO, "threads=0") == ("--set threads=0: threads: found 0, allowed numbers >= 1",)


def test_of_steps_and_epochs_the_one_said_last_counts(folder: Path) -> None:
    by_epochs = SFT.replace("steps: 10", "epochs: 2")
    for text, overrides, lengths in (
        (SFT, ("epochs=2",), [(None, 2.0)]),
        (SFT, ("epochs=2", "steps=null"), [(None, 2.0)]),
        (by_epochs, ("steps=4",), [(4, 1.0)]),
        (by_epochs, ("steps=4", "epochs=null"), [(4, 1.0)]),
        (SFT + "arms: {a: {hyperparameters: {epochs: 3}}}\n", (), [(None, 3.0)]),
        (SFT + "arms: {a: {hyperparameters: {epochs: 3}}}\n", ("steps=4",), [(4, 1.0)]),
        (SFT + "sweep: {grid: {epochs: [2, 3]}}\n", (), [(None, 2.0), (None, 3.0)]),
        (by_epochs + "sweep: {grid: {steps: [4, 5]}}\n", (), [(4, 1.0), (5, 1.0)]),
    ):
        found = [(run.hyperparameters.steps, run.hyperparameters.epochs) for run in load(folder, text, *overrides).runs]
        assert found == lengths


def test_steps_and_epochs_said_in_one_place_are_refused(folder: Path) -> None:
    both = "steps and epochs are both given: write one"
    file, place = SFT.replace("steps: 10", "steps: 10, epochs: 2"), "experiments/x.yaml:5: hyperparameters.epochs"
    assert problems(folder, file) == (f"{place}: {both}; steps: null beside epochs takes steps away",)
    assert problems(folder, SFT, "epochs=2", "steps=4")[0].endswith(both)
    axes = SFT + "sweep: {grid: {epochs: [1, 2], steps: [3, 4]}}\n"
    assert all(both in line for line in problems(folder, axes))
    assert all(both in line for line in problems(folder, SFT + "sweep: {grid: {epochs: [1, 2]}}\n", "steps=4"))


def test_an_empty_mapping_empties_one_of_free_keys_and_is_refused_where_it_would_change_nothing(folder: Path) -> None:
    data = "{path: a.jsonl, columns: {prompt: question, completion: answer}}"
    text = SFT.replace("{task: sort, rows: 128}", data) + "lora: {rank: 8}\nsweep: {grid: {steps: [5, 6]}}\n"
    run, *others = load(folder, text, "data.columns={}", "sweep.grid={}").runs
    assert (run.to_definition()["data"]["columns"], run.variant, others) == ({}, "main", [])
    assert load(folder, text, "data.columns={prompt: q}").runs[0].to_definition()["data"]["columns"] == {
        "prompt": "q",
        "completion": "answer",
    }
    (folder / "base.yaml").write_text(text)
    extended = load(folder, "extends: base\ndata: {columns: {}}\nsweep: {grid: {}}\n").runs
    assert [run.to_definition()["data"]["columns"] for run in extended] == [{}]
    (line,) = problems(folder, text, "lora={}")
    assert line.startswith(
        "--set lora={}: lora: found an empty mapping, which changes nothing, allowed null to take it"
    )
    lora = load(folder, SFT, "lora={}").runs[0].lora
    assert lora is not None


def test_the_fields_whose_keys_are_free_are_those_of_the_schema() -> None:
    def free(place: object, name: str = "") -> set[str]:
        if isinstance(place, list):
            return set().union(*(free(item, name) for item in place))
        if not isinstance(place, dict):
            return set()
        named = place.get("properties", {})
        own = {name} if place.get("additionalProperties") not in (None, False) else set()
        inner = [free(item, key) for key, item in named.items()]
        return own.union(*inner, *(free(item, name) for key, item in place.items() if key not in ("properties",)))

    schema = definition_schema()
    sections = {"model", "lora", "data", "hyperparameters", "evaluate", "budget", "start_from"}
    assert free(schema) - sections - set(schema["$defs"]) == set(FREE_KEYS)


def test_another_trainer_on_the_command_line_takes_its_data_from_there_in_any_order(folder: Path) -> None:
    for overrides in (("trainer=dpo", "data.path=pairs.jsonl"), ("data.path=pairs.jsonl", "trainer=dpo", "steps=3")):
        (run,) = load(folder, SFT, *overrides).runs
        assert (run.trainer, run.to_definition()["data"]["path"]) == ("dpo", "pairs.jsonl")
    drops = "trainer dpo drops the file's data and hyperparameters; give them, e.g."
    assert problems(folder, SFT, "trainer=dpo") == (f"--set trainer=dpo: data: {drops} data.path=pairs.jsonl",)
    (line,) = problems(folder, SFT + "arms: {a: {trainer: dpo}}\n")
    assert line == f"experiments/x.yaml:7: arms.a.data: {drops} data: {{path: pairs.jsonl}}"
