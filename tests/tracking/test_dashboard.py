"""`workbench dashboard`: this machine alone reaches it, and what it cannot do it says in one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.tracking.dashboard import HOST, free_port, in_words, refuse_busy
from workbench.tracking.reader import read_run
from workbench.tracking.sinks.tensorboard import TensorBoardSink

ROOT = Path(__file__).parents[2]


def a_run(runs: Path, seed: int, *, tracked: bool = True) -> Path:
    folder = runs / "sort" / "main" / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "definition.yaml").write_text("{experiment: sort, trainer: sft, hyperparameters: {steps: 2}}\n")
    if tracked:
        sink = TensorBoardSink(read_run(folder))
        sink.write({"step": 1, "loss": 2.0}, [])
        sink.finish({"state": "finished"})
    return folder


def dashboard(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", "dashboard", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_says_its_address_and_shows_the_runs(tmp_path: Path) -> None:
    a_run(tmp_path, 0)
    port = free_port()
    process = dashboard("--runs", str(tmp_path), "--port", str(port))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://{HOST}:{port}/  1 run below {tmp_path}\n"
        tags: dict[str, object] = {}
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://{HOST}:{port}/data/plugin/scalars/tags") as answer:
                    tags = json.loads(answer.read())
            except OSError:
                pass
            if tags:
                break
            time.sleep(0.1)
        assert list(tags) == ["sort/main/seed0/tensorboard"]
        assert listening_at(port) == {HOST}
    finally:
        process.terminate()
        process.communicate(timeout=30)


def listening_at(port: int) -> set[str]:
    """IPv4 addresses, and the word ipv6, at which some process listens (proc(5): state 0A)."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, number = address.split(":")
            if state == "0A" and int(number, 16) == port:
                found.add("ipv6" if name == "tcp6" else socket.inet_ntoa(bytes.fromhex(host)[::-1]))
    return found


def test_a_busy_port_is_one_line_with_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        process = dashboard("--runs", str(tmp_path), "--port", str(port))
        _, message = process.communicate(timeout=60)
    assert process.returncode == WorkbenchError.exit_code
    (line,) = message.splitlines()
    assert line.startswith(f"port {port}: Address already in use")
    assert "PORT=" in line
    refuse_busy(int(line.split("PORT=")[1].split("`")[0]))


@pytest.mark.parametrize("arguments", [("--port", "70000"), ("--runs", __file__)])
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...]) -> None:
    process = dashboard(*arguments)
    _, message = process.communicate(timeout=60)
    assert process.returncode == WorkbenchError.exit_code
    assert len(message.splitlines()) == 1
    assert "allowed" in message


def test_it_says_what_there_is_to_see(tmp_path: Path) -> None:
    assert "no runs below" in in_words(tmp_path / "none")
    a_run(tmp_path, 0)
    assert in_words(tmp_path) == f"1 run below {tmp_path}"
    a_run(tmp_path, 1, tracked=False)
    without = f"1 of 2 runs below {tmp_path} have no event files"
    assert in_words(tmp_path) == f"{without}; 1 do not: `track: [tensorboard]` in a definition asks for them"


def test_whoever_asked_for_event_files_is_told_how_to_get_them_and_whoever_did_not_how_to_ask(tmp_path: Path) -> None:
    for seed, track in enumerate(("[tensorboard]", "[wandb, tensorboard]", "[wandb]", "[]")):
        file = a_run(tmp_path, seed, tracked=False) / "definition.yaml"
        file.write_text(file.read_text().replace("{experiment", f"{{track: {track}, experiment"))
    (tmp_path / "sort").rename(tmp_path / "sort+beta=0.2")
    assert in_words(tmp_path) == (
        f"4 of 4 runs below {tmp_path} have no event files; "
        "2 of them ask for them: `make exp NAME=sort+beta=0.2` writes what is missing; "
        "2 do not: `track: [tensorboard]` in a definition asks for them"
    )
