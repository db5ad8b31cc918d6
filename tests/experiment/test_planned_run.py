"""A planned run is trained by itself from its record, in one process or in several, as `make exp` would train it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.commands import Command
from tests.faults.labs import outcomes
from workbench.cli import main
from workbench.errors import DataError, RankError, WorkbenchError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.running import planned_run, train
from workbench.experiment.running.planned_run import planned_key, read_planned, write_planned
from workbench.experiment.running.prepare import Preparer
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.running.stops import SAYS, STOPPED
from workbench.locks import hold
from workbench.permissions import NOTHING
from workbench.tracking.reader import read_rows

PAIRS = [{"prompt": f"say {n}: ", "chosen": str(n % 7), "rejected": "x"} for n in range(24)]
DPO = {
    "question": "q", "trainer": "dpo", "model": {"preset": "tiny"}, "data": {"path": "pairs.jsonl"},
    "hyperparameters": {"steps": 4, "batch_pairs": 4, "precision": "float32", "checkpoint_every": 1},
    "evaluate": {"pairs": "pairs.jsonl", "every": 2},
}  # fmt: skip
RUNS = Path("runs")
KEY = "pairs/main/seed0"


class Silent:
    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


@pytest.fixture
def prepared(lab, define, monkeypatch, torch):
    """A run of pairs, ready to train, with its record in runs/ of the current folder."""
    monkeypatch.chdir(lab)
    torch.set_num_threads(1)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    define("pairs", DPO)
    found = Preparer(RUNS, Silent(), 1).prepare(load_experiment("pairs").runs[0], "float32")
    assert write_planned(found, RUNS)() == found
    return found


def test_every_run_that_is_shipped_is_read_back_as_it_was_written():
    record = TypeAdapter(RunSpec)
    for file in sorted(Path("experiments").glob("*.yaml")):
        experiment = load_experiment(file.stem)
        for spec in (*experiment.runs, *experiment.ancestors.values()):
            written = json.loads(record.dump_json(spec, by_alias=True, exclude_unset=True))
            read = record.validate_python(written)
            assert read == spec
            assert read.origins == spec.origins
            assert type(read.hyperparameters) is type(spec.hyperparameters)
            assert read.hyperparameters.model_fields_set == spec.hyperparameters.model_fields_set


def test_a_record_that_is_not_of_this_run_or_this_code_is_refused_by_name(prepared, monkeypatch):
    path = RUNS / ".planned" / f"{KEY}.json"
    with pytest.raises(DataError, match="another command has planned pairs/main/seed0 otherwise"):
        read_planned(RUNS, KEY, "0" * 16)
    whole = path.read_text()
    path.write_text(whole.replace('"batch_pairs": 4', '"batch_pairs": 8'))
    with pytest.raises(WorkbenchError, match="a damaged one; `make exp NAME=pairs` plans it anew"):
        read_planned(RUNS, KEY)
    path.write_text(whole)
    monkeypatch.setattr(planned_run, "own_hash", lambda: "another")
    with pytest.raises(DataError, match="planned by other code"):
        read_planned(RUNS, KEY)


def test_a_secret_stays_out_of_the_record_and_the_run_is_trained_by_its_command_alone(prepared, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "airs.jso")
    assert write_planned(prepared, RUNS)() is prepared
    assert "airs.jso" not in (RUNS / ".planned" / f"{KEY}.json").read_text()
    with pytest.raises(DataError, match=r"spec\.data\.path holds a secret"):
        read_planned(RUNS, KEY)


def test_a_planned_run_is_named_by_its_key_its_variant_or_its_folder_and_by_nothing_else(prepared):
    Path("runs", KEY).mkdir(parents=True)
    for named in ("pairs/main", KEY, f"runs/{KEY}", f"runs/{KEY}/", str(Path("runs", KEY).absolute())):
        assert planned_key(RUNS, named) == KEY
    for named in ("pairs", "pairs/other", "../pairs/main", "", "/", "a/b/c/d", "pairs/main/seed1", "x" * 300):
        with pytest.raises(WorkbenchError, match=r"RUN: found .*, allowed EXPERIMENT/VARIANT/seedK") as told:
            planned_key(RUNS, named)
        assert "\n" not in str(told.value)


def test_a_run_that_a_command_waited_for_and_that_was_stopped_is_not_trained_on(prepared):
    from workbench.experiment.running.run import execute

    folder, held = RunFolder(RUNS, KEY), threading.Event()
    folder.path.mkdir(parents=True)
    folder.write_status(state="running", fingerprint=prepared.identity.fingerprint)

    def other_command() -> None:
        with hold(RUNS, KEY, inside=True):
            held.set()
            time.sleep(0.5)
            folder.write_status(state=STOPPED, message=SAYS, exit_code=143)

    thread = threading.Thread(target=other_command)
    thread.start()
    held.wait()
    with pytest.raises(WorkbenchError, match=SAYS) as told:
        execute(prepared, RUNS, {})
    thread.join()
    assert (told.value.exit_code, folder.status()["state"]) == (143, STOPPED)
    execute(prepared, RUNS, {})  # nobody was waited for
    assert folder.is_finished()


def test_train_says_how_the_run_stands(prepared, monkeypatch, capsys):
    def pause(prepared, runs, provenance, permissions):
        RunFolder(runs, prepared.spec.key).path.mkdir(parents=True)
        RunFolder(runs, prepared.spec.key).write_status(state="paused")

    monkeypatch.setattr(train, "train_run", pause)
    monkeypatch.setattr(train.processes, "work_alone", lambda threads: None)
    monkeypatch.setattr(train.processes, "set_environment", lambda: None)
    assert main(["train", KEY]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{KEY} is paused"


@pytest.mark.slow
@pytest.mark.long
def test_train_makes_of_a_planned_run_what_run_makes(command, lab):
    assert command("run", "start", "--runs", "whole").returncode == 0
    assert command("train", "start/main").returncode == 2
    assert command("prepare", "start").returncode == 0
    assert not (lab / "runs/start/main").exists()
    done = command("train", "start/main")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "start/main/seed0 is finished"), done.stderr
    assert outcomes(lab / "runs") == outcomes(lab / "whole")


def train_in(rank: int) -> int:
    """Train the run as one process of a job; its exit code."""
    from workbench.experiment.running.train import train_run

    try:
        train_run(read_planned(RUNS, KEY), RUNS, {}, NOTHING)
    except WorkbenchError as error:
        return error.exit_code
    return 0


@pytest.mark.slow
@pytest.mark.multi
@pytest.mark.long
def test_two_processes_train_what_one_does_and_a_killed_one_ends_the_job_by_name(prepared, in_processes, monkeypatch):
    from workbench.trainer.base_trainer import BaseTrainer

    def metrics() -> list[dict[str, float]]:
        rows = read_rows(RUNS / KEY / "metrics.jsonl")
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]

    folder, record = RunFolder(RUNS, KEY), BaseTrainer._record
    assert in_processes(1, train_in) == [0]
    alone = metrics()
    folder.supersede()
    assert in_processes(2, train_in) == [0, 0]
    together, weights = metrics(), folder.status()["model_sha256"]
    assert folder.status()["processes"] == 2
    for one, two in zip(alone, together, strict=True):
        assert two == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in one.items()}
    folder.supersede()

    def die(self, row):
        if self.rank == 1 and self.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        record(self, row)

    monkeypatch.setattr(BaseTrainer, "_record", die)
    assert in_processes(2, train_in) == [RankError.exit_code, -signal.SIGKILL]
    status = folder.status()
    assert (status["state"], status["exit_code"]) == ("failed", 7)
    assert status["message"].startswith("rank 1 does not answer")
    monkeypatch.setattr(BaseTrainer, "_record", record)
    assert in_processes(2, train_in) == [0, 0]
    assert (metrics(), folder.status()["model_sha256"]) == (together, weights)


@pytest.mark.slow
@pytest.mark.multi
@pytest.mark.long
def test_stop_ends_a_run_with_a_checkpoint_and_the_same_command_goes_on(lab, define, definitions, command):
    start = definitions["start"]
    settings = start["hyperparameters"] | {"steps": 1000, "checkpoint_every": 0}
    define("long", start | {"hyperparameters": settings, "sweep": {"seeds": 2}})
    assert command("stop", "long").returncode == 2
    running = Command(lab, "run", "long", "--jobs", "1")
    metrics = lab / "runs/long/main/seed0/metrics.jsonl"
    while running.is_running() and len(read_rows(metrics)) < 5:
        running.sleep_until(0)
        time.sleep(0.1)
    asked = command("stop", "long")
    assert (asked.returncode, asked.stdout.split()) == (0, ["long/main/seed0:", "stops", "long/main/seed1:", "stops"])
    code, said = running.end()
    assert code == 143, said
    assert said.count("stopped by the user; the same command goes on") == 2
    states = [json.loads(line)["state"] for line in command("status", "long", "--json").stdout.splitlines()]
    assert states == ["stopped", "stopped"]
    assert "(stopped)" in command("plan", "long").stdout
    assert list((lab / "runs/long/main/seed0/checkpoints").glob("step_*"))
    assert not [path for path in (lab / "runs/.stops").rglob("*") if path.is_file()]
