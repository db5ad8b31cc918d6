"""The 15-run sweep, its start and its pairs: our command against one process of TRL 1.16 that does the same work."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import WORKBENCH, BenchmarkError, Timing, time_command
from tests.benchmarks.page import Result, Table
from workbench.data.batches import BatchLoader
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import Experiment

NAME = "dpo_beta_sweep"
QUICK = ("seeds=1", "beta=[0.3,3]", "steps=20", "evaluate.every=10", "data.collect.pairs=2560")
GOAL = 0.5
THREADS = 2
"""In total, on either side: ours are as many processes of one thread."""
# How far apart the two sides' means over the seeds may be, by metric. Both draw samples and batches of their own: three
# seeds of ours differ by up to 0.12 themselves. A side that trains on something else is off by far more.
TOLERANCE = {"exact_match_greedy": 0.2, "exact_match_sampled": 0.15, "pair_accuracy": 0.08}
START_TOLERANCE = 0.1

# With two threads that spin while they wait (the default), TRL is many times slower wherever another process wants a
# core. It runs under whichever of these a short probe finds fastest, never on more than THREADS threads.
PEER_THREADS: tuple[tuple[str, int, dict[str, str]], ...] = (
    ("2 threads", 2, {}),
    ("2 threads, GOMP_SPINCOUNT=1000", 2, {"GOMP_SPINCOUNT": "1000"}),
    ("1 thread", 1, {}),
)
PROBE_STEPS = 20

Evaluations = dict[tuple[str, int], dict[str, float]]
"""Metrics by run ("sft", "beta=0.1/seed0") and step."""


@dataclass(frozen=True)
class Side:
    """One timed run of one side."""

    timing: Timing
    seconds: dict[str, float]
    evaluations: Evaluations
    versions: dict[str, str]


def run(*, quick: bool, repeats: int) -> Result:
    """Both sides, one after the other. BenchmarkError where they did not do the same work."""
    overrides = QUICK if quick else ()
    experiment = load_experiment(NAME, overrides)
    ours: list[Side] = []
    theirs: list[Side] = []
    probed = _probe(experiment)
    fastest, threads, variables = min(PEER_THREADS, key=lambda choice: probed[choice[0]])
    for repeat in range(repeats):
        order = [(ours, lambda: _run_ours(experiment)), (theirs, lambda: _run_theirs(experiment, threads, variables))]
        for sides, work in order if repeat % 2 == 0 else reversed(order):
            sides.append(work())
            print(f"sweep: {'ours' if sides is ours else 'TRL'}: {sides[-1].timing.wall_seconds:.1f} s", flush=True)
    comparison = _check_alike(experiment, ours[-1].evaluations, theirs[-1].evaluations)
    result = _result(ours, theirs, comparison, overrides)
    rows = [[name, f"{seconds:.1f}", "taken" if name == fastest else ""] for name, seconds in probed.items()]
    result.tables.insert(
        2, Table(f"TRL's threads: {PROBE_STEPS} steps of SFT and two evaluations", ["", "s", ""], rows)
    )
    result.values |= {"probed": probed, "trl_threads": fastest}
    return result


def _run_ours(experiment: Experiment) -> Side:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        overrides = ["--set", *experiment.overrides] if experiment.overrides else []
        jobs = ["--jobs", str(THREADS)]
        timing = time_command([*WORKBENCH, "run", NAME, "--runs", folder, *jobs, *overrides])
        # plan.json is written again once all runs are finished: what follows is the report.
        trained = (runs / experiment.name / "plan.json").stat().st_mtime - timing.began
        evaluations: Evaluations = {}
        for spec in (*experiment.ancestors.values(), *experiment.runs):
            name = f"{spec.variant}/seed{spec.seed}" if spec.start else "sft"
            for line in (runs / spec.key / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if "eval/exact_match_greedy" in row:
                    evaluations[name, row["step"]] = {
                        key.removeprefix("eval/"): value for key, value in row.items() if key.startswith("eval/")
                    }
    return Side(timing, {"without report": trained}, evaluations, {})


def _run_theirs(experiment: Experiment, threads: int, variables: dict[str, str], probe_steps: int = 0) -> Side:
    """The whole script, or with probe_steps only so many steps of its SFT."""
    with tempfile.TemporaryDirectory() as folder:
        setting, result = Path(folder) / "setting.json", Path(folder) / "result.json"
        told = _setting(experiment) | {"threads": threads, "only_sft": bool(probe_steps)}
        if probe_steps:
            told["sft"]["hyperparameters"]["steps"] = told["sft"]["evaluate"]["every"] = probe_steps
        setting.write_text(json.dumps(told), encoding="utf-8")
        command = [sys.executable, "-m", "tests.benchmarks.trl_sweep", str(setting), str(result)]
        timing = time_command(command, more_environment=variables)
        found = json.loads(result.read_text(encoding="utf-8"))
    evaluations = {(row.pop("run"), row.pop("step")): row for row in found["evaluations"]}
    return Side(timing, found["seconds"], evaluations, found["versions"])


def _probe(experiment: Experiment) -> dict[str, float]:
    """Seconds of a short SFT by name of PEER_THREADS, start-up not counted."""
    found = {}
    for name, threads, variables in PEER_THREADS:
        seconds = _run_theirs(experiment, threads, variables, PROBE_STEPS).seconds
        found[name] = seconds["sft"] + seconds["evaluation"]
        print(f"sweep: probing TRL with {name}: {found[name]:.1f} s", flush=True)
    return found


def _setting(experiment: Experiment) -> dict[str, Any]:
    """What the TRL script is told, from the definition that our side runs."""
    (start,) = experiment.ancestors.values()
    settings = start.hyperparameters
    loader = BatchLoader(range(start.data.rows), settings.batch_rows_per_step(), start.seed)  # type: ignore[arg-type, union-attr]
    return {
        "sft": start.to_definition(),
        "dpo": experiment.runs[0].to_definition(),
        "betas": list(experiment.axes["beta"]),
        "seeds": list(experiment.seeds),
        "sft_order": [int(row) for step in range(settings.steps or 0) for row in loader.rows_of(step)],
    }


def _check_alike(experiment: Experiment, ours: Evaluations, theirs: Evaluations) -> Table:
    """The last evaluation by beta, side by side."""
    if set(ours) != set(theirs):
        raise BenchmarkError(f"the sides evaluated at different steps: {sorted(set(ours) ^ set(theirs))}")
    table = Table("The same work: last evaluation, mean over seeds (ours / TRL)", ["beta", *TOLERANCE, "kl_start"])
    last = max(step for name, step in ours if name == "sft")
    start = [side["sft", last]["exact_match_greedy"] for side in (ours, theirs)]
    table.rows.append(["the start", f"{start[0]:.3f} / {start[1]:.3f}"])
    problems = []
    if abs(start[0] - start[1]) > START_TOLERANCE:
        problems.append(f"the start's exact_match_greedy is {start[0]:.3f} with us, {start[1]:.3f} with TRL")
    ours_mean, theirs_mean = _by_beta(ours), _by_beta(theirs)
    for beta in experiment.axes["beta"]:
        pairs = {
            metric: (ours_mean[f"beta={beta}"][metric], theirs_mean[f"beta={beta}"][metric])
            for metric in table.head[1:]
        }
        table.rows.append([str(beta), *(f"{a:.3f} / {b:.3f}" for a, b in pairs.values())])
        for metric, tolerance in TOLERANCE.items():
            a, b = pairs[metric]
            if abs(a - b) > tolerance:
                problems.append(f"beta={beta}: {metric} is {a:.3f} with us, {b:.3f} with TRL (within {tolerance})")
    if problems:
        raise BenchmarkError("\n".join([table.text(), "not the same work:", *problems]))
    return table


def _by_beta(evaluations: Evaluations) -> dict[str, dict[str, float]]:
    last = max(step for name, step in evaluations if name != "sft")
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for (name, step), row in evaluations.items():
        if name != "sft" and step == last:
            rows[name.partition("/")[0]].append(row)
    return {
        variant: {metric: statistics.fmean(row[metric] for row in found) for metric in found[0]}
        for variant, found in rows.items()
    }


def _result(ours: list[Side], theirs: list[Side], comparison: Table, overrides: tuple[str, ...]) -> Result:
    wall = [statistics.median(side.timing.wall_seconds for side in sides) for sides in (ours, theirs)]
    cpu = [statistics.median(side.timing.cpu_seconds for side in sides) for sides in (ours, theirs)]
    trained = statistics.median(side.seconds["without report"] for side in ours)
    ratio = wall[0] / wall[1]
    figures = Table(
        f"{NAME}{' with ' + ' '.join(overrides) if overrides else ''}, float32, {THREADS} threads, {len(ours)} time(s)",
        ["", "ours (s)", "TRL (s)", "ours / TRL"],
        [
            ["wall time", f"{wall[0]:.1f}", f"{wall[1]:.1f}", f"{ratio:.2f}"],
            ["wall time, our report not counted", f"{trained:.1f}", f"{wall[1]:.1f}", f"{trained / wall[1]:.2f}"],
            ["processor time", f"{cpu[0]:.1f}", f"{cpu[1]:.1f}", f"{cpu[0] / cpu[1]:.2f}"],
        ],
    )
    phases = {phase: statistics.median(side.seconds[phase] for side in theirs) for phase in theirs[0].seconds}
    return Result(
        "sweep",
        goal=f"at most {GOAL} of TRL's wall time",
        reached=ratio <= GOAL,
        tables=[
            figures,
            Table("TRL by phase", ["phase", "seconds"], [[name, f"{value:.1f}"] for name, value in phases.items()]),
            comparison,
        ],
        values={
            "overrides": list(overrides),
            "threads": THREADS,
            "ratio": ratio,
            "ours": [vars(side.timing) | side.seconds for side in ours],
            "trl": [vars(side.timing) | side.seconds for side in theirs],
            "versions": theirs[0].versions,
        },
    )
