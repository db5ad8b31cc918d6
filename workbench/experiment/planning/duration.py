"""How long an experiment will take: its runs with their evaluations, side by side wave by wave, and what they share."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from workbench.data import forms
from workbench.data.settings import CollectData, MixData, ReadData, TaskSettings
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import RunSpec, scores_reference
from workbench.experiment.planning.estimate import Estimate, run_size, tokens_of, training_size
from workbench.experiment.planning.lengths import CHARACTERS_PER_TOKEN, read_size, task_texts
from workbench.experiment.planning.sizes import RunSize
from workbench.experiment.planning.speed import SAMPLING_SHARE, Speed
from workbench.experiment.running.held_out_files import held_out_pairs_source, held_out_prompts_source

COMMAND_SECONDS = 5.0
"""Seconds that a command takes beside its runs: its libraries, its plan, its report."""
RUN_SECONDS = 0.6
"""Seconds that a run takes beside its steps: its process, its model loaded and saved, its records."""
PROMPTS_PER_PAIR = 1.6
"""Prompts that are sampled for a pair, for of some all samples are right, or none."""


class Durations:
    """Seconds of an experiment's runs. specs: all of them by key, and those that they begin from."""

    def __init__(self, specs: Mapping[str, RunSpec], runs: Path, speeds: Mapping[str, Speed]) -> None:
        self.specs, self.runs, self.speeds = specs, runs, speeds

    def total(
        self, levels: Sequence[Sequence[RunSpec]], todo: Collection[str], found: Mapping[str, Estimate], jobs: int
    ) -> float | None:
        """Seconds of the command: each wave's shared stages, then its runs, `jobs` at a time. None where those of one
        are not known."""
        seconds = COMMAND_SECONDS
        made = {self._stage(spec) for level in levels for spec in level if spec.key not in todo}
        for level in levels:
            waiting = [spec for spec in level if spec.key in todo]
            for spec in waiting:
                if (stage := self._stage(spec)) is not None and stage not in made:
                    made.add(stage)
                    seconds += self.shared(spec) / jobs
            each = [self.run(spec, found[spec.key]) for spec in waiting]
            if any(each_seconds is None for each_seconds in each):
                return None
            seconds += side_by_side([own for own in each if own is not None], jobs)
        return seconds

    def run(self, spec: RunSpec, found: Estimate) -> float | None:
        """Seconds of one run alone: start, training, evaluations."""
        size = run_size(spec, self.specs, self.runs)
        if found.seconds is None or size is None:
            return None
        steps = found.budget_steps if found.budget_steps is not None else found.full_steps
        every = spec.evaluate.every if spec.evaluate is not None else 0
        times = 1 + (-(-steps // every) if every else 1)
        rate = self.speeds[spec.key].flops_per_second
        measuring = sum(self._evaluation_flops(own, size) for own in spec.by_set)
        return RUN_SECONDS + found.seconds + times * measuring / rate

    def shared(self, spec: RunSpec) -> float:
        """Seconds of what runs on the same pairs share: collecting the pairs, and their log-probabilities under the
        start."""
        if isinstance(spec.data, MixData):
            return sum(map(self.shared, spec.parts))
        size = run_size(spec, self.specs, self.runs)
        data = training_size(spec, self.specs, self.runs)
        if size is None or not data.lengths or not data.rows:
            return 0.0
        pairs, held_out, work = float(data.rows), 0, 0.0
        if isinstance(spec.data, CollectData):
            settings = spec.data.collect
            held_out = settings.held_out_pairs
            prompt, completion = self._task_lengths(spec, settings)
            sampled = prompt + settings.num_samples * completion
            prompts = 1.0 if settings.completions else PROMPTS_PER_PAIR
            work += (pairs + held_out) * prompts * sampled / SAMPLING_SHARE
        scored = held_out + (pairs if scores_reference(spec) else 0.0)
        work += scored * statistics.fmean(data.lengths)
        return 2 * size.policy * work / self.speeds[spec.key].flops_per_second

    def _stage(self, spec: RunSpec) -> tuple[str, str] | None:
        """What tells the shared stages of a run on pairs; None of others."""
        collects = any(isinstance(part.data, CollectData) for part in spec.parts)
        if not collects and not scores_reference(spec):
            return None
        return str(spec.data), str(spec.start or spec.model)

    def _evaluation_flops(self, spec: RunSpec, size: RunSize) -> float:
        """FLOPs of one evaluation on a held-out set. A FLOP of sampling counts as often as it takes longer than one of
        training."""
        evaluate = spec.evaluate
        if evaluate is None:
            return 0.0
        forward, pairs = 0.0, self._held_out_pairs(spec)
        prompts, prompt, completion = self._held_out_prompts(spec)
        completions = 1 + (evaluate.samples if evaluate.sampling is not None else 0)
        if evaluate.kl and spec.start is not None and prompts:
            forward += 2 * prompts * (prompt + completion)
            whole = evaluate.sampling is not None and evaluate.sampling == type(evaluate.sampling)()
            completions += not whole
        forward += completions * prompts * (prompt + completion) / SAMPLING_SHARE
        if spec.form.has_row_loss:
            forward += prompts * (prompt + completion)
        return 2 * size.policy * (forward + pairs)

    def _held_out_prompts(self, spec: RunSpec) -> tuple[float, float, float]:
        """The number of held-out prompts, and the tokens of one and of its completion."""
        evaluate = spec.evaluate
        assert evaluate is not None
        if (task := evaluate.task_settings) is not None:
            prompt, completion = self._task_lengths(spec, task)
            return float(evaluate.prompts), prompt, min(completion, float(evaluate.max_new_tokens))
        source = self._held_out(spec, held_out_prompts_source)
        if source is None:
            return 0.0, 0.0, 0.0
        folder, by_character = tokens_of(spec, self.specs, self.runs)
        data = read_size(source, forms.PROMPTS, folder, characters=by_character)
        if not data.lengths:
            return 0.0, 0.0, 0.0
        number = min(evaluate.prompts, data.rows or evaluate.prompts)
        return float(number), statistics.fmean(data.lengths), evaluate.max_new_tokens / 2

    def _held_out_pairs(self, spec: RunSpec) -> float:
        """Tokens of the held-out pairs, each prompt once."""
        if isinstance(spec.data, CollectData):
            data = training_size(spec, self.specs, self.runs)
            return spec.data.collect.held_out_pairs * statistics.fmean(data.lengths or [0.0])
        source = self._held_out(spec, held_out_pairs_source)
        if source is None:
            return 0.0
        folder, by_character = tokens_of(spec, self.specs, self.runs)
        data = read_size(source, forms.PAIRS, folder, characters=by_character)
        return (data.rows or 0) * statistics.fmean(data.lengths or [0.0])

    def _held_out(self, spec: RunSpec, source_of: Callable[[RunSpec], ReadData | None]) -> ReadData | None:
        try:
            return source_of(spec)
        except WorkbenchError:  # the run will say so
            return None

    def _task_lengths(self, spec: RunSpec, task: TaskSettings) -> tuple[float, float]:
        """Tokens of a built-in task's prompt, and of its completion with its end."""
        _, by_character = tokens_of(spec, self.specs, self.runs)
        per_token = 1.0 if by_character else CHARACTERS_PER_TOKEN
        texts = task_texts(task)
        prompt = statistics.fmean(len(text) for text, _ in texts) / per_token
        return prompt, statistics.fmean(len(text) for _, text in texts) / per_token + 1


def side_by_side(seconds: Sequence[float], jobs: int) -> float:
    """Seconds until the last of these ends, when each begins as soon as one of `jobs` places is free, in their
    order."""
    free = [0.0] * jobs
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)
