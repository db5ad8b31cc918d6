"""The record, TensorBoard's event files and W&B's offline files hold the same numbers, read by each one's own reader.

Of runs that the runner trained: SFT, DPO on collected pairs, and GRPO with rollouts; whole, resumed, and rebuilt. And
the dashboards' final values are those that the report compares.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis.study import open_study
from tests.commands import Command, run
from tests.tracking.frames import assert_equal, recorded, wandb_records
from workbench.tracking.reader import ROLLOUTS, read_rows, read_run
from workbench.tracking.sinks.follow import replay
from workbench.tracking.sinks.sink import FINAL, FinalValues
from workbench.tracking.sinks.tensorboard import TEXTS_PER_SPLIT
from workbench.tracking.sinks.wandb import ROWS_PER_SPLIT
from workbench.tracking.sinks.wandb_file import holds_exit

pytestmark = [pytest.mark.slow, pytest.mark.multi]
TRACK = "track: [tensorboard, wandb]\n"
DEFINITIONS = {
    "start": "question: q\ntrainer: sft\nmodel: {preset: tiny}\ndata: {task: sort, digits: 3, rows: 64}\n"
    "hyperparameters: {steps: 8, batch_rows: 16, learning_rate: 3.0e-3, precision: float32}\n"
    "evaluate: {task: sort, digits: 3, prompts: 8, every: 3}\n",
    "pairs": "question: q\ntrainer: dpo\nstart_from: start\n"
    "data: {collect: {task: sort, digits: 3, pairs: 16, samples_per_prompt: 8, from: start, no_correct: reference}}\n"
    "hyperparameters: {steps: 6, batch_pairs: 8, learning_rate: 1.0e-3, precision: float32}\n"
    "evaluate: {task: sort, digits: 3, prompts: 8, every: 2}\n",
    "online": "question: q\ntrainer: grpo\nstart_from: start\ndata: {task: sort, digits: 3, rows: 64}\n"
    "hyperparameters: {steps: 6, batch_prompts: 4, group_size: 4, max_new_tokens: 6, learning_rate: 1.0e-3,\n"
    "  precision: float32}\nevaluate: {task: sort, digits: 3, prompts: 8, every: 2}\n",
    "stopped": "question: q\ntrainer: sft\nmodel: {preset: tiny}\ndata: {task: sort, digits: 3, rows: 64}\n"
    "hyperparameters: {steps: 40, batch_rows: 16, learning_rate: 0.3, precision: float32,\n"
    "  early_stopping: {metric: eval/loss, patience: 2}}\nevaluate: {task: sort, digits: 3, prompts: 8, every: 2}\n",
}


@pytest.fixture(scope="module")
def runs(once: Callable[..., Path]) -> Path:
    """A folder of runs that the command made, each with both trackers."""

    def make(lab: Path) -> Path:
        (lab / "experiments").mkdir()
        for name, text in DEFINITIONS.items():
            (lab / "experiments" / f"{name}.yaml").write_text(text + TRACK)
        for name in ("pairs", "online", "stopped"):
            done = run(lab, "run", name, "--jobs", "1")
            assert done.returncode == 0, done.stderr
        return lab / "runs"

    return once("tracked", make)


NAMES = ["start", "pairs", "online", "stopped"]


def run_of(runs: Path, name: str) -> Path:
    return runs / name / "main" / "seed0"


@pytest.mark.parametrize("name", NAMES)
def test_three_frames_are_equal(runs: Path, name: str) -> None:
    assert_equal(run_of(runs, name))


def test_an_online_run_has_its_rollouts_in_all_three(runs: Path) -> None:
    run = run_of(runs, "online")
    columns = set(recorded(run).columns)
    assert {"reward", "frac_reward_zero_std", "completions/mean_length", "eval/kl_start", "cost/flops"} <= columns


@pytest.mark.parametrize("name", ["start", "online"])
def test_after_a_resume_each_step_stands_once(runs: Path, name: str, tmp_path: Path) -> None:
    """As a resume leaves it: rows after the checkpoint were cut, then written again with other clocks."""
    run = tmp_path / "runs" / name / "main" / "seed0"
    shutil.copytree(run_of(runs, name), run)
    rows = read_rows(run / "metrics.jsonl")
    again = [row | {"time/seconds": row.get("time/seconds", 0.0) + 1.0} if row["step"] > 3 else row for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    assert replay([run], 60.0) == ()
    assert_equal(run)


def test_an_interrupted_run_that_went_on_is_whole(runs: Path) -> None:
    """Interrupted while both trackers follow it, gone on with by the same command in another process."""
    lab, text = runs.parent, DEFINITIONS["online"].replace("steps: 6", "steps: 40") + TRACK
    (lab / "experiments/longer.yaml").write_text(text)
    folder, deadline = run_of(runs, "longer"), time.monotonic() + 120
    process = Command(lab, "run", "longer", "--jobs", "1")
    while time.monotonic() < deadline and process.is_running() and len(read_rows(folder / "metrics.jsonl")) < 6:
        time.sleep(0.01)
    process.send(signal.SIGTERM)
    code, output = process.end()
    assert code == 128 + signal.SIGTERM, output
    before = read_rows(folder / "metrics.jsonl")
    code, output = Command(lab, "run", "longer", "--jobs", "1").end()
    assert code == 0, output
    after = read_rows(folder / "metrics.jsonl")
    assert 6 <= len(before) < len(after)
    assert after[: len(before)] == before, "it went on, it did not begin again"
    steps = [row["step"] for row in after if "loss" in row]
    assert steps == list(range(1, 41))
    assert_equal(folder)


def test_a_rebuild_is_the_same(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "pairs" / "main" / "seed0"
    shutil.copytree(run_of(runs, "pairs"), run)
    for kind in ("tensorboard", "wandb"):
        shutil.rmtree(run / kind)
    assert replay([run], 60.0) == ()
    assert_equal(run)


def by_split_and_step(run: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in read_rows(run / "completions.jsonl"):
        found.setdefault((row["split"], row["step"]), []).append(row)
    return found


def in_plain(cell: str) -> str:
    """A Markdown cell's text, but for blanks around it."""
    return html.unescape(cell.replace("<br>", "\n")).replace("\u00a0", " ").strip()


@pytest.mark.parametrize("name", ["start", "online"])
def test_texts_are_the_recorded_completions(runs: Path, name: str) -> None:
    """TensorBoard's fenced texts and cells, taken apart again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_of(runs, name)
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0})
    accumulator.Reload()
    recorded, shown = by_split_and_step(run), set()
    for tag in accumulator.Tags()["tensors"]:
        if not tag.startswith("completions/"):
            continue
        split = tag.removeprefix("completions/")
        for event in accumulator.Tensors(tag):
            (text,) = (value.decode() for value in event.tensor_proto.string_val)
            rows = recorded[split, event.step]
            shown.add((split, event.step))
            if split == ROLLOUTS:
                cells = [[in_plain(cell) for cell in line.split(" | ")] for line in text.splitlines()[2:]]
                assert [cells_of_row[1] for cells_of_row in cells] == [
                    row["completion"].strip() or "(empty)" for row in rows
                ]
                assert [float(cells_of_row[2]) for cells_of_row in cells] == [row["reward"] for row in rows]
            else:
                first = [row for row in rows if not row.get("sample_index")][:TEXTS_PER_SPLIT]
                found = re.findall(r"^~~~\n(.*?)\n~~~$", text, re.MULTILINE | re.DOTALL)
                assert found == [f"{row['prompt']}{row['completion']}" for row in first]
    assert shown == recorded.keys()


@pytest.mark.parametrize("name", ["start", "online"])
def test_tables_are_the_recorded_completions(runs: Path, name: str) -> None:
    run = run_of(runs, name)
    found: dict[tuple[str, int], list[list[Any]]] = {}
    columns = ["split", "step", "prompt_id", "sample_index", "prompt", "completion", "num_tokens", "ended"]
    for path in (run / "wandb").glob("*run-*/files/media/table/**/*.table.json"):
        table = pd.DataFrame(**{key: value for key, value in json.loads(path.read_text()).items() if key != "ncols"})
        for values in table[columns].to_dict("split")["data"]:
            found.setdefault((values[0], values[1]), []).append(values[2:])
    wanted = {
        key: [[row[column] for column in columns[2:]] for row in rows[:ROWS_PER_SPLIT]]
        for key, rows in by_split_and_step(run).items()
    }
    assert len(wanted) >= 4
    assert found == wanted


@pytest.fixture
def finals(runs: Path) -> dict[str, dict[str, float]]:
    """The report's final values by run, of those that a dashboard has."""
    found = {}
    for name in NAMES:
        row = open_study(runs / name).finals.iloc[0]
        found[name] = {
            f"{FINAL}{column.removeprefix('eval/')}": float(row[column])
            for column in row.index
            if column.startswith("eval/") and pd.notna(row[column])
        }
    return found


@pytest.mark.parametrize("name", NAMES)
def test_final_values_are_the_report_s(runs: Path, finals: dict[str, dict[str, float]], name: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, wanted = run_of(runs, name), finals[name]
    assert len(wanted) >= 3
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if tag.startswith(FINAL)]
    shown = {tag: accumulator.Scalars(tag)[-1].value for tag in tags}
    assert shown == {tag: pytest.approx(value, rel=1e-6) for tag, value in wanted.items()}
    summary: dict[str, Any] = {}
    for record in wandb_records(run):
        summary |= record.get("summary", {}).get("update", {})
    assert {key: summary[key] for key in wanted} == wanted


def test_a_run_that_went_back_to_its_best_step_shows_that_step(runs: Path, finals: dict[str, dict[str, float]]) -> None:
    run = run_of(runs, "stopped")
    status = read_run(run).status
    assert status["restored"] is True
    assert status["best_step"] < status["step"]
    last = [row for row in read_rows(run / "metrics.jsonl") if "eval/loss" in row][-1]
    assert finals["stopped"][f"{FINAL}loss"] != last["eval/loss"]


@pytest.mark.parametrize(
    ("status", "step"),
    [({}, 4), ({"restored": False, "best_step": 2}, 4), ({"restored": True, "best_step": 2}, 2)],
)
def test_which_evaluation_is_final(status: dict[str, Any], step: int) -> None:
    final = FinalValues()
    for number in range(6):
        final.see({"step": number, "loss": 1.0} | ({"eval/loss": float(number)} if number % 2 == 0 else {}))
    assert final.of(status) == (step, {"final/loss": float(step)})
    assert FinalValues().of(status) == (0, {})


def test_a_wandb_file_that_was_cut_does_not_hold_its_end(runs: Path) -> None:
    """Its last block is written after W&B's finish returns: a file without it must not count as complete."""
    (path,) = (run_of(runs, "online") / "wandb").glob("*run-*/*.wandb")
    data = path.read_bytes()
    assert len(data) > 32768, "more than a block, so that chunks are told from records"
    assert holds_exit(data)
    for length in {0, 3, 7, 32768, len(data) - 1, *range(8, len(data), 997)}:
        assert not holds_exit(data[:length])


def test_definitions_ask_for_both_trackers() -> None:
    assert all(yaml.safe_load(text + TRACK)["track"] == ["tensorboard", "wandb"] for text in DEFINITIONS.values())
