"""An experiment in parts, each trained before the next is known: the trials of a search as they are chosen, then the
best of them on fresh seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import DefinitionError
from workbench.experiment.definition.grid import variant_name
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.definition.schema import Chosen, Experiment, RunSpec, make_key
from workbench.experiment.search import tpe
from workbench.experiment.search.design import design, drawn
from workbench.experiment.search.halving import best_of, promoted_at_once, promoted_together
from workbench.experiment.search.journal import Journal, Trial
from workbench.experiment.search.results import ended_runs, result_of, spent_by
from workbench.experiment.search.settings import Pause
from workbench.tracking.words import plural
from workbench.trainer.records.costs import Costs

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """What is trained next. whole: the experiment as far as it is known, for plan and report. todo: the same with the
    runs of this part alone."""

    whole: Experiment
    todo: Experiment
    fresh: frozenset[str] = frozenset()
    """Keys of runs that are trained anew though they are finished."""


def parts(experiment: Experiment, runs: Path, *, jobs: int, fresh: bool, say: Say) -> Iterator[Part]:
    """An experiment that names its runs is one part. Each part of a search is to be trained before the next is asked
    for. fresh: all is trained anew, and a search begins anew."""
    if experiment.search is None:
        keys = frozenset(run.key for run in experiment.runs)
        return iter([Part(experiment, experiment, keys if fresh else frozenset())])
    return _Search(experiment, runs, jobs, fresh, say).parts()


def refuse_shared(experiment: Experiment, share: bool) -> None:
    """Raises DefinitionError for a search that is shared: what comes next depends on what all its trials gave."""
    if share and experiment.search is not None:
        raise DefinitionError(f"{experiment.file}: sweep.search: found with SHARE=1, allowed one command at a time")


def as_it_stands(experiment: Experiment, runs: Path) -> Experiment:
    """The experiment with the trials that its search has begun, those that are drawn before any result is known, and,
    where no trial will follow, the confirmation of the best."""
    if experiment.search is None:
        return experiment
    return _Search(experiment, runs, 1, False, lambda _: None).known()


class _Search:
    """One command's search."""

    def __init__(self, experiment: Experiment, runs: Path, jobs: int, fresh: bool, say: Say) -> None:
        assert experiment.search is not None, "only a search is searched"
        self.experiment, self.search, self.runs, self.jobs, self.say = experiment, experiment.search, runs, jobs, say
        self.settings = experiment.search.settings
        self.journal = Journal(experiment, runs)
        self.fresh = fresh
        self.ended: dict[str, float] = {}
        """What each trial gave, by its name, of those that have ended; NaN: it failed."""
        self.tried: set[str] = set()
        """Names of the trials that this command has trained, or tried to."""
        self.given: set[str] = set()
        """Keys of the runs that were part of what this command trains."""

    def parts(self) -> Iterator[Part]:
        """Each part after the one before it was trained."""
        if self.fresh:
            self.journal.begin_anew()
        elif self.journal.trials or self.journal.left_out:
            self._tell_reused()
        while True:
            whole = self._grown()
            self._read(whole)
            waiting = self._waiting()
            begun = [] if waiting else [trial for arm in self.search.spaces for trial in self._next(arm)]
            if begun:
                self.journal.add(begun)
            elif waiting:
                yield self._part(whole, {self._variant(trial) for trial in waiting})
                self.tried |= {trial.name for trial in waiting}
            else:
                break
        self._keep_journals()
        yield self._part(self._complete(), set())

    def known(self) -> Experiment:
        """What is known without training anything, or asking for what results decide."""
        self._read(self._grown(), trains=False)
        arms = self.search.spaces
        growing = [arm for arm in arms if not self._waiting() or not self.journal.of_arm(arm)]
        self.journal.trials += [trial for arm in growing for trial in self._next(arm, drawn_only=True)]
        if not self._waiting() and all(self._is_over(arm) and not self._goes_on(arm) for arm in arms):
            return self._complete()
        return self._grown()

    def _goes_on(self, arm: str | None) -> bool:
        """Whether a trial of an arm that is begun will go on to another rung."""
        return self.settings.halving is not None and bool(self._next(arm))

    def _tell_reused(self) -> None:
        number, others = sum(trial.rung == 0 for trial in self.journal.trials), self.journal.num_outside
        told = f"search: {plural(number, 'trial')} begun before {'is' if number == 1 else 'are'} reused"
        if others:
            told += f"; {others} outside the space of now {'counts' if others == 1 else 'count'} for nothing"
        self.say(told)

    # Which runs.

    def _grown(self, confirmed: tuple[str, ...] = (), complete: bool = False) -> Experiment:
        """The experiment with the trials that were begun. Raises DefinitionError where its file has changed."""
        asked = self.experiment
        trials = {arm: [trial.setting for trial in self.journal.of_arm(arm)] for arm in self.search.spaces}
        chosen = Chosen(trials, confirmed, complete)
        found = load_experiment(asked.definition, asked.overrides, asked.folder, chosen)
        if found.text != asked.text:
            raise DefinitionError(f"{asked.file}: changed while its search ran; the same command goes on with it")
        pauses = {self._variant(trial): self._pause(trial) for trial in sorted(self.journal.trials, key=_by_rung)}
        of_trial = [run for run in found.runs if run.seed in self.search.seeds]
        paused = {run.key: replace(run, pause=pauses.get(run.variant)) for run in of_trial}
        return replace(found, runs=tuple(paused.get(run.key, run) for run in found.runs))

    def _pause(self, trial: Trial) -> Pause | None:
        """Where a trial is judged; None: at its end."""
        return self.search.rungs[trial.arm][trial.rung]

    def _complete(self) -> Experiment:
        """The experiment with the confirmation of its best: of equals the first that was tried."""
        top = self.settings.confirm.top if self.settings.confirm is not None else 0
        confirmed: list[str] = []
        for arm in self.search.spaces:
            last = self.journal.of_arm(arm, len(self.search.rungs[arm]) - 1)
            confirmed += [self._variant(trial) for trial in best_of(last, self.ended)[:top]]
        return self._grown(tuple(confirmed), complete=True)

    def _part(self, whole: Experiment, waiting: set[str]) -> Part:
        """The runs of these variants; without any, the confirmation. The first part counts all that there is."""
        first = not self.given
        runs = [
            run
            for run in whole.runs
            if first or (run.variant in waiting if run.seed in self.search.seeds else not waiting)
        ]
        before = {key: spec for key, spec in whole.ancestors.items() if key not in self.given}
        anew = frozenset(run.key for run in runs) - self.given
        self.given |= anew | before.keys()
        todo = replace(whole, runs=tuple(runs), ancestors=before)
        return Part(whole, todo, anew if self.fresh else frozenset())

    @staticmethod
    def _variant(trial: Trial) -> str:
        return variant_name(trial.arm, trial.setting)

    # What they gave.

    def _waiting(self) -> list[Trial]:
        return [trial for trial in self.journal.trials if trial.name not in self.ended]

    def _read(self, whole: Experiment, *, trains: bool = True) -> None:
        """Look at the trials that had not ended: a run that this command tried and that is not finished has failed.
        trains: off, so has one whose folder says so, which no command tries again before the next that trains."""
        of: dict[str, list[RunSpec]] = {self._variant(trial): [] for trial in self._waiting()}
        for run in whole.runs:
            if run.variant in of and run.seed in self.search.seeds:
                of[run.variant].append(run)
        asked = [spec for own in of.values() for spec in own]
        finished, failed = ended_runs([*whole.ancestors.values(), *asked], self.runs) if asked else (set(), set())
        for trial in self._waiting():
            own = of[self._variant(trial)]
            tried = trial.name in self.tried
            if all(run.key in finished for run in own) and (tried or not self.fresh):
                values = [result_of(run, self.runs, self._pause(trial)) for run in own]
                self.ended[trial.name] = math.fsum(values) / len(values)
            elif tried or (not trains and all(run.key in finished | failed for run in own)):
                self.ended[trial.name] = math.nan

    # What comes next.

    def _is_over(self, arm: str | None) -> bool:
        """Whether an arm begins no further trial: all are tried, its budget is spent, or all of several failed."""
        begun = self.journal.of_arm(arm)
        if len(begun) >= self.search.num_trials(arm):
            return True
        if len(begun) >= self.settings.num_first and all(math.isnan(self.ended.get(t.name, 0.0)) for t in begun):
            return True
        budget = self.settings.budget
        return budget is not None and self._spent(begun).spent(budget) is not None

    def _spent(self, trials: list[Trial]) -> Costs:
        """What the runs of these trials have spent."""
        total = Costs()
        for trial in trials:
            for seed in self.search.seeds:
                total.add(spent_by(make_key(self.experiment.name, self._variant(trial), seed), self.runs))
        return total

    def _next(self, arm: str | None, *, drawn_only: bool = False) -> list[Trial]:
        """The trials of an arm that begin, or go on, now. drawn_only: those that no result decides."""
        halving = self.settings.halving
        if drawn_only or halving is None:
            return self._begun(arm, drawn_only=drawn_only)
        rungs = [self.journal.of_arm(arm, rung) for rung in range(len(self.search.rungs[arm]))]
        top = self.settings.confirm.top if self.settings.confirm is not None else 1
        if halving.rule == "successive":
            return self._begun(arm) or promoted_together(rungs, self.ended, halving.factor, top)
        found = promoted_at_once(rungs, self.ended, halving.factor)[: self._at_once()]
        found += self._begun(arm)[: self._at_once() - len(found)]
        return found or promoted_together(rungs, self.ended, halving.factor, top)

    def _at_once(self) -> int:
        """How many trials of an arm are trained side by side where each depends on those before."""
        return max(1, self.jobs // (len(self.search.seeds) * len(self.search.spaces)))

    def _begun(self, arm: str | None, *, drawn_only: bool = False) -> list[Trial]:
        """The trials of an arm that begin now."""
        if self._is_over(arm):
            return []
        begun, space, settings = self.journal.of_arm(arm), self.search.spaces[arm], self.settings
        left = self.search.num_trials(arm) - len(begun)
        by_results = settings.sampler == "tpe" and len(begun) >= len(drawn(space, settings))
        if by_results and drawn_only:
            return []
        if by_results or (settings.budget is not None and not drawn_only):
            left = min(left, self._at_once())
        elif settings.sampler == "tpe":
            left = len(drawn(space, settings)) - len(begun)
        found: list[Trial] = []
        while by_results and len(found) < left:
            told = [(trial.setting, self.ended.get(trial.name)) for trial in [*begun, *found]]
            trial = Trial(arm, tpe.suggest(space, told, settings.seed))
            new = [trial] if trial not in [*begun, *found] else self._untried(arm, found, 1)
            if not new:
                break
            found += new
        return found or self._untried(arm, [], left)

    def _untried(self, arm: str | None, besides: list[Trial], number: int) -> list[Trial]:
        """The next trials of the design that were not begun."""
        begun = [*self.journal.of_arm(arm), *besides]
        known = {trial.name for trial in begun}
        space, settings = self.search.spaces[arm], self.settings
        settled = design(space, settings.sampler, len(begun) + number, settings.seed)
        return [trial for setting in settled if (trial := Trial(arm, setting)).name not in known][:number]

    def _keep_journals(self) -> None:
        """Write Optuna's journal of what tpe was told."""
        for arm, space in self.search.spaces.items() if self.settings.sampler == "tpe" else ():
            told = [(trial.setting, self.ended.get(trial.name)) for trial in self.journal.of_arm(arm)]
            path = self.journal.path.with_name("optuna.jsonl")
            tpe.keep_journal(space, told, path, arm or self.experiment.name)


def _by_rung(trial: Trial) -> int:
    return trial.rung
