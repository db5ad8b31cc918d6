"""Synthetic run folders in the workbench's formats: seeded, quick, and shaped like the real sweep."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from workbench.trainer.method import describe
from workbench.trainer.registry import get_settings_class

Row = dict[str, Any]


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _lines(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def outcome(quality: float, beta: float, progress: float) -> dict[str, float]:
    """Held-out values after a share of the training: quality peaks between the betas, KL and margins fall with beta."""
    peak = math.exp(-((math.log(beta) - math.log(1.5)) ** 2) / 3.0)
    return {
        "eval/exact_match_sampled": 0.22 + (quality * peak - 0.12 * (1 - peak)) * progress,
        "eval/exact_match_greedy": 0.60 + (0.5 * quality * peak - 0.25 * (1 - peak)) * progress,
        "eval/kl_start": 9.0 / (1 + 2 * beta) * progress,
        "eval/pair_accuracy": 0.5 + (0.46 - 0.05 * math.log10(beta + 1)) * progress,
        "eval/pair_margin": 24.0 / (1 + 1.5 * beta) * progress,
    }


def _completions(rng: np.random.Generator, step: int, values: dict[str, float], prompts: int) -> list[Row]:
    rows = []
    for split in ("greedy", "sampled"):
        for index in range(prompts):
            digits = [int(digit) for digit in f"{index * 48271 % 99999989:08d}"]
            prompt, answer = f"sort {''.join(map(str, digits))}: ", "".join(map(str, sorted(digits)))
            right = rng.random() < values[f"eval/exact_match_{split}"]
            text = answer if right else answer[:5] + answer[:4:-1] + ("<b>&" if index == 0 else "")
            rows.append(
                {
                    "step": step,
                    "split": split,
                    "prompt_id": hashlib.sha256(prompt.encode()).hexdigest()[:16],
                    "sample_index": 0,
                    "prompt": prompt,
                    "completion": text,
                    "num_tokens": 9,
                    "ended": True,
                    "rewards": {"sort": float(text == answer)},
                    "exact_match": float(text == answer),
                }
            )
    return rows


def write_run(
    root: Path,
    folder: str,
    definition: Row,
    *,
    beta: float = 0.5,
    state: str = "finished",
    steps: int = 60,
    every: int = 20,
    prompts: int = 48,
    pairs: int = 0,
    message: str = "",
) -> None:
    """One run folder; a state other than "finished" stops after two thirds of the steps."""
    seed = int(definition["seed"])
    rng = np.random.default_rng([seed, *folder.encode()])
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "definition.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    quality = 0.5 + 0.02 * rng.normal()
    last = steps if state == "finished" else steps * 2 // 3
    metrics, completions, pair_rows = [], [], []
    for step in range(last + 1):
        progress = (1 - math.exp(-3 * step / steps)) / (1 - math.exp(-3))
        values = outcome(quality, beta, progress)
        row: Row = {"step": step}
        if step:
            row |= _training_metrics(rng, values, beta)
        if step % every == 0 or step == last:
            if pairs:
                h = rng.normal(0.25 / (1 + beta) if step else 0, 1.0 if step else 0, pairs) * progress
                row |= {"eval/pair_accuracy": float((h > 0).mean() + (h == 0).mean() / 2)}
                row |= {"eval/pair_margin": float(h.mean()), "eval/num_pairs": pairs}
                pair_rows += [{"step": step, "pair_id": f"p{i}", "h": float(x)} for i, x in enumerate(h)]
            else:
                noisy = {k: v + (0.006 * rng.normal() if step else 0) for k, v in values.items()}
                row |= noisy | {"eval/completion_tokens": 9.0, "eval/num_prompts": prompts, "eval/num_pairs": 512}
                completions += _completions(rng, step, noisy, prompts)
        row |= {"cost/generated_tokens": 0, "cost/trained_tokens": 128 * 18 * step, "cost/scored_tokens": 0}
        metrics.append(row | {"cost/flops": 2.1e9 * step, "time/seconds": 0.05 * step})
    for name, rows in (("metrics", metrics), ("completions", completions), ("pairs", pair_rows)):
        if rows:
            _lines(path / f"{name}.jsonl", rows)
    _dump(path / "status.json", _status(seed, state, message, last, steps))
    _dump(path / "provenance.json", _provenance(definition))


def _training_metrics(rng: np.random.Generator, values: dict[str, float], beta: float) -> Row:
    margin = values["eval/pair_margin"] * beta + 0.2 * rng.normal()
    return {
        "loss": math.log1p(math.exp(-margin)) + 0.03 * rng.normal(),
        "learning_rate": 3e-4,
        "grad_norm": 1.0 + 0.2 * rng.normal(),
        "rewards/margins": margin,
        "rewards/accuracies": min(1.0, values["eval/pair_accuracy"] + 0.05 * rng.normal()),
    }


def _status(seed: int, state: str, message: str, last: int, steps: int) -> Row:
    collect = {"generated_tokens": 280000, "trained_tokens": 0, "scored_tokens": 0, "flops": 7.4e10, "seconds": 6.1}
    scored = {"generated_tokens": 0, "trained_tokens": 0, "scored_tokens": 138000, "flops": 3.6e10}
    costs = {"generated_tokens": 0, "trained_tokens": 2304 * last, "scored_tokens": 0, "flops": 2.1e9 * last}
    return {
        "state": state,
        "fingerprint": f"{seed:08x}",
        "step": last,
        "num_steps": steps,
        "seconds": 0.05 * last,
        "message": message,
        "exit_code": 0 if state == "finished" else 6,
        "stopped_by": None,
        "best_step": None,
        "best_value": None,
        "restored": False,
        "precision": "float32",
        "threads": 1,
        "device": "cpu",
        "num_parameters": 131904,
        "trained_parameters": 131904,
        "peak_memory_bytes": 412_000_000,
        "model_sha256": "ab" * 32,
        "updated": "2026-11-24T10:00:00",
        "costs": costs | {"inherited": {"collect": collect, "ref_logprobs": scored}},
    }


PROVENANCE = {
    "created": "2026-11-24T09:58:00",
    "command": "workbench run dpo_beta_sweep --jobs 2",
    "commit": "d78068d0b1f2c3a4958697a8b9c0d1e2f3a4b5c6",
    "dirty": False,
    "untracked": {},
    "python": "3.12.3",
    "packages": {"torch": "2.13.0", "transformers": "5.1.0", "numpy": "2.4.6"},
    "hardware": {"cpu": "Example CPU", "cores": 2, "memory_bytes": 8 << 30, "gpu": None},
    "threads": 1,
    "data": {},
    "stages": {"collect": "0a1b2c3d"},
    "start": {"folder": "sft_sort/main/seed0", "model_sha256": "cd" * 32},
}


def _provenance(definition: Row) -> Row:
    settings_class = get_settings_class(definition["trainer"])
    return PROVENANCE | {"method": describe(settings_class.described(), settings_class())}


def _definition(name: str, question: str, planned: Row) -> Row:
    keys = ("arm", "variant", "seed", "trainer")
    beta = planned["point"].get("beta", 0.5)
    return {
        "experiment": name,
        "question": question,
        **{key: planned[key] for key in keys},
        "axes": list(planned["point"]),
        "start_from": {"experiment": "sft_sort", "variant": "main", "seed": 0},
        "model": {"preset": "tiny"},
        "hyperparameters": {"beta": beta, "loss": "sigmoid", "learning_rate": 3e-4, "steps": 60},
        "evaluate": {"task": "sort", "prompts": 48, "every": 20, "sampling": {"temperature": 1.0}},
        "threads": 1,
    }


def write_experiment(
    root: Path,
    name: str = "dpo_beta_sweep",
    *,
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0),
    seeds: int = 3,
    arms: tuple[str, ...] = (),
    states: dict[tuple[str, int], str] | None = None,
    question: str = "How tightly should DPO be tied to its reference model?",
    **run_settings: Any,
) -> Path:
    """runs/<name> with a plan and a run for each arm, beta and seed; states names the runs that did not finish.

    A state "missing" leaves the folder out. Without betas and arms there is one variant, "main".
    """
    states = states or {}
    planned = []
    for arm in arms or (None,):
        for beta in betas or (None,):
            point = {} if beta is None else {"beta": beta}
            variant = ",".join(x for x in (arm, None if beta is None else f"beta={beta:g}") if x) or "main"
            for seed in range(seeds):
                folder = f"{name}/{variant}/seed{seed}"
                trainer = arm if arm in ("sft", "dpo", "grpo") else "dpo"
                planned.append(
                    {"variant": variant, "arm": arm, "seed": seed, "point": point, "folder": folder, "trainer": trainer}
                )
                definition = _definition(name, question, planned[-1])
                state = states.get((variant, seed), "finished")
                if state != "missing":
                    message = "" if state == "finished" else f"{state} for the test"
                    quality = beta or {"sft": 0.2, "dpo": 1.0, "grpo": 2.0}.get(arm or "", 0.5)
                    write_run(root, folder, definition, beta=quality, state=state, message=message, **run_settings)
    axes = [{"name": "beta", "values": list(betas)}] if betas else []
    _dump(
        root / name / "plan.json",
        {
            "experiment": name,
            "question": question,
            "command": f"make exp NAME={name}",
            "definition_file": f"experiments/{name}.yaml",
            "axes": axes,
            "arms": list(arms),
            "runs": planned,
            "starts": [{"folder": "sft_sort/main/seed0"}],
            "notes": ["The SFT start was stopped early on purpose."],
        },
    )
    return root / name


def write_start(root: Path) -> None:
    """The shared start that the experiments name."""
    definition = {"experiment": "sft_sort", "variant": "main", "seed": 0, "trainer": "sft", "question": "The start."}
    write_run(root, "sft_sort/main/seed0", definition, beta=0.5)


BUDGET_FLOPS = 2.0e11
ARMS: dict[str, Row] = {
    # FLOPs and seconds a step, gain and later fall of exact match, costs inherited before the first step.
    "continued_sft": {"trainer": "sft", "flops": 2.0e9, "seconds": 0.04, "gain": 0.10, "fall": 0.0, "inherits": False},
    "orpo": {"trainer": "orpo", "flops": 3.0e9, "seconds": 0.06, "gain": 0.16, "fall": 0.0, "inherits": False},
    "dpo": {"trainer": "dpo", "flops": 3.0e9, "seconds": 0.06, "gain": 0.18, "fall": 0.0, "inherits": True},
    "grpo": {"trainer": "grpo", "flops": 4.0e9, "seconds": 0.20, "gain": 0.35, "fall": 0.0, "inherits": False},
    "ppo": {"trainer": "ppo", "flops": 4.5e9, "seconds": 0.25, "gain": 0.32, "fall": 0.30, "inherits": False},
}


def _online_metrics(rng: np.random.Generator, progress: float, trainer: str, seconds: float) -> Row:
    phases = {"sample": 0.6, "reward": 0.05, "reference": 0.1, "update": 0.2}
    row = {
        "reward": 0.2 + 0.6 * progress + 0.02 * rng.normal(),
        "reward_std": 0.3,
        "frac_reward_zero_std": 0.5 - 0.3 * progress,
        "rewards/exact/mean": 0.15 + 0.5 * progress + 0.02 * rng.normal(),
        "rewards/length/mean": 0.05 + 0.1 * progress,
        "completions/mean_length": 9.0 + 20 * progress,
        "completions/clipped_ratio": 0.1 * progress,
        "entropy": 1.5 - progress,
    }
    row |= {"objective/kl": 4.0 * progress, "loss/value_avg": 0.2} if trainer == "ppo" else {"kl": 0.05 * progress}
    return row | {f"time/{phase}_seconds": share * seconds for phase, share in phases.items()}


def _rollouts(step: int) -> list[Row]:
    return [
        {
            "step": step,
            "split": "train",
            "prompt_id": f"t{prompt}",
            "sample_index": index,
            "prompt": "sort 1: ",
            "completion": "never held out",
            "num_tokens": 9,
            "ended": True,
            "rewards": {"exact": 1.0},
            "reward": 1.0,
            "advantage": 0.0,
        }
        for prompt in range(2)
        for index in range(2)
    ]


def write_budget_run(root: Path, folder: str, definition: Row, arm: Row, steps: int, every: int, prompts: int) -> None:
    """One run of an arm, until its budget or its steps are spent."""
    seed, trainer = int(definition["seed"]), arm["trainer"]
    rng = np.random.default_rng([seed, *folder.encode()])
    path = root / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / "definition.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    online, inherited = trainer in ("grpo", "ppo"), 1.1e11 if arm["inherits"] else 0.0
    last = min(steps, math.ceil((BUDGET_FLOPS - inherited) / arm["flops"]))
    quality, metrics, completions = 0.02 * rng.normal(), [], []
    for step in range(last + 1):
        progress = min(1.0, 1.5 * step / last)
        match = 0.3 + (arm["gain"] + quality) * progress - arm["fall"] * max(0.0, 2 * step / last - 1)
        row: Row = {"step": step}
        if step:
            row |= {"loss": 1.0 - 0.5 * progress + 0.05 * rng.normal(), "grad_norm": 1.0}
            row |= _online_metrics(rng, step / last, trainer, arm["seconds"]) if online else {}
            completions += _rollouts(step) if online else []
        if step % every == 0 or step == last:
            scores = {f"eval/exact_match_{split}": match + 0.005 * rng.normal() for split in ("greedy", "sampled")}
            row |= scores | {"eval/kl_start": 3.0 * progress, "eval/num_prompts": prompts}
            completions += _completions(rng, step, scores, prompts)
        row |= {"cost/generated_tokens": 280000 * arm["inherits"] + 600 * step * online}
        row |= {"cost/trained_tokens": 1200 * step, "cost/scored_tokens": 0}
        metrics.append(row | {"cost/flops": inherited + arm["flops"] * step, "time/seconds": arm["seconds"] * step})
    _lines(path / "metrics.jsonl", metrics)
    _lines(path / "completions.jsonl", completions)
    status = _status(seed, "finished", "", last, steps)
    status["costs"] = {"flops": arm["flops"] * last, "trained_tokens": 1200 * last, "inherited": {}}
    status["costs"]["generated_tokens"] = 600 * last * online
    if arm["inherits"]:
        status["costs"]["inherited"] = {"collect": {"generated_tokens": 280000, "flops": inherited, "seconds": 6.1}}
    status["stopped_by"] = f"budget: flops 2e+11 of {BUDGET_FLOPS:g}" if last < steps else None
    if online:
        status["warnings"] = [f"step {10 + seed}: 0.9{seed} of the groups earn all alike; use harder prompts"]
    status["notes"] = ["training data: 3 prompts were too long"]
    _dump(path / "status.json", status)
    _dump(path / "provenance.json", _provenance(definition))


def write_budget_experiment(
    root: Path,
    *,
    arms: tuple[str, ...] = ("continued_sft", "dpo", "grpo", "ppo"),
    seeds: int = 3,
    steps: int = 60,
    every: int = 5,
    prompts: int = 24,
) -> Path:
    """runs/methods: arms of several trainers at one budget of FLOPs, with rollouts among the completions."""
    name, question, planned = "methods", "From one SFT start and one budget, which method gains most?", []
    for arm in arms:
        for seed in range(seeds):
            planned.append(
                {"variant": arm, "arm": arm, "seed": seed, "point": {}, "folder": f"{name}/{arm}/seed{seed}"}
            )
            planned[-1]["trainer"] = ARMS[arm]["trainer"]
            definition = _definition(name, question, planned[-1]) | {"budget": {"flops": BUDGET_FLOPS}}
            definition["hyperparameters"] = {"steps": steps, "group_size": 4, "batch_prompts": 8}
            write_budget_run(root, planned[-1]["folder"], definition, ARMS[arm], steps, every, prompts)
    plan = {
        "experiment": name,
        "question": question,
        "command": f"make exp NAME={name}",
        "axes": [],
        "arms": list(arms),
    }
    _dump(root / name / "plan.json", plan | {"runs": planned, "starts": [{"folder": "sft_sort/main/seed0"}]})
    return root / name


@pytest.fixture
def make_experiment(tmp_path: Path) -> Callable[..., Path]:
    """write_experiment below tmp_path/runs, with its start."""

    def make(*args: Any, **settings: Any) -> Path:
        write_start(tmp_path / "runs")
        return write_experiment(tmp_path / "runs", *args, **settings)

    return make


@pytest.fixture
def make_budget_experiment(tmp_path: Path) -> Callable[..., Path]:
    """write_budget_experiment below tmp_path/runs, with its start."""

    def make(**settings: Any) -> Path:
        write_start(tmp_path / "runs")
        return write_budget_experiment(tmp_path / "runs", **settings)

    return make
