"""What the record, TensorBoard's event files and W&B's offline files say of a run, each by its own reader."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.tracking.reader import read_rows
from workbench.tracking.sinks.sink import FINAL


def recorded(run: Path) -> pd.DataFrame:
    """metrics.jsonl by step, as float32."""
    frame = pd.DataFrame(read_rows(run / "metrics.jsonl")).set_index("step")
    return frame.astype(np.float32).dropna(axis=1, how="all").sort_index(axis=1)


def in_tensorboard(run: Path) -> pd.DataFrame:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    series: dict[str, dict[int, float]] = {}
    for tag in accumulator.Tags()["scalars"]:
        events = accumulator.Scalars(tag)
        assert len({event.step for event in events}) == len(events), f"{tag}: a step comes once"
        if not tag.startswith(FINAL):
            series[tag] = {event.step: event.value for event in events}
    return as_frame(series)


def wandb_records(run: Path) -> list[dict[str, Any]]:
    """By the program that `wandb leet inspect --json` starts, without the second that its Python takes."""
    (file,) = (run / "wandb").glob("*run-*/*.wandb")
    program = Path(str(importlib.util.find_spec("wandb").origin)).with_name("bin") / "wandb-core"
    options = ["--no-observability", "--json", "--run-file", str(file), str(file.parent.parent)]
    command = [str(program), "leet", "inspect", *options]
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=without_wandb())
    return [json.loads(line) for line in done.stdout.splitlines()]


def in_wandb(run: Path) -> pd.DataFrame:
    series: dict[str, dict[int, float]] = {}
    for record in wandb_records(run):
        item = record["history"]["item"] if record["type"] == "history" else {}
        for name, value in item.items():
            if not name.startswith(("_", "completions.", "completions/train")):
                known = series.setdefault(name, {})
                assert item["_step"] not in known, f"{name}: a step comes once"
                known[item["_step"]] = value
    return as_frame(series)


def as_frame(series: dict[str, dict[int, float]]) -> pd.DataFrame:
    frame = pd.DataFrame({name: pd.Series(values) for name, values in series.items()}).astype(np.float32)
    frame.index.name = "step"
    return frame.sort_index().sort_index(axis=1)


def assert_equal(run: Path) -> None:
    record = recorded(run)
    assert len(record) > 3
    for read in (in_tensorboard, in_wandb):
        pd.testing.assert_frame_equal(read(run), record, rtol=0, atol=0, check_index_type=False)


def without_wandb() -> dict[str, str]:
    """The environment less what would steer W&B."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
