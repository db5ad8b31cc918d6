"""What W&B's own reader finds in its files. W&B runs in the trackers' process, as in earnest."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.frames import wandb_records
from workbench.tracking.sinks.follow import Followers, replay
from workbench.tracking.sinks.replay import is_complete, needs_replay
from workbench.tracking.sinks.wandb import completion_table, has_credentials, run_id, unsent

Row = dict[str, Any]
FAKE_KEY = "c4a4a57e" * 5


def _history(records: list[Row]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for item in (record["history"]["item"] for record in records if record["type"] == "history"):
        for name, value in item.items():
            if not name.startswith(("_", "completions.", "completions/train.")):
                series = found.setdefault(name, {})
                assert item["_step"] not in series, "a step comes once"
                series[item["_step"]] = value
    return found


def test_offline_files_hold_the_record(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run().train(20).end()
    assert replay([run.folder], 60.0) == ()
    records = wandb_records(run.folder)
    assert _history(records) == run.series(exact=True)
    described = next(record["run"] for record in records if record["type"] == "run")
    assert described["project"] == "workbench"
    assert described["run_id"] == run_id(run.folder)
    assert described["display_name"] == run.key
    assert described["run_group"] == "dpo_beta/beta=0.1"
    assert described["job_type"] == "dpo"
    assert described["tags"] == ["dpo_beta", "dpo", "seed0"]
    assert described["config"]["update"]["hyperparameters"]["betas"] == [0.9, 0.95]
    summary: Row = {}
    for record in records:
        summary |= record.get("summary", {}).get("update", {})
    best = max(run.series(exact=True)["eval/exact_match_sampled"].values())
    assert summary["eval/exact_match_sampled"]["max"] == best
    assert summary["eval/kl_start"] == 0.1
    assert len(list((run.folder / "wandb").rglob("media/table/*.json"))) == 5, "a table at each evaluation"
    assert unsent(tmp_path / "runs") == list((run.folder / "wandb").glob("offline-run-*"))
    assert not needs_replay(run.folder)


def test_a_resume_that_cut_rows_leaves_each_step_once(make_run: Callable[..., Any]) -> None:
    run = make_run().train(17)
    followers = Followers(poll_seconds=0.1)
    followers.start([run.folder])
    _wait_for(lambda: list((run.folder / "wandb").glob("*run-*/*.wandb")))
    run.cut(10).train(20).end()
    assert followers.finish(60.0) == ()
    assert _history(wandb_records(run.folder)) == run.series(exact=True)


@pytest.mark.slow
def test_rollouts_have_a_table_of_their_own_at_each_shown_step_of_a_resumed_run(make_run: Callable[..., Any]) -> None:
    run = make_run().train_online(9).end("interrupted")
    replay([run.folder], 60.0)
    run.cut(7).train_online(12).end()
    replay([run.folder], 60.0)
    records = wandb_records(run.folder)
    assert _history(records) == run.series(exact=True)
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    sizes = {item["_step"]: item["completions/train.nrows"] for item in items if "completions/train.nrows" in item}
    assert sizes == dict.fromkeys(range(1, 13), 16)
    assert [item["_step"] for item in items if "completions.nrows" in item] == [0, 5, 10]


@pytest.mark.slow
def test_a_rebuild_takes_the_former_runs_place(make_run: Callable[..., Any]) -> None:
    run = make_run().train(5).end("interrupted")
    replay([run.folder], 60.0)
    run.train(10).end()
    assert needs_replay(run.folder)
    replay([run.folder], 60.0)
    assert _history(wandb_records(run.folder)) == run.series(exact=True)
    assert not needs_replay(run.folder)


def test_no_secret_reaches_a_trackers_files(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = {
        "WANDB_API_KEY": FAKE_KEY,
        "OTHER_TOKEN": "canary-5f1d9c",
        "HTTPS_PROXY": "http://u:pr0xy-pw@127.0.0.1:9",
    }
    for name, value in canaries.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = make_run(question="why canary-5f1d9c?", data={"url": "https://x:url-pw@y/z"}).train(5).end()
    replay([run.folder], 60.0)
    assert is_complete(run.folder, "wandb")
    assert is_complete(run.folder, "tensorboard")
    files = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "definition.yaml"]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        data = path.read_bytes()
        for secret in (FAKE_KEY, "canary-5f1d9c", "pr0xy-pw", "url-pw", socket.gethostname()):
            if len(secret) > 5:
                assert secret.encode() not in data, path


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "never answers"])
def test_an_unreachable_server_leaves_an_offline_run(
    make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, silent_server: str, silent: bool
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server if silent else "http://127.0.0.1:9")
    runs = [make_run(seed=seed).train(10).end() for seed in (0, 1)]
    started = time.monotonic()
    followers = Followers(poll_seconds=0.1)
    followers.start([run.folder for run in runs])
    killed = followers.finish(15.0)
    assert time.monotonic() - started < 16.0
    assert killed == ()
    for run in runs:
        assert is_complete(run.folder, "tensorboard")
        assert _history(wandb_records(run.folder)) == run.series(exact=True)
        assert not any(FAKE_KEY.encode() in path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    assert "wandb kept offline" in runs[0].log()


def test_a_place_that_cannot_be_written_drops_wandb_alone(make_run: Callable[..., Any]) -> None:
    run = make_run()
    (run.folder / "wandb").write_text("a file where the folder should be")
    other = make_run(seed=1).train(5).end()
    run.train(5).end()
    assert replay([run.folder, other.folder], 60.0) == ()
    assert "wandb dropped after 0 rows: FileExistsError" in run.log()
    assert is_complete(run.folder, "tensorboard")
    assert not needs_replay(other.folder)
    assert needs_replay(run.folder)


def test_a_key_in_netrc_counts_for_its_server_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_credentials()
    path = tmp_path / "netrc"
    path.write_text(f"machine api.wandb.ai login user password {FAKE_KEY}\n")
    path.chmod(0o600)
    monkeypatch.setenv("NETRC", str(path))
    assert has_credentials()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert not has_credentials()


def test_a_table_has_a_column_for_each_reward() -> None:
    rows: list[Row] = [{"step": 5, "split": "greedy", "prompt": "p", "completion": "c", "rewards": {"sort": 1.0}}]
    rows.append({"step": 5, "split": "greedy", "exact_match": 0.0, "rewards": {"length": 2.0}})
    columns, data = completion_table(rows)
    assert columns[-2:] == ["reward/length", "reward/sort"]
    assert [row[-2:] for row in data] == [[None, 1.0], [2.0, None]]
    assert [row[columns.index("verdict")] for row in data] == ["unknown", "wrong"]


def _wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
