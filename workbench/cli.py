"""The command line. Errors that a user can mend are one line each; exit codes are those of errors.py."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from workbench.argument_types import cut
from workbench.command_line import make_parser
from workbench.errors import DefinitionError, DivergenceError, StorageError, WorkbenchError
from workbench.interrupts import SIGNALS, handled_by, interrupt_behind, raise_interrupt
from workbench.permissions import Permissions
from workbench.tracking.terminal import complain, let_go, open_streams, say, say_marked, told_when_slow

if TYPE_CHECKING:
    from workbench.experiment.definition.schema import Experiment

WATCH_SECONDS = 2.0
_NO_MEMORY = ("memoryerror", "allocate memory", "defaultcpuallocator", "failed to map segment", "start new thread")
"""Words of errors that mean a lack of memory, also where a worker process met it."""


def entry(arguments: Sequence[str] | None = None) -> None:
    """Runs the command as a program. A signal before its work begins, or after its code is known, ends it as it would
    end any program: without a word."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    open_streams()
    code = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            let_go(stream)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    parsed = make_parser().parse_args(arguments)
    came: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise_interrupt(number, frame)

    try:
        with handled_by(receive):
            return COMMANDS[parsed.command](parsed)
    except BaseException as error:
        if request := interrupt_behind(error):
            return 128 + request.signal_number
        # Libraries in C++ turn what Python raises within them into errors of their own, without a trace of it.
        if came and isinstance(error, Exception) and not isinstance(error, WorkbenchError):
            return 128 + came[0]
        code = _told(error)
        if code is None:
            raise
        return code


def _told(error: BaseException) -> int | None:
    """Tells an error that the user can mend and returns its exit code; returns None for an error of our own."""
    if isinstance(error, WorkbenchError):
        complain(error)
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # the reader of our output has closed it
        return 0
    if isinstance(error, OSError) and error.filename is not None:
        complain(f"{cut(str(error.filename))}: {error.strerror}")
        return StorageError.exit_code
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY):
        said = (str(error).strip().splitlines() or ["none left"])[-1]  # a worker's error ends with it
        complain(f"out of memory ({cut(said)}){_memory_limit()}; allow more, or ask for less")
        return DivergenceError.exit_code  # the code of a run whose single row does not fit
    return None


def _memory_limit() -> str:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if limit == resource.RLIM_INFINITY else f" under a limit of {limit / 2**30:.2f} GiB (ulimit -v)"


def _load(parsed: argparse.Namespace) -> Experiment:
    from workbench.experiment.definition.overrides import split_settings
    from workbench.experiment.definition.resolve import load_experiment
    from workbench.experiment.planning.plan_file import as_planned

    definition, overrides = as_planned(parsed.name, parsed.runs)
    experiment = load_experiment(definition, [*overrides, *parsed.set, *split_settings(parsed.settings)])
    if experiment.search is None:
        return experiment
    from workbench.experiment.search.loop import as_it_stands

    return as_it_stands(experiment, parsed.runs)


def _permissions(parsed: argparse.Namespace) -> Permissions:
    """What the command line allows, or the environment."""
    given = Permissions.of_environment()
    return Permissions(parsed.allow_reward_code or given.reward_code, parsed.inexact or given.inexact)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.share and parsed.fresh:
        raise DefinitionError(
            "command line: --share: not with --fresh: each command would train anew what another made"
        )
    options = {
        "jobs": parsed.jobs,
        "fresh": parsed.fresh,
        "share": parsed.share,
        "launcher": parsed.launcher,
        "report": _write_report,
    }
    return _experiment(parsed, **options)


def _prepare(parsed: argparse.Namespace) -> int:
    return _experiment(parsed, trains=False)


def _experiment(parsed: argparse.Namespace, **options: Any) -> int:
    # Loading torch makes a million objects that all stay: looking for garbage among them takes 0.7 s of a start.
    # The processes that train collect as usual (experiment/running/processes.py).
    gc.disable()
    experiment = _load(parsed)
    from workbench.experiment.running.processes import set_environment
    from workbench.experiment.running.reward_code import refuse_reward_code

    permissions = _permissions(parsed)
    refuse_reward_code(experiment, parsed.runs, permissions)
    set_environment()
    from workbench.experiment.running.runner import run_experiment

    return run_experiment(experiment, parsed.runs, permissions=permissions, **options)


def _train(parsed: argparse.Namespace) -> int:
    from workbench.experiment.running.train import train_named

    key, state = train_named(parsed.planned, parsed.runs, _permissions(parsed))
    if os.environ.get("RANK", "0") == "0":
        say(f"{key} is {state}")
    return 0


def _stop(parsed: argparse.Namespace) -> int:
    from workbench.experiment.running.stops import stop

    asked, left = stop(parsed.runs, parsed.name)
    for key in asked:
        say(f"{key}: {'is asked to stop, and still writes its checkpoint' if key in left else 'stops'}")
    return 0


def _plan(parsed: argparse.Namespace) -> int:
    experiment = _load(parsed)
    from workbench.experiment.planning.plan_text import describe_plan

    account = describe_plan(
        experiment, parsed.runs, jobs=parsed.jobs, fresh=parsed.fresh, permissions=_permissions(parsed)
    )
    say(account.text)
    if found := _detectable(experiment, parsed.runs):
        say(
            "\n".join(
                ["differences that are found four times in five, at level 0.05", *(f"  {line}" for line in found)]
            )
        )
    if account.broken:
        say(account.broken)
    return account.exit_code


def _detectable(experiment: Experiment, runs: Path) -> list[str]:
    """Says how small a difference the planned seeds and prompts can tell apart."""
    from analysis.inference import detectable
    from workbench.experiment.inspect_data import Inspector

    inspector = Inspector({**experiment.ancestors, **{run.key: run for run in experiment.runs}}, runs)
    prompts = [number for run in experiment.runs if (number := inspector.num_prompts(run))]
    variants, seeds = len({(run.arm, run.variant) for run in experiment.runs}), len(experiment.seeds)
    if experiment.search is not None:
        variants, seeds = experiment.search.num_confirmed, len(experiment.search.fresh_seeds)
    return detectable.in_words(
        seeds=seeds,
        variants=variants,
        prompts=min(prompts) if prompts else None,
        folder=runs / experiment.name,
    )


def _data(parsed: argparse.Namespace) -> int:
    experiment = _load(parsed)
    from workbench.experiment.look.page import show_data

    show_data(experiment, parsed.runs, parsed.split, parsed.rows)
    return 0


def _write_report(folder: Path) -> Path:
    from analysis.report.pages import write_report

    with told_when_slow(f"writing the report of {folder.name}"):
        return write_report(folder)


def _report(parsed: argparse.Namespace) -> int:
    experiment = _load(parsed)
    say(_write_report(parsed.runs / experiment.name))
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from analysis.report.pages import write_comparison

    folders = [parsed.runs / name for name in _experiments(parsed.names, parsed.runs)]
    out = parsed.runs / "reports" / _together(folder.name for folder in folders)
    with told_when_slow("writing the comparison"):
        page, refusals = write_comparison(folders, out)
    for refusal in refusals:
        say(refusal)
    say(page)
    return 0


def _together(names: Iterable[str]) -> str:
    """Makes one folder name for several experiments; it ends in their hash where their names are too long for one."""
    from workbench.config import MAX_PART_BYTES, fingerprint

    joined = "+".join(names)
    return joined if len(joined) < MAX_PART_BYTES - 20 else f"{joined[: MAX_PART_BYTES - 40]}~{fingerprint(joined)}"


def _export(parsed: argparse.Namespace) -> int:
    from analysis import load_runs

    names = _experiments(parsed.names, parsed.runs)
    loaded = load_runs(parsed.runs, lambda row: row["run"].split("/")[0] in names)
    missing = [name for name in names if not loaded.runs["run"].str.startswith(f"{name}/").any()]
    if missing:
        raise DefinitionError(f"{parsed.runs / missing[0]}: no runs; `make exp NAME={missing[0]}` makes them")
    for path in loaded.export(parsed.out, parsed.format):
        say(path)
    return 0


def _dashboard(parsed: argparse.Namespace) -> int:
    from workbench.tracking.dashboard import show

    show(parsed.runs, parsed.port)
    return 0


def _experiments(names: Sequence[str], runs: Path) -> list[str]:
    """Returns the names, each once, of folders that lie in the folder of runs. Raises DefinitionError for what cannot
    be a name."""
    from workbench.experiment.definition.files import NAME

    if not names:
        found = sorted(path.parent.name for path in runs.glob("*/plan.json")) if runs.is_dir() else []
        raise DefinitionError(
            f"command line: NAMES: found nothing, allowed {', '.join(found) or 'experiments that were run'}"
        )
    for name in names:
        if not NAME.fullmatch(name.split("+")[0]) or "/" in name:
            raise DefinitionError(f"command line: NAME: found {name!r}, allowed experiments that were run")
    return list(dict.fromkeys(names))


def _status(parsed: argparse.Namespace) -> int:
    from workbench.experiment.planning.status import standings, status_text
    from workbench.locks import is_held

    experiment = _load(parsed)
    while True:
        runs_on = parsed.watch and is_held(parsed.runs, experiment.name)
        if parsed.watch and not parsed.json and sys.stdout.isatty():
            say_marked("\x1b[H\x1b[2J")  # the screen is emptied
        found = standings(experiment, parsed.runs)
        say("\n".join(map(json.dumps, found)) if parsed.json else status_text(found))
        if not runs_on:
            return 0
        time.sleep(WATCH_SECONDS)


def _explain(parsed: argparse.Namespace) -> int:
    from workbench.experiment.definition.explain import explain, explain_trainer
    from workbench.experiment.definition.methods import methods_text
    from workbench.trainer.registry import trainer_names

    if parsed.methods:
        say(methods_text())
    elif parsed.name in trainer_names() and not Path("experiments", f"{parsed.name}.yaml").exists():
        say(explain_trainer(parsed.name))
    else:
        say(explain(_load(parsed)))
    return 0


def _sample(parsed: argparse.Namespace) -> int:
    from workbench.config import check_path
    from workbench.experiment.sample import sample_text

    try:
        check_path(parsed.run)
    except ValueError as error:
        raise DefinitionError(f"command line: RUN: {error}") from None
    for text in sample_text(
        parsed.runs,
        parsed.run,
        parsed.prompt,
        num_samples=parsed.num,
        max_new_tokens=parsed.max_new_tokens,
        temperature=parsed.temperature,
        seed=parsed.seed,
        raw=parsed.raw,
        system=parsed.system,
    ):
        say(text)
    return 0


def _schema(_parsed: argparse.Namespace) -> int:
    from workbench.experiment.definition.json_schema import schema_text

    say(schema_text().removesuffix("\n"))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "prepare": _prepare,
    "train": _train,
    "stop": _stop,
    "plan": _plan,
    "data": _data,
    "report": _report,
    "status": _status,
    "explain": _explain,
    "compare": _compare,
    "export": _export,
    "dashboard": _dashboard,
    "sample": _sample,
    "schema": _schema,
}


if __name__ == "__main__":
    entry()
