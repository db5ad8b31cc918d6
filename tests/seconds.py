"""A pytest plugin: the CPU seconds that each trainer adds to `make test`, and the most that a new one may add.

Seconds of the processor, those of the processes that a test starts among them, so that work beside the tests does not
count. A test is a trainer's where a part of its id is the trainer's name, or its file is that trainer's own.
"""

from __future__ import annotations

import re
import resource
from collections import Counter
from typing import Any

import pytest

from workbench.trainer.registry import trainer_names

MOST = 20.0
"""Of one trainer, on one core."""
CARRIERS = ("pretrain", "sft", "dpo", "grpo", "ppo")
"""On which laws of the core, of models and of experiments are tried as well."""
PROPERTY = "cpu_seconds"


def trainers_of(nodeid: str) -> list[str]:
    """The trainers whose test it is."""
    path, _, name = nodeid.partition("::")
    words = re.split(r"[\[\]-]", name)[1:]
    return [trainer for trainer in trainer_names() if trainer in words or f"trainer/test_{trainer}_" in path]


def too_much(seconds: Counter[str]) -> list[str]:
    """A line for each trainer that adds more than it may."""
    return [
        f"tests of the trainer {name} take {seconds[name]:.0f} CPU seconds, allowed {MOST:.0f}: mark its own `slow` or"
        " make them smaller"
        for name in sorted(seconds)
        if seconds[name] > MOST and name not in CARRIERS
    ]


class Seconds:
    """Measures each test in the process that runs it, and sums them up in the one that reports."""

    def __init__(self, config: pytest.Config) -> None:
        self.is_worker = hasattr(config, "workerinput")
        self.began = 0.0
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logstart(self) -> None:
        self.began = _spent()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        report = yield
        if call.when == "teardown":
            report.user_properties.append((PROPERTY, _spent() - self.began))
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        is_quick = report.when == "teardown" and "slow" not in report.keywords
        for name in trainers_of(report.nodeid) if is_quick and not self.is_worker else ():
            self.seconds[name] += dict(report.user_properties)[PROPERTY]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and too_much(self.seconds):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.seconds and terminalreporter.config.getoption("numprocesses", None):
            told = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.most_common())
            terminalreporter.section("CPU seconds of quick tests by trainer")
            terminalreporter.write_line(told)
        for line in too_much(self.seconds):
            terminalreporter.write_line(line, red=True)


def _spent() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Seconds(config))
