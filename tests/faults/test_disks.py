"""Disks that are full, files that may not grow, folders that are read-only or gone: one line, exit 4, nothing lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict

import pytest
import yaml

from tests.commands import Command
from tests.faults.conftest import Moments
from tests.faults.test_damage import ON, START
from tests.faults.test_stages_killed import STAGE, make
from tests.trainers import EVERY_TRAINER, outcome
from workbench.errors import StorageError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.estimate import estimate
from workbench.experiment.planning.speed import measured_speed
from workbench.experiment.stages.cache import StageCache
from workbench.models.load import load_model, save_model
from workbench.trainer import checkpoint

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
EVERY = {"steps": 6, "checkpoint_every": 1, "evaluate_every": 3, "keep_checkpoints": 1}
pytestmark = [pytest.mark.slow, pytest.mark.multi]


@pytest.fixture(scope="module", autouse=True)
def warm():
    """Loaded once, before any process is forked."""
    import peft  # noqa: F401


@pytest.fixture
def train(make_trainer):
    """train(variant, folder, at_step=(step, act)) -> the outcome of a run that resumes what is there and ends."""

    def run(variant, folder, at_step=None):
        trainer = make_trainer(variant, folder, **EVERY)
        trainer.resume()
        if at_step:
            step, act = at_step
            trainer.optimizer.register_step_post_hook(lambda *_: trainer.step + 1 == step and act())
        trainer.train()
        return outcome(trainer, folder)

    return run


def told(train, variant, folder, at_step=None):
    """What a run that a disk ends says, in a process of its own: (exit code, lines)."""
    try:
        train(variant, folder, at_step)
    except StorageError as error:
        return error.exit_code, str(error)
    return 0, ""


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fill(disk, left):
    """Ballast, so that no more than `left` bytes are free."""
    ballast = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with contextlib.suppress(OSError):  # another took the last bytes
        while (free := shutil.disk_usage(disk).free) > left:
            os.write(ballast, b"x" * min(free - left, 1 << 20))
    os.close(ballast)


def assert_whole_checkpoints(run):
    for folder in checkpoint.steps_newest_first(run / "checkpoints"):
        assert checkpoint.find_damage(folder) is None
    assert list((run / "checkpoints").glob("*.partial")) == []


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_a_disk_that_fills_costs_no_bit(variant, train, in_processes, small_disk, tmp_path, record_property):
    [whole] = in_processes(1, lambda _: train(variant, tmp_path / "whole"))
    newest = checkpoint.newest_valid(tmp_path / "whole/checkpoints")
    one, rng = size_of(newest), random.Random(variant)
    disk, ended = small_disk(64 + 8 * one // 1024), 0
    for number in range(TRIES):
        run, step, left = disk / f"run{number}", rng.randint(1, 4), rng.randrange(int(1.6 * one))

        def victim(_, run=run, step=step, left=left):
            return told(train, variant, run, (step, lambda: fill(disk, left)))

        [(code, text)] = in_processes(1, victim)
        (disk / "ballast").unlink(missing_ok=True)
        if code:
            ended += 1
            assert (code, len(text.splitlines())) == (4, 1)
            assert "No space left" in text
        assert_whole_checkpoints(run)
        [again] = in_processes(1, lambda _, run=run: train(variant, run))
        assert again == whole, f"full in step {step} with {left} bytes left"
        shutil.rmtree(run)
    assert ended or TRIES < 8, "the disks were too large to fail"
    record_property("tries", ended)


@pytest.mark.parametrize("variant", EVERY_TRAINER)
def test_a_limit_on_file_sizes_costs_no_bit(variant, train, in_processes, tmp_path, record_property):
    [whole] = in_processes(1, lambda _: train(variant, tmp_path / "whole"))
    newest = checkpoint.newest_valid(tmp_path / "whole/checkpoints")
    largest, rng = max(path.stat().st_size for path in newest.iterdir()), random.Random(variant)
    for number in range(TRIES // 2):
        run, step, limit = tmp_path / f"run{number}", rng.randint(1, 4), rng.randrange(largest)

        def victim(_, run=run, step=step, limit=limit):
            return told(train, variant, run, (step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))

        [(code, text)] = in_processes(1, victim)
        assert (code, len(text.splitlines())) == (4, 1)
        assert "File too large" in text or "No space left" in text  # a row that was cut says the latter
        assert_whole_checkpoints(run)
        [again] = in_processes(1, lambda _, run=run: train(variant, run))
        assert again == whole, f"limited to {limit} bytes in step {step}"
    record_property("tries", TRIES // 2)


def test_a_full_disk_behind_the_printed_lines_ends_no_run(train, monkeypatch, tmp_path):
    whole = train("sft", tmp_path / "whole")
    with io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True) as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert train("sft", tmp_path / "run") == whole


@pytest.mark.parametrize("variant", ["sft", "grpo"])
def test_a_disk_that_turns_read_only_costs_no_bit(variant, train, in_processes, small_disk, tmp_path):
    [whole] = in_processes(1, lambda _: train(variant, tmp_path / "whole"))
    disk = small_disk(64 + 8 * size_of(tmp_path / "whole/checkpoints") // 1024)

    def turn(how):
        # A disk that is written to refuses; `force` is what the kernel does itself when one fails.
        subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

    def victim(_):
        real, begun = checkpoint.write, []

        def turned_read_only(folder, *arguments):
            if not begun and folder.name == "step_00000003":
                begun.append(folder)
                released = [handle for handle in os.listdir("/proc/self/fd") if is_on(disk, handle)]
                for handle in released:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), int(handle))
                turn("ro")
            return real(folder, *arguments)

        checkpoint.write = turned_read_only
        return told(train, variant, disk / "run")

    [(code, text)] = in_processes(1, victim)
    turn("rw")
    assert (code, len(text.splitlines())) == (4, 1)
    assert "Read-only file system" in text
    assert_whole_checkpoints(disk / "run")
    assert in_processes(1, lambda _: train(variant, disk / "run")) == [whole]


def is_on(disk, handle):
    try:
        return os.readlink(f"/proc/self/fd/{handle}").startswith(str(disk))
    except OSError:
        return False


@pytest.mark.parametrize("variant", ["sft", "dpo", "grpo", "ppo"])
@pytest.mark.parametrize("how", ["renamed", "removed"])
@pytest.mark.parametrize("step", [2, 3])
def test_a_folder_that_vanishes_ends_the_run_and_is_not_made_anew(variant, how, step, train, in_processes, tmp_path):
    run, away = tmp_path / "run", tmp_path / "away"

    def vanish():
        run.rename(away)
        if how == "removed":
            shutil.rmtree(away)

    [(code, text)] = in_processes(1, lambda _: told(train, variant, run, (step, vanish)))
    assert (code, len(text.splitlines())) == (4, 1)
    assert not run.exists()
    if how == "removed":
        assert list(tmp_path.iterdir()) == []
        return
    away.rename(run)
    [whole] = in_processes(1, lambda _: train(variant, tmp_path / "whole"))
    assert in_processes(1, lambda _: train(variant, run)) == [whole]


@pytest.mark.parametrize("variant", ["sft", "grpo"])
def test_before_whatever_it_writes_a_folder_that_vanishes_is_not_made_anew(
    variant, train, in_processes, tmp_path, record_property
):
    def victim(run, number):
        moments = Moments(number, lambda: run.rename(run.with_name("away")))
        moments.before_writes(run)
        return told(train, variant, run), moments.seen

    [(ended, names)] = in_processes(1, lambda _: victim(tmp_path / "named", 0))
    assert ended == (0, "")
    kinds = defaultdict(list)
    # Not the last third, which a run may end without another write; not the making of the folder itself.
    for number, name in enumerate(names[: len(names) * 2 // 3], start=1):
        if name != "mkdir .":
            kinds[re.sub(r"\d+", "", name)].append(number)
    assert len(kinds) > 10
    rng = random.Random(variant)
    for index, (kind, numbers) in enumerate(kinds.items()):
        run = tmp_path / str(index) / "run"
        run.parent.mkdir()
        number = rng.choice(numbers)
        [((code, text), _)] = in_processes(1, lambda _, run=run, number=number: victim(run, number))
        assert (code, len(text.splitlines())) == (4, 1), f"before {kind}, number {number}: {text}"
        assert [path.name for path in run.parent.iterdir()] == ["away"], f"before {kind}, number {number}"
    record_property("tries", len(kinds))


@pytest.mark.parametrize("kilobytes", [4, 16, 64, 200, 540])
def test_a_model_on_a_full_disk_is_one_line_and_nothing_half_written(kilobytes, tiny_folder, small_disk, torch):
    disk = small_disk(700)
    fill(disk, kilobytes << 10)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)") as error:
        save_model(load_model(tiny_folder), disk / "model", tiny_folder)
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_stage_on_a_full_disk_is_one_line_and_nothing_half_written(small_disk, torch):
    from safetensors.torch import save_file

    def make_large(folder):
        save_file({"ids": torch.zeros(40_000)}, folder / "rows.safetensors")
        return make(folder)

    disk = small_disk(400)
    for left in (0, 8 << 10, 100 << 10, 164 << 10):
        fill(disk, left)
        with pytest.raises(StorageError, match="No space left on device"):
            StageCache(disk).get(STAGE, make_large)
        stages = disk / "stages"
        assert not stages.exists() or list(stages.iterdir()) == []
        (disk / "ballast").unlink()
    assert StageCache(disk).get(STAGE, make_large)


def rows_of(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def write_lab(folder):
    (folder / "experiments").mkdir()
    long = START | {"track": ["tensorboard", "wandb"]}
    long["hyperparameters"] = START["hyperparameters"] | {"steps": 120, "checkpoint_every": 10, "keep_checkpoints": 1}
    for name, definition in (("start", START), ("on", ON), ("long", long)):
        (folder / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(definition))
    return folder


@pytest.fixture
def lab(tmp_path):
    return write_lab(tmp_path)


@pytest.fixture(scope="module")
def whole_run(once):
    """The run `long`, where nothing happened to it."""

    def make(folder):
        code, output = Command(write_lab(folder), "run", "long").end()
        assert code == 0, output
        return folder / "runs/long/main/seed0"

    return once("long", make)


def begin_and(lab, disk, act):
    """What the command says when act() happens once ten steps are recorded: (exit code, output)."""
    process = Command(lab, "run", "long", "--runs", str(disk))
    metrics, deadline = disk / "long/main/seed0/metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 10):
        time.sleep(0.01)
    process.send(signal.SIGSTOP)
    act()
    process.send(signal.SIGCONT)
    return process.end()


@pytest.mark.parametrize("left", [0, 1_500_000])
def test_at_the_command_a_disk_that_fills_is_exit_4_and_the_same_command_ends_exact(left, lab, whole_run, small_disk):
    disk = small_disk(24_000)
    code, output = begin_and(lab, disk, lambda: fill(disk, left))
    assert code == 4, output
    assert "Traceback" not in output
    assert len([line for line in output.splitlines() if "main/seed0: failed" in line]) == 1, output
    run = disk / "long/main/seed0"
    assert_whole_checkpoints(run)
    assert "Traceback" not in (run / "log.txt").read_text()
    (disk / "ballast").unlink()
    if left:
        assert json.loads((run / "status.json").read_text())["state"] == "failed"
    code, output = Command(lab, "run", "long", "--runs", str(disk)).end()
    assert code == 0, output
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert rows_of(run / name) == rows_of(whole_run / name)
    weights = [path / "model/model.safetensors" for path in (run, whole_run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_cannot_fit_is_refused_before_any_folder_is_made(lab, small_disk):
    disk = small_disk(3_000)
    code, output = Command(lab, "run", "long", "--runs", str(disk)).end()
    assert (code, len(output.strip().splitlines())) == (4, 1), output
    assert re.search(r"about [\d.]+ MB are needed for 1 run, 3\.\d+ MB are free; free some space, choose RUNS=", output)
    assert list(disk.iterdir()) == []


def test_what_is_estimated_is_within_twice_of_what_is_written(whole_run):
    runs = whole_run.parents[2]
    specs = {run.key: run for run in load_experiment("long", folder=runs.parent / "experiments").runs}
    [(key, spec)] = specs.items()
    found = estimate(spec, specs, runs, measured_speed(runs, spec)).disk_bytes
    written = size_of(runs / key)
    assert written / 2 < found < 2 * written, (found, written)


def test_at_the_command_a_run_folder_that_vanishes_is_exit_4_and_not_made_anew(lab, small_disk):
    disk = small_disk(24_000)
    run = disk / "long/main/seed0"
    code, output = begin_and(lab, disk, lambda: run.rename(disk / "away"))
    assert code == 4, output
    assert "Traceback" not in output
    assert not run.exists()


def test_reports_and_tables_on_a_full_disk_are_one_line_and_nothing_half_written(lab, small_disk):
    disk = small_disk(24_000)
    code, output = Command(lab, "run", "start", "--runs", str(disk)).end()
    assert code == 0, output
    report = disk / "start/report"
    before = {path: path.read_bytes() for path in report.rglob("*") if path.is_file()}
    fill(disk, 0)
    for arguments in (
        ("report", "start"),
        ("compare", "start"),
        ("export", "start", "--out", str(disk / "out")),
        ("export", "start", "--out", str(disk / "out"), "--format", "parquet"),
    ):
        code, output = Command(lab, *arguments, "--runs", str(disk)).end()
        lines = [line for line in output.strip().splitlines() if not line.endswith(" ...")]  # told where it is slow
        assert (code, len(lines)) == (4, 1), output
        assert "No space left" in output
    assert {path: path.read_bytes() for path in report.rglob("*") if path.is_file()} == before
    assert list(disk.glob("out/*")) == []
