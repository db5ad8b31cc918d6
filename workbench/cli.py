"""The command line. Errors that a user can mend are one line each; exit codes are those of errors.py."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from workbench.errors import DefinitionError, WorkbenchError
from workbench.interrupts import SIGNALS, handled_by, interrupt_behind, raise_interrupt
from workbench.redaction import redact

if TYPE_CHECKING:
    from workbench.experiment.definition.schema import Experiment


def entry(arguments: Sequence[str] | None = None) -> None:
    """The command as a program. A signal before its work begins or after its code is known ends it as it would any
    program: without a word."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    sys.exit(main(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    parsed = _parser().parse_args(arguments)
    came: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise_interrupt(number, frame)

    try:
        with handled_by(receive):
            return parsed.command(parsed)
    except BaseException as error:
        if request := interrupt_behind(error):
            return 128 + request.signal_number
        if isinstance(error, WorkbenchError):
            print(redact(str(error)), file=sys.stderr)
            return error.exit_code
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            return 0
        # Libraries in C++ turn what Python raises within them into errors of their own, without a trace of it.
        if came and isinstance(error, Exception):
            return 128 + came[0]
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workbench", description="Run and compare post-training experiments.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: object, text: str, *, overrides: bool = True, named: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs")
        if named:
            sub.add_argument("name", metavar="NAME", help="a file of experiments/, without folder and ending")
        if overrides:
            sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides")
        return sub

    for name, command, text in (
        ("run", _run, "train what is missing and write the report"),
        ("plan", _plan, "what would run, what is cached, what changed, what it will take"),
    ):
        sub = add(name, command, text)
        sub.add_argument("--jobs", type=_positive, help="runs side by side (default: cores / threads)")
        sub.add_argument("--fresh", action="store_true", help="train anew what is finished")
        sub.add_argument("--share", action="store_true", help="divide the runs among all commands that say so")
        sub.add_argument("--inexact", action="store_true", help="go on from checkpoints of other libraries or threads")
        sub.add_argument("--allow-reward-code", action="store_true", help="run the Python files that are rewards")
    data = add("data", _data, "what the model will see: tokens, what is learned of them, lengths, rows cut or left out")
    data.add_argument("--rows", type=_positive, default=3, help="rows shown here; the page shows more")
    data.add_argument("--split", choices=("train", "held_out"), default="train", help="what is trained or measured on")
    add("report", _report, "write the report again")
    add("status", _status, "how the runs stand")
    add("explain", _explain, "every resolved value with its origin, and every convention")
    compare = add("compare", _compare, "one report over several experiments", overrides=False, named=False)
    compare.add_argument("names", nargs="+", metavar="NAME", help="experiments that were run")
    export = add("export", _export, "runs, metrics and completions as tables", overrides=False, named=False)
    export.add_argument("names", nargs="+", metavar="NAME", help="experiments that were run")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the tables")
    export.add_argument("--format", choices=("csv", "parquet"), default="csv")
    dashboard = add("dashboard", _dashboard, "TensorBoard over all runs", overrides=False, named=False)
    dashboard.add_argument("--port", type=_positive, help="of this machine's loopback (default: 6006)")
    sample = add("sample", _sample, "complete a prompt with a run's model", overrides=False, named=False)
    sample.add_argument("run", metavar="RUN", help="experiment/variant/seed0, or a model folder")
    sample.add_argument("prompt", metavar="PROMPT")
    sample.add_argument("--num", type=_positive, default=1, help="completions")
    sample.add_argument("--max-new-tokens", type=_positive, default=128)
    sample.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest token")
    sample.add_argument("--seed", type=int, default=0)
    add("schema", _schema, "the JSON Schema of a definition file", overrides=False, named=False)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text}, allowed numbers > 0")
    return number


def _load(parsed: argparse.Namespace) -> Experiment:
    from workbench.experiment.definition.resolve import load_experiment

    return load_experiment(parsed.name, parsed.set)


def _run(parsed: argparse.Namespace) -> int:
    # Loading torch makes a million objects that all stay: looking for garbage among them takes 0.7 s of a start.
    # The processes that train collect as usual (experiment/launchers.py).
    gc.disable()
    if parsed.share and parsed.fresh:
        raise DefinitionError(
            "command line: --share: not with --fresh: each command would train anew what another made"
        )
    experiment = _load(parsed)
    from workbench.experiment.exactness import allow_inexact
    from workbench.experiment.launchers import set_environment
    from workbench.experiment.reward_code import allow_reward_code, refuse_reward_code

    if parsed.allow_reward_code:
        allow_reward_code()
    if parsed.inexact:
        allow_inexact()
    refuse_reward_code(experiment, parsed.runs)
    set_environment()
    from workbench.experiment.runner import run_experiment

    return run_experiment(
        experiment, parsed.runs, jobs=parsed.jobs, fresh=parsed.fresh, share=parsed.share, report=_write_report
    )


def _plan(parsed: argparse.Namespace) -> int:
    experiment = _load(parsed)
    from workbench.experiment.plan_text import describe_plan

    allowed = parsed.allow_reward_code
    print(redact(describe_plan(experiment, parsed.runs, jobs=parsed.jobs, fresh=parsed.fresh, reward_code=allowed)))
    if found := _detectable(experiment, parsed.runs):
        print(
            "\n".join(
                ["differences that are found four times in five, at level 0.05", *(f"  {line}" for line in found)]
            )
        )
    return 0


def _detectable(experiment: Experiment, runs: Path) -> list[str]:
    """What the planned seeds and prompts can tell apart."""
    from analysis import detectable

    evaluated = [run.evaluate for run in experiment.runs if run.evaluate is not None]
    prompts = [evaluate.prompts for evaluate in evaluated if evaluate.task is not None or evaluate.path is not None]
    variants = len({(run.arm, run.variant) for run in experiment.runs})
    return detectable.in_words(
        seeds=len(experiment.seeds),
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
    from analysis.report import write_report

    return write_report(folder)


def _report(parsed: argparse.Namespace) -> int:
    experiment = _load(parsed)
    print(_write_report(parsed.runs / experiment.name))
    return 0


def _compare(parsed: argparse.Namespace) -> int:
    from analysis.report import write_comparison

    folders = [parsed.runs / name for name in _experiments(parsed.names)]
    print(write_comparison(folders, parsed.runs / "reports" / "+".join(folder.name for folder in folders)))
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from analysis import load_runs

    names = _experiments(parsed.names)
    loaded = load_runs(parsed.runs, lambda row: row["run"].split("/")[0] in names)
    missing = [name for name in names if not loaded.runs["run"].str.startswith(f"{name}/").any()]
    if missing:
        raise DefinitionError(f"{parsed.runs / missing[0]}: no runs; `make exp NAME={missing[0]}` makes them")
    for path in loaded.export(parsed.out, parsed.format):
        print(path)
    return 0


def _dashboard(parsed: argparse.Namespace) -> int:
    from workbench.tracking.dashboard import show

    show(parsed.runs, parsed.port)
    return 0


def _experiments(names: Sequence[str]) -> list[str]:
    """The names, each once, of folders that lie in the folder of runs. DefinitionError for what cannot be one."""
    from workbench.experiment.definition.files import NAME

    for name in names:
        if not NAME.fullmatch(name.split("+")[0]) or "/" in name:
            raise DefinitionError(f"command line: NAME: found {name!r}, allowed experiments that were run")
    return list(dict.fromkeys(names))


def _status(parsed: argparse.Namespace) -> int:
    from workbench.experiment.status import status_text

    print(redact(status_text(_load(parsed), parsed.runs)))
    return 0


def _explain(parsed: argparse.Namespace) -> int:
    from workbench.experiment.definition.explain import explain

    print(redact(explain(_load(parsed))))
    return 0


def _sample(parsed: argparse.Namespace) -> int:
    from workbench.experiment.sample import sample_text

    if parsed.temperature < 0:
        raise DefinitionError(f"--temperature: found {parsed.temperature}, allowed numbers >= 0")
    for text in sample_text(
        parsed.runs,
        parsed.run,
        parsed.prompt,
        num_samples=parsed.num,
        max_new_tokens=parsed.max_new_tokens,
        temperature=parsed.temperature,
        seed=parsed.seed,
    ):
        print(text)
    return 0


def _schema(_parsed: argparse.Namespace) -> int:
    from workbench.experiment.definition.json_schema import schema_text

    print(schema_text(), end="")
    return 0


if __name__ == "__main__":
    entry()
