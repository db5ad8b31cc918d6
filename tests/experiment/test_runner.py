"""The command line end to end: what a run leaves, what a second call does, what faults cost."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.commands import Command

pytestmark = [pytest.mark.multi, pytest.mark.slow]


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    """Rows without their clock fields."""
    lines = (run / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def test_a_sweep_leaves_every_file_that_the_design_names_and_a_second_call_trains_nothing(lab, command):
    done = command("run", "sweep", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    run = lab / "runs/sweep/beta=0.1/seed1"
    expected = {
        "definition.yaml",
        "provenance.json",
        "status.json",
        "metrics.jsonl",
        "completions.jsonl",
        "pairs.jsonl",
    }
    assert expected | {"checkpoints", "model", "tensorboard", "log.txt"} <= {path.name for path in run.iterdir()}
    assert {path.name for path in (lab / "runs/sweep/report").iterdir()} >= {"index.html", "report.md", "figures"}
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3]
    first, last = rows(run)[0], rows(run)[-1]
    assert (first["eval/pair_accuracy"], first["eval/kl_start"], first["eval/num_pairs"]) == (0.5, 0.0, 16.0)
    assert last["eval/kl_start"] > 0
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"], status["num_steps"]) == ("finished", 3, 3)
    costs = status["costs"]
    inherited = sum(costs["inherited"][stage].get("flops", 0) for stage in ("collect", "ref_logprobs"))
    assert first["cost/flops"] == pytest.approx(inherited, rel=1e-12)
    assert last["cost/flops"] == pytest.approx(inherited + costs["flops"], rel=1e-12)
    assert first["cost/generated_tokens"] == costs["inherited"]["collect"]["generated_tokens"] > 0

    def times():
        files = [path for path in (lab / "runs/sweep").rglob("*") if path.is_file() and path.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in files}

    written = times()
    again = command("run", "sweep")
    assert again.returncode == 0
    assert "4 of 4 runs finished already" in again.stderr
    assert times() == written


def test_a_runs_model_loads_in_transformers_with_the_same_logits(lab, command, torch):
    import transformers

    from workbench.models.load import load_model

    assert command("run", "start").returncode == 0
    folder = lab / "runs/start/main/seed0/model"
    ours, theirs = load_model(folder).eval(), transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(2, 20)[None]
    with torch.no_grad():
        assert (ours(ids).logits - theirs(ids).logits).abs().max() < 1e-5
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("sort 31: ").input_ids) == "sort 31: "


def test_numbers_do_not_depend_on_the_number_of_jobs(lab, command):
    for jobs, folder in (("1", "one"), ("2", "two")):
        assert command("run", "sweep", "--jobs", jobs, "--runs", folder).returncode == 0
    for run in sorted((lab / "one/sweep").glob("*/seed*")):
        other = lab / "two" / run.relative_to(lab / "one")
        assert rows(run) == rows(other)
        weights = [path / "model/model.safetensors" for path in (run, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_signal_leaves_a_checkpoint_and_the_same_command_ends_bit_identical(lab, command):
    more = ("--set", "steps=200", "evaluate.every=50")
    assert command("run", "start", "--runs", "whole", *more).returncode == 0
    process = Command(lab, "run", "start", *more)
    folder = next(iter((lab / "whole").glob("start+*"))).name
    run = lab / "runs" / folder / "main/seed0"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and len(rows(run)) > 20):
        time.sleep(0.02)
    process.send(signal.SIGINT)
    code, output = process.end(30.0)
    assert code == 130, output
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert command("run", "start", *more).returncode == 0
    whole = lab / "whole" / folder / "main/seed0"
    assert rows(run) == rows(whole)
    assert rows(run, "completions.jsonl") == rows(whole, "completions.jsonl")
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


def test_runs_whose_runner_was_killed_go_on_where_they_were(lab, command):
    more = ("--set", "steps=200")
    process = Command(lab, "run", "start", *more)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any((lab / "runs").glob("start+*/main/seed0/metrics.jsonl")):
        time.sleep(0.05)
    time.sleep(0.5)
    process.send(signal.SIGKILL)
    process.end()
    done = command("run", "start", *more)
    assert done.returncode == 0, done.stderr
    [run] = (lab / "runs").glob("start+*/main/seed0")
    assert [row["step"] for row in rows(run)] == list(range(201))


def test_of_many_starts_at_once_one_proceeds_and_the_others_name_it(lab):
    starts = [Command(lab, "run", "start", "--set", "steps=100") for _ in range(4)]
    ends = [start.end() for start in starts]
    codes = sorted(code for code, _ in ends)
    assert codes in ([0, 5, 5, 5], [0, 0, 5, 5], [0, 0, 0, 5], [0, 0, 0, 0])  # a late one finds it finished
    assert 5 in codes, "they did not run at once"
    for code, output in ends:
        assert code == 0 or re.search(r"^start\+steps=100 is already running: process \d+ on ", output), output


def test_bad_rows_are_named_and_leave_no_run_folder(lab, command, define, definitions):
    (lab / "data.jsonl").write_text('{"prompt": "a", "completion": "1"}\n{"prompt": "b"}\nnot json\n')
    define("bad", definitions["start"] | {"data": {"path": "data.jsonl"}})
    done = command("run", "bad")
    assert done.returncode == 2
    assert "data.jsonl:2: has no completion" in done.stderr
    assert "data.jsonl:3: is not JSON" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (lab / "runs/bad/main").exists()
    skipped = command("run", "bad", "--set", "data.bad_rows=skip", "batch_rows=1")
    assert skipped.returncode == 0, skipped.stderr
    [report] = (lab / "runs").glob("bad+*/report/report.md")
    assert "1 row used; 2 skipped as invalid" in report.read_text()


def test_what_begins_from_a_failed_start_is_not_run_and_the_report_shows_it(lab, command, define, definitions):
    definition = definitions["start"]
    definition["hyperparameters"] |= {"learning_rate": 1e30, "max_grad_norm": None}
    define("start", definition)
    done = command("run", "sweep")
    assert done.returncode == 6, done.stderr
    assert "start/main/seed0: failed: step" in done.stderr
    assert "not run: start/main/seed0, which it begins from, failed" in done.stderr
    assert "4 missing" in (lab / "runs/sweep/report/report.md").read_text()


def test_a_changed_definition_supersedes_the_old_run_and_what_rests_on_it(lab, command, define, definitions):
    assert command("run", "sweep", "--set", "seeds=1", "beta=0.5").returncode == 0
    definition = definitions["start"]
    definition["hyperparameters"]["learning_rate"] = 1e-3
    define("start", definition)
    done = command("run", "sweep", "--set", "seeds=1", "beta=0.5")
    assert done.returncode == 0
    assert "hyperparameters.learning_rate was 0.003, is 0.001" in done.stderr
    assert "start_from: the weights of start/main/seed0 changed" in done.stderr
    assert len(list((lab / "runs/.superseded/start/main").iterdir())) == 1


def test_a_secret_in_the_environment_or_the_definition_is_in_no_file(lab, command, define, definitions):
    canary = "canary-3f9c27d1-canary"
    definition = definitions["start"] | {"question": f"Does {canary} stay out? https://me:{canary}@host/"}
    define("secret", definition | {"track": ["tensorboard", "wandb"]})
    done = command("run", "secret", MY_API_TOKEN=canary, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    found = [p for p in (lab / "runs").rglob("*") if p.is_file() and canary.encode() in p.read_bytes()]
    assert found == []


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_4(lab, command):
    (lab / "file").write_text("")
    done = command("run", "start", "--runs", "file")
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "choose RUNS=folder" in done.stderr


def test_a_damaged_start_is_found_before_it_is_used(lab, command):
    assert command("run", "start").returncode == 0
    weights = lab / "runs/start/main/seed0/model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    done = command("run", "sweep", "--set", "seeds=1", "beta=1")
    assert done.returncode == 2
    assert "model.safetensors is damaged (checksum); FRESH=1 trains start/main/seed0 anew" in done.stderr


def test_a_definition_in_a_run_folder_describes_the_same_run(lab, command):
    from workbench.experiment.definition.resolve import load_experiment

    assert command("run", "start").returncode == 0
    written = yaml.safe_load((lab / "runs/start/main/seed0/definition.yaml").read_text())
    described = load_experiment("start", folder=lab / "experiments").runs[0].to_definition()
    assert written == json.loads(json.dumps(described))


def test_samples_come_from_the_run_that_is_named(lab, command):
    assert command("run", "start").returncode == 0
    more = ("sort 312: ", "--num", "3", "--max-new-tokens", "5")
    done = command("sample", "start", *more)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    assert done.stdout == command("sample", "start/main/seed0", *more).stdout
    wrong = command("sample", "strat", "x")
    assert (wrong.returncode, "allowed one of start/main/seed0" in wrong.stderr) == (2, True)


def test_lora_trains_adapters_from_a_model_folder_and_leaves_a_merged_one(lab, command, define, definitions):
    assert command("run", "start").returncode == 0
    shutil.copytree(lab / "runs/start/main/seed0/model", lab / "mine")
    definition = definitions["sweep"] | {"model": {"path": "mine"}, "lora": {"rank": 2}, "sweep": {"seeds": 1}}
    del definition["start_from"]
    define("lora", definition)
    done = command("run", "lora")
    assert done.returncode == 0, done.stderr
    run = lab / "runs/lora/main/seed0"
    assert (run / "model/adapter/adapter_model.safetensors").is_file()
    status = json.loads((run / "status.json").read_text())
    assert 0 < status["trained_parameters"] < 0.2 * status["num_parameters"]
    assert rows(run)[0]["eval/kl_start"] == 0.0 < rows(run)[-1]["eval/kl_start"]
