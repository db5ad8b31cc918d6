"""What may be said to `workbench`: its commands and their options. cli.py does what is said."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from workbench.argument_types import cut, folder, positive, seed, temperature
from workbench.tracking.terminal import complain


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        complain(f"command line: {cut(message)}; `{self.prog} --help` tells what is allowed")
        sys.exit(2)


class _Commands:
    """The commands, added one by one; what is parsed says which was named as `command`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands: Any = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(self, name: str, text: str, *, named: bool = False, overrides: bool = False) -> argparse.ArgumentParser:
        """A command. named: it takes an experiment, and settings laid over it. overrides: those settings alone."""
        sub: argparse.ArgumentParser = self._commands.add_parser(name, help=text, description=text)
        sub.add_argument("--runs", type=folder, default=Path("runs"), metavar="DIR", help="folder of all runs")
        if named:
            sub.add_argument("name", metavar="NAME", help="a file of experiments/, without folder and ending")
        if named or overrides:
            sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides")
            sub.add_argument("--settings", default="", metavar="TEXT", help="overrides in one text, as SET of make")
        return sub


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog="workbench", description="Run and compare post-training experiments.")
    commands = _Commands(parser)
    _add_running(commands)
    _add_looking(commands)
    return parser


def _add_running(commands: _Commands) -> None:
    """What trains, or says what would be trained."""
    run = commands.add("run", "train what is missing and write the report", named=True)
    plan = commands.add("plan", "what would run, what is cached, what changed, what it will take", named=True)
    prepare = commands.add("prepare", "make what the runs rest on, and train nothing", named=True)
    train = commands.add("train", "train one planned run, here or under torchrun")
    train.add_argument("planned", metavar="RUN", help="experiment/variant/seed0 of a planned run, or its folder")
    stop = commands.add("stop", "let runs write a checkpoint and end; the command that began them goes on with them")
    stop.add_argument("name", metavar="NAME", help="an experiment that is running, or experiment/variant of it")
    for sub in (run, plan):
        sub.add_argument("--jobs", type=positive, help="runs side by side (default: cores / threads)")
        sub.add_argument("--fresh", action="store_true", help="train anew what is finished")
        sub.add_argument("--share", action="store_true", help="divide the runs among all commands that say so")
    run.add_argument("--launcher", metavar="NAME", help="what trains the runs (default: the machine's, else local)")
    for sub in (run, plan, prepare, train):
        sub.add_argument("--inexact", action="store_true", help="resume under other code, libraries or threads")
        sub.add_argument("--allow-reward-code", action="store_true", help="run the Python files that are rewards")


def _add_looking(commands: _Commands) -> None:
    """What looks at definitions, data and results."""
    data = commands.add(
        "data", "what the model will see: tokens, what is learned of them, lengths, rows cut", named=True
    )
    data.add_argument("--rows", type=positive, default=3, help="rows shown here; the page shows more")
    data.add_argument("--split", choices=("train", "held_out"), default="train", help="what is trained or measured on")
    commands.add("report", "write the report again", named=True)
    status = commands.add("status", "how the runs stand", named=True)
    status.add_argument("--json", action="store_true", help="one JSON object a run and line, for programs")
    status.add_argument("--watch", action="store_true", help="say it again every 2 s, while the experiment is running")
    explain = commands.add("explain", "every resolved value with its origin, and every convention", overrides=True)
    what = explain.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", metavar="NAME", help="a file of experiments/, or a trainer")
    what.add_argument("--methods", action="store_true", help="every method side by side")
    compare = commands.add("compare", "one report over several experiments")
    compare.add_argument("names", nargs="*", metavar="NAME", help="experiments that were run")
    export = commands.add("export", "runs, metrics and completions as tables")
    export.add_argument("names", nargs="*", metavar="NAME", help="experiments that were run")
    export.add_argument("--out", type=folder, required=True, metavar="DIR", help="folder of the tables")
    export.add_argument("--format", choices=("csv", "parquet"), default="csv")
    dashboard = commands.add("dashboard", "TensorBoard over all runs")
    dashboard.add_argument("--port", type=positive, help="of this machine's loopback (default: 6006)")
    sample = commands.add("sample", "complete a prompt with a run's model")
    sample.add_argument("run", metavar="RUN", help="experiment/variant/seed0, or a model folder")
    sample.add_argument("prompt", metavar="PROMPT")
    sample.add_argument("--num", type=positive, default=1, help="completions")
    sample.add_argument("--max-new-tokens", type=positive, help="128, and as many as fit, unless said")
    sample.add_argument("--temperature", type=temperature, default=1.0, help="0: the likeliest token")
    sample.add_argument("--seed", type=seed, default=0)
    sample.add_argument("--raw", action="store_true", help="the prompt as it stands, whatever the run was trained on")
    sample.add_argument("--system", help="a system message before the prompt, through the chat template")
    commands.add("schema", "the JSON Schema of a definition file")
