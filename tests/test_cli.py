"""The command line's own manners: what it refuses, in one line, at once, with nothing written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.commands import ROOT, Command, run
from workbench import cli
from workbench.experiment.running.run_folder import RunFolder
from workbench.locks import hold
from workbench.trainer.registry import trainer_names


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "secret.yaml").write_text("question: x\n")
    (tmp_path / "experiments/link.yaml").symlink_to(tmp_path / "secret.yaml")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "", ".", "..", "x" * 300, "a\nb", "a\x00b"[:1] + "\x01", "link"]
)
def test_a_name_that_leads_out_of_the_experiments_is_refused_and_nothing_is_written(empty, name):
    before = sorted(path for path in empty.rglob("*"))
    done = run(empty, "run", name)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("command line: NAME: found ")
    assert sorted(path for path in empty.rglob("*")) == before


def test_export_of_what_was_never_run_says_what_to_do(tmp_path):
    (tmp_path / "runs").mkdir()
    done = run(ROOT, "export", "sft_sort", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    assert (done.returncode, "make exp NAME=sft_sort" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x", "/etc", "..", ""])
def test_compare_refuses_names_that_are_no_experiments(empty, name):
    done = run(empty, "compare", name)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not (empty / "runs").exists()


@pytest.mark.alone
def test_all_problems_of_a_definition_are_told_at_once_within_two_seconds(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/bad.yaml").write_text(
        "question: x\ntrainer: dop\nmodel: {preset: tiny}\ndata: {task: sort, digit: 3}\nsweep: {seeds: 0}\n"
    )
    started = time.monotonic()
    done = Command(tmp_path, "run", "bad", cold=True, errors_apart=True).completed()
    assert time.monotonic() - started < 2
    assert done.returncode == 2
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        f"experiments/bad.yaml:{n}" for n in (2, 4, 5)
    ]
    assert not (tmp_path / "runs").exists()


def test_the_schema_is_printed(empty):
    assert json.loads(run(empty, "schema").stdout)["title"] == "Definition"


def test_a_report_of_nothing_says_what_to_do():
    done = run(ROOT, "report", "sft_sort", "--runs", "no-such-folder")
    assert (done.returncode, "make exp NAME=sft_sort" in done.stderr) == (2, True)


def test_status_of_what_was_never_run_is_not_started(tmp_path):
    done = run(ROOT, "status", "dpo_beta_sweep", "--runs", str(tmp_path))
    assert done.returncode == 0
    assert {line.split(maxsplit=1)[1] for line in done.stdout.splitlines()} == {"not started"}
    assert len(done.stdout.splitlines()) == 16


def test_status_tells_a_run_that_died_in_silence_from_one_that_runs(tmp_path):
    key = "dpo_beta_sweep/beta=1/seed0"
    RunFolder(tmp_path, key).path.mkdir(parents=True)
    RunFolder(tmp_path, key).write_status(state="running")

    def told():
        lines = run(ROOT, "status", "dpo_beta_sweep", "--runs", str(tmp_path)).stdout.splitlines()
        return next(line.split()[1] for line in lines if line.startswith(key))

    with hold(tmp_path, key):
        assert told() == "running"
    assert told() == "died"


def test_plan_writes_nothing(tmp_path):
    done = run(ROOT, "plan", "dpo_beta_sweep", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert "16 of 16 runs to train" in done.stdout
    assert "128 pairs per step" in done.stdout
    assert "two variants of 3 seeds: 8.14 seed standard deviations" in done.stdout
    assert not (tmp_path / "runs").exists()


SHELL = f"{sys.executable} -m workbench.cli"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 4, "standard output: cannot be written: No space left on device\n"),
        (">/dev/full 2>/dev/full", 4, ""),
        ("| head -c 1 >/dev/null", 0, ""),
        ("| true", 0, ""),
    ],
)
@pytest.mark.parametrize("command", ["schema", "explain sft_sort"])
def test_streams_that_are_closed_full_or_left_give_a_line_and_a_code(command, end, code, said):
    done = shell(f"{SHELL} {command} {end}")
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("end", [">&- 2>&-", "2>/dev/full", "2>&-"])
def test_what_is_wrong_keeps_its_code_where_nobody_hears_it(end):
    assert shell(f"{SHELL} plan no_such_experiment {end}").returncode == 2


def test_letters_that_a_terminal_lacks_are_written_out(empty):
    (empty / "experiments/a.yaml").write_text(
        "question: Wie groß ist β \U0001f600?\ntrainer: sft\nmodel: {preset: tiny}\ndata: {task: sort}\n"
    )
    for settings in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = shell(f"cd {empty} && {SHELL} explain a", **settings)
        assert (done.returncode, done.stderr) == (0, "")
        assert "gro\\xdf ist \\u03b2 \\U0001f600" in done.stdout


def test_no_text_of_a_definition_acts_on_the_terminal(empty):
    (empty / "experiments/a.yaml").write_text(
        'question: "\\e[31mred\\a \\u202eright to left \\r gone"\n'
        "trainer: sft\nmodel: {preset: tiny}\ndata: {task: sort}\n"
    )
    said = run(empty, "explain", "a").stdout
    assert "\\x1b[31mred\\x07 \\u202eright to left \\r gone" in said
    assert not set(said) & set("\x1b\x07\u202e\r")


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "sft_sort", "--jobs", "9" * 5000),
        ("plan", "sft_sort", "--jobs", "x"),
        ("plan", "sft_sort", "--runs", "x" * 10_000),
        ("plan", "sft_sort", "--runs", "~nosuchuser/runs"),
        ("plan", "sft_sort", "--set", "data.path=" + "x" * 10_000),
        ("plan", "sft_sort", "--settings", "beta='0.1"),
        ("plan", "x" * 10_000),
        ("plan",),
        ("compare",),
        ("export", "sft_sort", "--out", "x" * 10_000),
        ("sample", "x" * 10_000, "hello"),
        ("sample", "~nosuchuser/model", "hello"),
        ("sample", "sft_sort/main/seed0", "hello", "--seed", "9" * 40),
        ("no such command",),
    ],
)
def test_a_mistake_on_the_command_line_is_one_short_line(tmp_path, arguments):
    done = run(ROOT, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 600, done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("Traceback (most recent call last):\n  File x\nMemoryError: out of it"),
        ImportError("libtorch.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_is_a_line(monkeypatch, capsys, error):
    def plan(_parsed):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "plan", plan)
    assert cli.main(["plan", "sft_sort"]) == 6
    said = capsys.readouterr().err
    assert (len(said.splitlines()), said.startswith("out of memory (")) == (1, True)


def test_none_is_written_as_yaml_writes_it():
    said = run(ROOT, "explain", "sft_sort").stdout
    assert " null " in said
    assert "None" not in said


def test_the_time_of_a_status_names_its_zone(tmp_path):
    folder = RunFolder(tmp_path, "a/main/seed0")
    folder.path.mkdir(parents=True)
    folder.write_status(state="running")
    assert datetime.fromisoformat(folder.status()["updated"]).tzinfo is not None


def test_no_library_is_loaded_before_a_signal_finds_its_handler():
    code = (
        "import sys, workbench.cli; print(sorted({'pydantic', 'numpy', 'torch', 'pandas', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_explain_tells_a_trainers_settings_and_batches(capsys):
    assert cli.main(["explain", "dpo"]) == 0
    shown = capsys.readouterr().out
    assert "  beta " in shown
    assert "    prompt_attention_mask (B, P), bool, or 0 and 1: 1 at real tokens, 0 at padding" in shown


def test_explain_tells_every_method_side_by_side(capsys):
    assert cli.main(["explain", "--methods"]) == 0
    said = capsys.readouterr().out
    assert [name for name in trainer_names() if f"\n{name}: " not in f"\n{said}"] == []
    assert said.count("use it when") == len(trainer_names())
    for arguments in (["explain"], ["explain", "dpo", "--methods"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(arguments)
