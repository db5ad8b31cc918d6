"""`workbench run`: everything an experiment needs, wave by wave, in processes side by side; then its report."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from workbench.errors import AlreadyRunningError, DataError, Interrupted, ModelError, StorageError, WorkbenchError
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.experiment.planning.changes import describe_change
from workbench.experiment.planning.plan import OTHER_CODE, PlannedRun, plan_runs, recorded_precisions, waves
from workbench.experiment.planning.plan_file import plan_path, write_plan
from workbench.experiment.planning.space import refuse_without_space
from workbench.experiment.running import stops
from workbench.experiment.running.launchers.choose import choose_launcher
from workbench.experiment.running.launchers.launcher import Job, Launcher
from workbench.experiment.running.outcome import Outcome
from workbench.experiment.running.planned_run import write_planned
from workbench.experiment.running.prepare import Preparer
from workbench.experiment.running.prepared import PreparedRun
from workbench.experiment.running.processes import BUG_EXIT_CODE, default_jobs, describe_exit
from workbench.experiment.running.provenance import collect_provenance, current_commit
from workbench.experiment.running.run_folder import PAUSED, RunFolder
from workbench.experiment.running.run_log import last_line
from workbench.experiment.running.train import train_run, warm_up
from workbench.experiment.search.loop import Part, parts, refuse_shared
from workbench.inputs import REMEDY
from workbench.interrupts import InterruptRequested, handled_by, interrupt_behind
from workbench.locks import hold, is_held
from workbench.permissions import NOTHING, Permissions
from workbench.tracking.sinks.console import Console
from workbench.tracking.sinks.follow import Followers
from workbench.tracking.sinks.replay import needs_replay
from workbench.tracking.terminal import complain
from workbench.tracking.words import plural

FAILED = "failed: "
POLL_SECONDS = 0.1
STOPPED_CODE = Interrupted(signal.SIGTERM, saved=False).exit_code
"""The exit code of what a user's request stopped."""
STOP_SECONDS = 60.0
"""How long runs may take to write their checkpoints after a signal."""


def run_experiment(
    experiment: Experiment,
    runs: Path,
    *,
    jobs: int | None = None,
    fresh: bool = False,
    share: bool = False,
    permissions: Permissions = NOTHING,
    trains: bool = True,
    launcher: str | None = None,
    report: Callable[[Path], Path] | None = None,
) -> int:
    """Train what is missing, write the report, return the exit code. Raises AlreadyRunningError.

    trains: off, all that the runs need is made, as far as the runs that they begin from are there, and each is left
    planned for `workbench train`. jobs: runs side by side; None takes cores / threads. share: other commands that
    share may work on the experiment at the same time, here or on other machines with the same folder; each run is
    trained by one of them. launcher: by name, which trains them; None takes the machine's. report: writes an
    experiment folder's report, returns its page.
    """
    refuse_shared(experiment, share)
    refuse_without_space(experiment, runs, fresh)
    jobs = jobs or default_jobs(max(run.threads for run in experiment.runs))
    outcome, stopped, sweep, trained_by = Outcome(), None, None, choose_launcher(launcher, jobs)
    name = experiment.name
    with stops.heard(runs, name), hold(runs, name, shared=share, inside=True), Console() as console:
        stops.forget(runs, name, *experiment.ancestors)
        for part in parts(experiment, runs, jobs=jobs, fresh=fresh, say=console.say):
            if stops.is_asked(runs, name):
                outcome.codes[name] = STOPPED_CODE
                console.say(f"{name}: {stops.SAYS}")
                break
            sweep = Sweep(
                part, runs, console, permissions, outcome, jobs=jobs, launcher=trained_by, share=share, trains=trains
            )
            sweep.run()
            if (stopped := sweep.received) or outcome.is_stopped or not trains:
                break
        if report is not None and sweep is not None and not stopped:
            page = runs / name / "report" / "index.html"
            with hold(runs, f"{name}/report", on_wait=lambda _: None):
                current = not outcome.codes and sweep.is_reported(page)
                console.say(f"report: {page if current else report(runs / name)}")
    return 128 + stopped if stopped else outcome.exit_code


class Sweep:
    """The work of one command, or of a part of it. What comes of it is added to the outcome."""

    def __init__(
        self,
        part: Part,
        runs: Path,
        console: Console,
        permissions: Permissions,
        outcome: Outcome,
        *,
        jobs: int,
        launcher: Launcher,
        share: bool,
        trains: bool,
    ) -> None:
        self.experiment, self.runs, self.console, self.permissions = part.whole, runs, console, permissions
        self.todo, self.fresh, self.jobs = part.todo, part.fresh, jobs
        self.share, self.trains, self.launcher = share, trains, launcher
        self.root, self.outcome = Path.cwd(), outcome
        self.provenance = collect_provenance(self.root)
        self.received: int | None = None
        self._fingerprints: dict[str, str | None] = {}
        self._told: set[str] = set()
        self._planned: dict[str, PlannedRun] = {}
        self._records: dict[str, Callable[[], PreparedRun]] = {}
        self._expected: frozenset[str] = frozenset()

    def run(self) -> None:
        """Every wave in turn."""
        levels = waves(self.todo)
        specs = [spec for level in levels for spec in level]
        write_plan(self.experiment, self.runs, notes=self._notes())
        precisions = recorded_precisions(specs, self.runs)
        planned = plan_runs(specs, self.runs, precisions, fresh=self.fresh)
        self._expected = frozenset(run.spec.key for run in planned if run.must_run)
        self.console.expect({s.key: s.hyperparameters.steps or 0 for s in specs if s.key in self._expected})
        broken = {run.spec.key: run.reason for run in planned if run.state == "broken"}
        if all(run.key in broken for run in self.experiment.runs):  # what they begin from is not trained for nothing
            levels = []
            for run in self.experiment.runs:
                self._fail(run.key, broken[run.key], WorkbenchError.exit_code)
        with handled_by(self._receive), self._trackers(specs):
            try:
                for level in levels:
                    self._run_wave(level)
            except BaseException as error:
                if interrupt_behind(error) is None:
                    raise
                self._stop_processes()
        write_plan(self.experiment, self.runs, notes=self._notes(), failures=self.outcome.failures)

    def is_reported(self, page: Path) -> bool:
        """Whether the report was written after everything that it is made of."""
        keys = {key for run in self.experiment.runs for key in (run.key, *run.needs)}
        sources = [plan_path(self.experiment, self.runs), *(self.runs / key / "status.json" for key in keys)]
        return page.is_file() and all(
            path.is_file() and path.stat().st_mtime <= page.stat().st_mtime for path in sources
        )

    def _run_wave(self, specs: list[RunSpec]) -> None:
        preparer = Preparer(self.runs, self.console, self.jobs)
        precisions = {}
        for spec in specs:
            if not self._start_failed(spec):
                with self._failing(spec.key):
                    precisions[spec.key] = preparer.models.precision(spec)
        able = [spec for spec in specs if spec.key in precisions]
        options: dict[str, Any] = {"fresh": self.fresh, "commit": current_commit(self.root)}
        planned = plan_runs(able, self.runs, precisions, **options)
        taken_back = [self._take_back(run) for run in planned]  # each of them, not up to the first
        if any(taken_back):
            planned = plan_runs(able, self.runs, precisions, **options)
        self._planned |= {run.spec.key: run for run in planned}
        self.outcome.cached += sum(not run.must_run for run in planned)
        cached = [run for run in planned if not run.must_run]
        if cached:
            other = sum(OTHER_CODE in run.reason for run in cached)
            note = f" ({other} made by other code: `make plan NAME={self.experiment.name}` tells)" if other else ""
            self.console.say(f"{len(cached)} of {plural(len(planned), 'run')} finished already{note}")
        if len(cached) < len(planned):
            warm_up()
        ready = [run for run in planned if run.must_run and (self.trains or run.state != "waits")]
        prepared = [made for run in ready if (made := self._prepare(preparer, run))]
        if self.trains:
            self._train(prepared)
        else:
            self._tell(planned)

    def _tell(self, planned: list[PlannedRun]) -> None:
        """Says how runs stand that are not trained by this command."""
        for key, run in ((run.spec.key, run) for run in planned if run.spec.key not in self.outcome.codes):
            waits = f"not planned yet: {run.reason}" if run.state == "waits" else f"planned: `workbench train {key}`"
            self.console.say(f"{key}: {waits if run.must_run else 'finished already'}")

    def _start_failed(self, spec: RunSpec) -> bool:
        failed = [key for key in spec.needs if self.outcome.codes.get(key)]
        if failed:
            how = "was stopped" if self.outcome.codes[failed[0]] > 128 else "failed"
            message = f"not run: {failed[0]}, which it begins from, {how}"
            self._fail(spec.key, message, self.outcome.codes[failed[0]], "missing")
        return bool(failed)

    def _prepare(self, preparer: Preparer, run: PlannedRun) -> PreparedRun | None:
        with self._failing(run.spec.key):
            if run.state == "broken":
                raise WorkbenchError(run.reason)
            prepared = preparer.prepare(run.spec, run.precision)
            was, now = run.identity.fields, prepared.identity.fields
            if was != now and was is not None and now is not None:
                raise DataError(f"{describe_change(was, now)}, since it was planned; {REMEDY}")
            prepared = replace(prepared, scores_again=run.trained is not None)
            self._records[run.spec.key] = write_planned(prepared, self.runs)
            return prepared
        return None

    @contextmanager
    def _failing(self, key: str) -> Iterator[None]:
        """What goes wrong within ends this run, and no other."""
        try:
            yield
        except WorkbenchError as error:
            self._fail(key, str(error), error.exit_code)

    def _take_back(self, run: PlannedRun) -> bool:
        """Whether a finished run of just this identity, which another had taken the place of, is in its place again."""
        folder = RunFolder(self.runs, run.spec.key)
        superseded = folder.superseded_as(run.identity.fingerprint) if run.state == "kept" else None
        if superseded is None:
            return False
        try:
            with hold(self.runs, run.spec.key, inside=True):
                folder.take_back(superseded)
        except (AlreadyRunningError, ModelError):  # another command is at it; or what was kept is damaged
            return False
        self.console.say(f"{run.spec.key}: {superseded} is what is asked for, and was taken back")
        return True

    def _make_way(self, prepared: PreparedRun) -> None:
        """Move out of the way what the run's folder holds of another identity: only now, for all that the new one needs
        is there. Where another command is at the run, it is left to the run, which waits for that one's end."""
        key = prepared.spec.key
        folder, reason = RunFolder(self.runs, key), self._planned[key].reason
        with contextlib.suppress(AlreadyRunningError), hold(self.runs, key, inside=True):
            status = folder.status()
            stale = status.get("fingerprint") != prepared.identity.fingerprint or key in self.fresh
            if stale and (status or (folder.path / "checkpoints").exists()):
                self.console.say(f"{key}: {reason}; the old one is now {folder.supersede()}")

    def _fail(self, key: str, message: str, code: int, state: str = "failed") -> None:
        self.outcome.codes[key] = code
        self.outcome.failures[key] = state, message
        self.console.ended(key, "failed: as above" if message in self._told else f"failed: {message}")
        self._told.add(message)

    def _withdraw(self, key: str) -> None:
        """A run that was asked to stop before it began."""
        self.outcome.codes[key] = STOPPED_CODE
        if not RunFolder(self.runs, key).status():
            self.outcome.failures[key] = stops.STOPPED, stops.SAYS
        self.console.ended(key, stops.SAYS)

    def _train(self, prepared: list[PreparedRun]) -> None:
        """Each in a process of its own, `jobs` at a time."""
        gc.enable()  # it was off while everything was loaded
        waiting = list(reversed(prepared))
        while waiting or self.launcher.running:
            while waiting and self.launcher.has_room():
                run = self._take(waiting)
                if any(stops.is_asked(self.runs, name) for name in (run.spec.key, self.experiment.name)):
                    self._withdraw(run.spec.key)
                    continue
                folder = RunFolder(self.runs, run.spec.key)
                if not run.scores_again:
                    self._make_way(run)
                self._fingerprints[run.spec.key] = run.identity.fingerprint
                self.launcher.submit(Job(run.spec.key, run.spec.threads, folder.log, self._task(run.spec.key)))
                if not run.scores_again:
                    self.console.started(run.spec.key, folder.path, run.num_steps)
                else:
                    self.console.say(
                        f"{run.spec.key}: scoring again, not training: {self._planned[run.spec.key].reason}"
                    )
            self._reap()
            self.console.refresh()

    def _task(self, key: str) -> Callable[[], None]:
        """The work of a run's process."""
        load = self._records[key]
        return lambda: train_run(load(), self.runs, self.provenance, self.permissions)

    def _take(self, waiting: list[PreparedRun]) -> PreparedRun:
        """The next that no other command is at; where there is none, the next, which waits for the other's end."""
        for index in reversed(range(len(waiting))) if self.share else ():
            if not is_held(self.runs, waiting[index].spec.key):
                return waiting.pop(index)
        return waiting.pop()

    def _reap(self) -> None:
        for key, ended in self.launcher.wait(POLL_SECONDS).items():
            code, said = self._end(key, ended, RunFolder(self.runs, key).log)
            self.outcome.codes[key] = code
            self.outcome.trained += 1
            if code and self._planned[key].trained is not None and said.startswith(FAILED):
                self.outcome.failures[key] = "failed", said.removeprefix(FAILED)
            self.console.ended(key, said, () if code else RunFolder(self.runs, key).status().get("harms") or ())

    def _end(self, key: str, code: int, log: Path) -> tuple[int, str]:
        """A run is finished where its status says so, for the fingerprint that was asked; never for its exit code."""
        if code == 0 and not self._is_finished(key):
            message = f"its process ended with exit code 0 before the run was finished; {log} tells what it was at"
            if self._planned[key].trained is not None:  # what is in its place is finished, and stays so
                return BUG_EXIT_CODE, f"{FAILED}{message}"
            with contextlib.suppress(StorageError):
                RunFolder(self.runs, key).write_status(state="failed", message=message, exit_code=BUG_EXIT_CODE)
            return BUG_EXIT_CODE, f"failed: {message}"
        return code, self._describe_end(key, code, log)

    def _is_finished(self, key: str) -> bool:
        folder = RunFolder(self.runs, key)
        ended = folder.is_finished() or folder.is_paused(self._planned[key].spec.pause)
        return ended and folder.status().get("fingerprint") == self._fingerprints.get(key)

    def _describe_end(self, key: str, code: int, log: Path) -> str:
        folder = RunFolder(self.runs, key)
        status = folder.status()
        if code and status.get("state") in ("interrupted", stops.STOPPED):
            return str(status["message"])
        if self.received is not None and code == 128 + self.received:
            return "interrupted"
        if code and status.get("state") == "running":
            # It ended without a record: it was killed from outside, the disk took nothing, or it is our own mistake.
            message = describe_exit(128 - code) if code > 128 else f"unexpected error; {log} tells"
            if code == StorageError.exit_code:
                message = f"{folder.path}: cannot be written; free some space or choose RUNS=folder"
            with contextlib.suppress(StorageError):
                folder.write_status(state="failed", message=message, exit_code=code)
            return f"failed: {message}"
        if code == BUG_EXIT_CODE:
            return f"failed: unexpected error; {log} tells"
        if code:
            if not status.get("message"):  # it ended before it could write one
                return f"failed: {last_line(log) or f'exit code {code}'}"
            return f"{status.get('state', 'failed')}: {status['message']}"
        if status.get("state") == PAUSED:
            return str(status["message"])
        if self._planned[key].trained is not None:
            return "finished (scored again)"
        return f"finished ({status['stopped_by']})" if status.get("stopped_by") else "finished"

    def _notes(self) -> list[str]:
        """What the report must say of the data, once for all runs that share it."""
        found = [RunFolder(self.runs, run.key).status().get("notes") or [] for run in self.experiment.runs]
        old = [
            f"{key} is shown as it was made before: as it is defined now it failed ({message})"
            for key, (_, message) in self.outcome.failures.items()
            if RunFolder(self.runs, key).is_finished()
        ]
        return list(dict.fromkeys([*old, *(note for notes in found for note in notes)]))

    @contextmanager
    def _trackers(self, specs: list[RunSpec]) -> Iterator[None]:
        kinds = [kind for kind in ("tensorboard", "wandb") if any(kind in spec.track for spec in specs)]
        followers = Followers(kinds)
        folders = {self.runs / spec.key: spec.key in self._expected for spec in specs}
        followers.start([folder for folder, expected in folders.items() if expected or needs_replay(folder)])
        try:
            yield
        finally:
            for kind in followers.finish():
                self.console.say(f"{kind} did not finish in time; metrics.jsonl holds everything")

    # Signals.

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self.launcher.send(signal.SIGKILL)
            os._exit(128 + number)
        self.received = number
        raise InterruptRequested(number)

    def _stop_processes(self) -> None:
        assert self.received is not None
        self.launcher.send(self.received)
        if self.launcher.running:
            self.console.say("stopping: the runs write their checkpoints (again to stop at once)")
        deadline = time.monotonic() + STOP_SECONDS
        while self.launcher.running and time.monotonic() < deadline:
            self._reap()
        self.launcher.kill()
        complain("interrupted; the same command goes on where it stopped")
