"""Run folders that grow, end and resume as real ones do, in milliseconds."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from workbench.tracking.reader import read_rows
from workbench.tracking.store import MetricStore

Row = dict[str, Any]
EVERY = 5
NASTY = ("12", "a | b\n\n| --- |", "<script>alert(1)</script>", "![x](javascript:1) [y](http://z) `c` ~~~")
"""Completions that could break a table or a page."""


class GrowingRun:
    """A run folder of the workbench's format."""

    def __init__(
        self, root: Path, experiment: str = "dpo_beta", beta: float = 0.1, seed: int = 0, **fields: Any
    ) -> None:
        self.key = f"{experiment}/beta={beta:g}/seed{seed}"
        self.folder = root / self.key
        self.folder.mkdir(parents=True)
        definition = {
            "experiment": experiment,
            "question": "?",
            "arm": "dpo",
            "variant": f"beta={beta:g}",
            "seed": seed,
            "axes": ["beta"],
            "trainer": "dpo",
            "hyperparameters": {"beta": beta, "learning_rate": 3e-4, "loss": "sigmoid", "betas": [0.9, 0.95]},
            "track": ["tensorboard", "wandb"],
            **fields,
        }
        (self.folder / "definition.yaml").write_text(yaml.safe_dump(definition))
        (self.folder / "provenance.json").write_text(json.dumps({"created": "2026-11-24T09:58:00"}))
        self.status("running")
        self._random = np.random.default_rng(seed)
        self._metrics = MetricStore(self.folder / "metrics.jsonl")
        self._completions = MetricStore(self.folder / "completions.jsonl")
        self.step = -1
        self.online: Row = {}

    def status(self, state: str, **fields: Any) -> None:
        (self.folder / "status.json").write_text(json.dumps({"state": state, "step": 0, "exit_code": 0, **fields}))

    def train(self, until: int) -> GrowingRun:
        """Rows up to a step, evaluated at every fifth; a null loss at step 3."""
        for step in range(self.step + 1, until + 1):
            row: Row = {"step": step, "loss": None if step == 3 else float(self._random.normal()), "grad_norm": 1 / 3}
            if step % EVERY == 0:
                for split in ("greedy", "sampled"):
                    self._complete(step, split)
                row |= {
                    "eval/exact_match_sampled": step / 40 + 0.01 * float(self._random.random()),
                    "eval/kl_start": 0.1,
                }
            costs = {"cost/trained_tokens": 2304 * step, "cost/flops": 2.1e12 * step, "time/seconds": 0.1 * step}
            self._metrics.append(row | costs | self.online)
        self.step = until
        return self

    def _complete(self, step: int, split: str) -> None:
        for prompt, completion in (("sort 21: ", "12"), ("sort 31: ", "31 ~~~ <b>")):
            self._completions.append(
                {
                    "step": step,
                    "split": split,
                    "prompt_id": prompt[5:7],
                    "sample_index": 0,
                    "prompt": prompt,
                    "completion": completion,
                    "num_tokens": 3,
                    "ended": True,
                    "rewards": {"sort": float(completion == "12")},
                    "exact_match": float(completion == "12"),
                }
            )

    def train_online(self, until: int, group_size: int = 8, num_prompts: int = 6) -> GrowingRun:
        """As train, each step led by its rollouts, as the online trainers write them."""
        for step in range(self.step + 1, until + 1):
            rows = [
                {
                    "step": step,
                    "split": "train",
                    "prompt_id": f"p{prompt}",
                    "sample_index": index,
                    "prompt": f"sort {step}{prompt}: ",
                    "completion": NASTY[index % len(NASTY)],
                    "num_tokens": 4 + index,
                    "ended": index > 0,
                    "rewards": {"sort": float(index % 2), "length": -0.25},
                    "reward": index % 2 - 0.025,
                    "advantage": 1.5 - index,
                }
                for prompt in range(num_prompts)
                for index in range(group_size)
            ]
            self._completions.append_many(rows if step else [])
            self.online = {"reward": step / 20, "frac_reward_zero_std": 0.25, "kl": 0.01}
            self.online["completions/mean_length"] = 7.5
            self.train(step)
        return self

    def cut(self, step: int) -> GrowingRun:
        """Rows after a checkpoint go, as when a run resumes from it."""
        self._metrics.truncate_after(step)
        self._completions.truncate_after(step)
        self.step = step
        return self

    def end(self, state: str = "finished") -> GrowingRun:
        self.status(state, exit_code=0 if state == "finished" else 6)
        return self

    def close(self) -> None:
        self._metrics.close()
        self._completions.close()

    def rows(self) -> list[Row]:
        return read_rows(self.folder / "metrics.jsonl")

    def series(self, exact: bool = False) -> dict[str, dict[int, float]]:
        """Metric -> step -> value of the record: its numbers, rounded to float32 unless exact."""
        found: dict[str, dict[int, float]] = {}
        for row in self.rows():
            for name, value in row.items():
                if name != "step" and value is not None:
                    found.setdefault(name, {})[row["step"]] = value if exact else float32(value)
        return found

    def log(self) -> str:
        path = self.folder / "tracking.log"
        return path.read_text() if path.exists() else ""


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., GrowingRun]]:
    """A growing run below tmp_path/runs."""
    made: list[GrowingRun] = []

    def make(**settings: Any) -> GrowingRun:
        made.append(GrowingRun(tmp_path / "runs", **settings))
        return made[-1]

    yield make
    for run in made:
        run.close()


@pytest.fixture(autouse=True)
def _no_tracker_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no server and no home of the person who runs the tests."""
    for name in ("API_KEY", "MODE", "PROJECT", "ENTITY", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
