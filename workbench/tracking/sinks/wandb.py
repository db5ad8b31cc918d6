"""A run as one W&B run: online where there is a key and a server, offline otherwise, to be sent later."""

from __future__ import annotations

import contextlib
import hashlib
import netrc
import os
import shutil
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.redaction import redact
from workbench.tracking.names import MAJORITY_AT, PAIR_ACCURACY, PAIR_MARGIN, PASS_AT
from workbench.tracking.reader import ROLLOUTS, RunRecord, find_runs, is_held_out
from workbench.tracking.sinks.replay import is_complete
from workbench.tracking.sinks.rollouts import split_off
from workbench.tracking.sinks.sink import (
    FinalValues,
    RestartTracker,
    Row,
    Sink,
    created_seconds,
    log_line,
    rewards_of,
    verdict,
)
from workbench.tracking.sinks.wandb_file import wait_for_end

PROJECT = "workbench"
INIT_TIMEOUT_SECONDS = 6.0
FINISH_TIMEOUT_SECONDS = 10.0
MAX_NAME = 128
"""Characters of a run's and of a group's name that W&B's server takes."""
ROWS_PER_SPLIT = 64
"""Completions of each split in the table of an evaluation: the same prompts every time."""
LARGER_IS_BETTER = ("eval/exact_match_*", f"{PASS_AT}*", f"{MAJORITY_AT}*", PAIR_ACCURACY, PAIR_MARGIN, "eval/reward*")
_COLUMNS = ("step", "split", "prompt_id", "sample_index", "prompt", "completion", "verdict", "num_tokens", "ended")
_OURS = ("RUN_ID", "NAME", "NOTES", "RUN_GROUP", "JOB_TYPE", "TAGS", "RESUME", "DIR", "RUN_DIR", "SERVICE", "SWEEP_ID")
"""WANDB_ variables that would name every run alike; what they say is the run folder's to say."""


class WandbSink(Sink):
    """<run>/wandb/. The id is that of the run's key, so that a rebuild takes the former run's place.

    Changes the process's environment (WANDB_*), as W&B takes part of its settings from nowhere else.
    """

    def __init__(self, run: RunRecord) -> None:
        self.folder = run.folder / "wandb"
        self._started = created_seconds(run)
        self._run_folder = run.folder
        self._make_place()
        for name in _OURS:
            os.environ.pop(f"WANDB_{name}", None)
        os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        self._final = FinalValues()
        self._run = self._open(run)
        for cost in ("cost/trained_tokens", "cost/generated_tokens", "cost/flops", "time/seconds"):
            self._run.define_metric(cost, summary="last")
        for name in LARGER_IS_BETTER:
            self._run.define_metric(name, summary="max,last")

    def write(self, row: Row, completions: Sequence[Row]) -> None:
        import wandb

        self._final.see(row)
        values: dict[str, Any] = {name: value for name, value in row.items() if name != "step" and value is not None}
        if isinstance(row.get("time/seconds"), int | float):
            # The run's clock, not the replay's.
            values["_timestamp"] = self._started + row["time/seconds"]
        if completions:
            # Tables are staged below this folder: by default it is the home directory.
            os.environ["WANDB_DATA_DIR"] = str(self.folder)
            for name, shown in zip(
                ("completions", f"completions/{ROLLOUTS}"), split_off(list(completions)), strict=True
            ):
                if shown:
                    columns, rows = completion_table(shown)
                    values[name] = wandb.Table(columns=columns, data=rows)
        self._run.log(values, step=row["step"])

    def flush(self) -> None:
        """Does nothing: W&B sends by itself."""

    def finish(self, status: Row) -> None:
        finished = status.get("state") == "finished"
        if finished:
            self._run.summary.update(self._final.of(status)[1])
        folder = Path(self._run.settings.sync_dir)
        self._run.finish(exit_code=0 if finished else int(status.get("exit_code") or 1))
        # This process ends without waiting for W&B's service, which may still hold the last rows.
        if not wait_for_end(folder, FINISH_TIMEOUT_SECONDS):
            raise TimeoutError(f"{folder.name} had not been written to its end after {FINISH_TIMEOUT_SECONDS:g} s")

    def abandon(self) -> None:
        with contextlib.suppress(Exception):  # the run that takes its place has the same id
            self._run.finish(exit_code=1)

    def _make_place(self) -> None:
        """An empty <run>/wandb. Raises OSError when it cannot be written: W&B would go to the system's temporary
        folder."""
        self.folder.mkdir(exist_ok=True)
        probe = self.folder / ".writable"
        probe.touch()
        probe.unlink()
        for former in [*self.folder.glob(f"*run-*-{run_id(self._run_folder)}"), self.folder / "artifacts"]:
            if former.is_dir():
                shutil.rmtree(former)

    def _open(self, run: RunRecord) -> Any:
        """The W&B run. Once the server does not answer, this command's runs are all kept offline."""
        os.environ["WANDB_MODE"] = os.environ.get("WANDB_MODE") or ("online" if has_credentials() else "offline")
        try:
            return _init(run)
        except Exception as error:
            if os.environ["WANDB_MODE"] != "online":
                raise
            os.environ["WANDB_MODE"] = "offline"
            log_line(run.folder, f"wandb kept offline, `make sync` sends it: {type(error).__name__}: {error}")
            # W&B's service goes on trying to open the run, and refuses its id to another.
            raise RestartTracker from error


def _init(run: RunRecord) -> Any:
    import wandb

    definition = redact(run.definition)
    experiment, variant, seed = run.folder.resolve().parts[-3:]
    tags = [experiment, definition.get("arm"), definition.get("trainer"), seed]
    settings = wandb.Settings(
        silent=True,
        quiet=True,
        console="off",
        disable_git=True,
        disable_code=True,
        save_code=False,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="workbench",
        symlink=False,
        use_dot_wandb=False,
        init_timeout=INIT_TIMEOUT_SECONDS,
        login_timeout=INIT_TIMEOUT_SECONDS,
        finish_timeout=FINISH_TIMEOUT_SECONDS,
        finish_timeout_raises=True,
        x_transaction_log_flush_interval=2.0,
    )
    return wandb.init(
        dir=str(run.folder),
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=run_id(run.folder),
        name=_within_limit(f"{experiment}/{variant}/{seed}"),
        group=_within_limit(f"{experiment}/{variant}"),
        job_type=definition.get("trainer"),
        tags=list(dict.fromkeys(str(tag)[:64] for tag in tags if tag)),
        config=definition,
        mode=os.environ["WANDB_MODE"],  # type: ignore[arg-type]
        reinit="create_new",
        settings=settings,
    )


def _within_limit(name: str) -> str:
    """A name that the server takes; one that had to be cut ends in its hash."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def run_id(folder: Path) -> str:
    """The id of a run folder's key, experiment/variant/seedK."""
    key = "/".join(folder.resolve().parts[-3:])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def has_credentials() -> bool:
    """Whether there is a key, in the environment or in netrc for the server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC") or os.path.expanduser("~/.netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def completion_table(completions: Sequence[Row]) -> tuple[list[Any], list[Any]]:
    """Columns and rows: the first completions of each split, one column a reward, and a rollout's total and advantage.

    A verdict is an evaluation's; training has rewards instead.
    """
    rewards = sorted({name for completion in completions for name in rewards_of(completion)})
    training = any(not is_held_out(completion) for completion in completions)
    names = [*(name for name in _COLUMNS if name != "verdict" or not training), *(("reward", "advantage") * training)]
    counts: dict[Any, int] = {}
    rows: list[Any] = []
    for completion in completions:
        split = completion.get("split")
        counts[split] = counts.get(split, 0) + 1
        if counts[split] <= ROWS_PER_SPLIT:
            shown = {**completion, "verdict": verdict(completion)}
            found = rewards_of(completion)
            rows.append([*(shown.get(name) for name in names), *(found.get(name) for name in rewards)])
    return [*names, *(f"reward/{name}" for name in rewards)], rows


def unsent(root: Path) -> list[Path]:
    """W&B folders below a runs folder that `wandb sync` has yet to send: offline, or cut short while online."""
    folders = []
    for run in find_runs(root):
        for folder in sorted((run / "wandb").glob(f"*run-*-{run_id(run)}")):
            offline = folder.name.startswith("offline-")
            if not any(folder.glob("*.synced")) and (offline or not is_complete(run, "wandb")):
                folders.append(folder)
    return folders
