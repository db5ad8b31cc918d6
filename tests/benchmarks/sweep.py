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
from workbench.experiment.definition.schema import Experiment, RunSpec

NAME = "dpo_beta_sweep"
QUICK = ("seeds=1", "beta=[0.3,3]", "steps=20", "evaluate.every=10", "data.collect.pairs=2560")
GOAL = 0.5
THREADS = 2
"""In total, on either side: ours are as many processes of one thread."""
# Given our start, our pairs and the order of our batches, one run with TRL must end where ours does: this tells whether
# the work is the same. Greedy decoding and pairs draw nothing at random; samples are drawn differently.
SAME = {"exact_match_greedy": 0.01, "pair_accuracy": 0.01, "pair_margin": 0.05, "exact_match_sampled": 0.1}
# The timed sides each draw their own samples, and so pairs. At small beta, how many completions run on without an end
# moves exact_match_sampled and kl_start by more than seeds do, so these two are shown and not held.
ALIKE = {"exact_match_greedy": 0.2, "pair_accuracy": 0.08}
SHOWN = (*ALIKE, "exact_match_sampled", "kl_start")

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


def run(*, quick: bool, repeats: int | None) -> Result:
    """Both sides, one after the other. BenchmarkError where they did not do the same work."""
    overrides = QUICK if quick else ()
    experiment = load_experiment(NAME, overrides)
    ours: list[Side] = []
    theirs: list[Side] = []
    probed = _probe(experiment)
    fastest, threads, variables = min(PEER_THREADS, key=lambda choice: probed[choice[0]])
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats or 1):
            runs = Path(folder) / str(repeat)
            order = [
                (ours, lambda: _run_ours(experiment, runs)),  # noqa: B023 - called within this repeat
                (theirs, lambda: _run_theirs(experiment, threads, variables)),
            ]
            for sides, work in order if repeat % 2 == 0 else reversed(order):
                sides.append(work())
                print(f"sweep: {'ours' if sides is ours else 'TRL'}: {sides[-1].timing.wall_seconds:.1f} s", flush=True)
        same = _check_same(experiment, runs, ours[-1].evaluations, variables)
    result = _result(ours, theirs, overrides)
    rows = [[name, f"{seconds:.1f}", "taken" if name == fastest else ""] for name, seconds in probed.items()]
    result.tables.append(Table(f"TRL's threads: {PROBE_STEPS} steps of SFT and two evaluations", ["", "s", ""], rows))
    result.values |= {"probed": probed, "trl_threads": fastest}
    result.tables += [same, _check_alike(experiment, result, ours[-1].evaluations, theirs[-1].evaluations)]
    return result


def _run_ours(experiment: Experiment, runs: Path) -> Side:
    overrides = ["--set", *experiment.overrides] if experiment.overrides else []
    timing = time_command([*WORKBENCH, "run", NAME, "--runs", str(runs), "--jobs", str(THREADS), *overrides])
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


def _run_theirs(experiment: Experiment, threads: int, variables: dict[str, str], **told: Any) -> Side:
    """The TRL script; told: changes to its setting."""
    with tempfile.TemporaryDirectory() as folder:
        setting, result = Path(folder) / "setting.json", Path(folder) / "result.json"
        setting.write_text(json.dumps(_setting(experiment) | {"threads": threads} | told), encoding="utf-8")
        command = [sys.executable, "-m", "tests.benchmarks.trl_sweep", str(setting), str(result)]
        timing = time_command(command, more_environment=variables)
        found = json.loads(result.read_text(encoding="utf-8"))
    evaluations = {(row.pop("run"), row.pop("step")): row for row in found["evaluations"]}
    return Side(timing, found["seconds"], evaluations, found["versions"])


def _probe(experiment: Experiment) -> dict[str, float]:
    """Seconds of a short SFT by name of PEER_THREADS, start-up not counted."""
    found = {}
    sft = _setting(experiment)["sft"]
    sft["hyperparameters"]["steps"] = sft["evaluate"]["every"] = PROBE_STEPS
    for name, threads, variables in PEER_THREADS:
        seconds = _run_theirs(experiment, threads, variables, sft=sft, only_sft=True).seconds
        found[name] = seconds["sft"] + seconds["evaluation"]
        print(f"sweep: probing TRL with {name}: {found[name]:.1f} s", flush=True)
    return found


def _setting(experiment: Experiment) -> dict[str, Any]:
    """What the TRL script is told, from the definition that our side runs."""
    (start,) = experiment.ancestors.values()
    return {
        "sft": start.to_definition(),
        "dpo": experiment.runs[0].to_definition(),
        "betas": list(experiment.axes["beta"]),
        "seeds": list(experiment.seeds),
        "sft_order": _order(start, start.data.rows),  # type: ignore[union-attr]
        "only_sft": False,
        "given": None,
    }


def _order(spec: RunSpec, num_rows: int) -> list[int]:
    """The rows of a run's batches, one behind the other."""
    settings = spec.hyperparameters
    loader = BatchLoader(range(num_rows), settings.batch_rows_per_step(), spec.seed)  # type: ignore[arg-type]
    return [int(row) for step in range(settings.steps or 0) for row in loader.rows_of(step)]


def _check_same(experiment: Experiment, runs: Path, ours: Evaluations, variables: dict[str, str]) -> Table:
    """The middle beta's first seed, trained by TRL on our start and pairs in our order: not timed."""
    spec = experiment.runs[len(experiment.axes["beta"]) // 2 * len(experiment.seeds)]
    pairs = {}
    for stage in runs.glob("stages/collect-*"):
        split = json.loads((stage / "stage.json").read_text(encoding="utf-8"))["key"]["split"]
        pairs[split] = stage / "pairs.jsonl"
    given = {
        "start": str(runs / str(spec.start) / "model"),
        "pairs": str(pairs["train"]),
        "held_out": str(pairs["held_out"]),
        "order": _order(spec, spec.data.collect.pairs),  # type: ignore[union-attr]
        "beta": spec.point["beta"],
        "seed": spec.seed,
    }
    theirs = _run_theirs(experiment, THREADS, variables, given=given).evaluations
    last = max(theirs)
    name = f"{last[0]}, step {last[1]}"
    table = Table(f"The same work: {name}, TRL on our start and pairs in our order", ["", "ours", "TRL", "within"])
    problems = []
    for metric, tolerance in SAME.items():
        a, b = ours[last][metric], theirs[last][metric]
        table.rows.append([metric, f"{a:.3f}", f"{b:.3f}", f"{tolerance:g}"])
        if not abs(a - b) <= tolerance:
            problems.append(f"{name}: {metric} is {a:.3f} with us, {b:.3f} with TRL (within {tolerance})")
    if problems:
        raise BenchmarkError("\n".join([table.text(), "not the same work:", *problems]))
    return table


def _check_alike(experiment: Experiment, result: Result, ours: Evaluations, theirs: Evaluations) -> Table:
    """The last evaluation by beta, side by side."""
    if set(ours) != set(theirs):
        raise BenchmarkError(f"the sides evaluated at different steps: {sorted(set(ours) ^ set(theirs))}")
    table = Table("Each side on its own pairs: last evaluation, mean over seeds (ours / TRL)", ["beta", *SHOWN])
    last = max(step for name, step in ours if name == "sft")
    problems = []
    means = {"the start": (ours["sft", last], theirs["sft", last])}
    ours_mean, theirs_mean = _by_beta(ours), _by_beta(theirs)
    means |= {name: (ours_mean[name], theirs_mean[name]) for name in ours_mean}
    for name, (a, b) in means.items():
        cells = [f"{a[metric]:.3f} / {b[metric]:.3f}" if metric in b else "" for metric in SHOWN]
        table.rows.append([name.removeprefix("beta="), *cells])
        for metric, tolerance in ALIKE.items():
            if metric in b and not abs(a[metric] - b[metric]) <= tolerance:
                problems.append(f"{name}: {metric} is {a[metric]:.3f} with us, {b[metric]:.3f} with TRL ({tolerance})")
    if problems:
        raise BenchmarkError("\n".join([result.text(), table.text(), "not the same work:", *problems]))
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


def _result(ours: list[Side], theirs: list[Side], overrides: tuple[str, ...]) -> Result:
    wall = [statistics.median(side.timing.wall_seconds for side in sides) for sides in (ours, theirs)]
    cpu = [statistics.median(side.timing.cpu_seconds for side in sides) for sides in (ours, theirs)]
    others = [statistics.median(side.timing.others_seconds for side in sides) for sides in (ours, theirs)]
    trained = statistics.median(side.seconds["without report"] for side in ours)
    ratio = wall[0] / wall[1]
    figures = Table(
        f"{NAME}{' with ' + ' '.join(overrides) if overrides else ''}, float32, {THREADS} threads, {len(ours)} time(s)",
        ["", "ours (s)", "TRL (s)", "ours / TRL"],
        [
            ["wall time", f"{wall[0]:.1f}", f"{wall[1]:.1f}", f"{ratio:.2f}"],
            ["wall time, our report not counted", f"{trained:.1f}", f"{wall[1]:.1f}", f"{trained / wall[1]:.2f}"],
            ["processor time", f"{cpu[0]:.1f}", f"{cpu[1]:.1f}", f"{cpu[0] / cpu[1]:.2f}"],
            ["processor time of other programs", f"{others[0]:.1f}", f"{others[1]:.1f}", ""],
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
