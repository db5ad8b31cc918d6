"""What data files hold, read before anything is made of them: rows, what nothing reads, what would stop a run, and the
held-out prompts that are trained on. No torch, no tokenizer: what a chat template refuses shows later, that there is
none shows here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.data import forms
from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import Chat, Example, Judged, Preference, Text
from workbench.data.mix import too_few
from workbench.data.overlap import PromptHashes, hashes_of
from workbench.data.reading import Examples, local_files
from workbench.data.settings import MixData, ReadData, TaskData, TaskSettings
from workbench.data.tasks import MAX_CHECKED_ROWS, Split, make_rows
from workbench.data.wanted import Wanted
from workbench.errors import DataError, WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.planning.leaks import PAIRS, PROMPTS, TRAINING, of_set, overlaps, trained_before
from workbench.experiment.planning.lengths import LARGEST_READ
from workbench.experiment.running.held_out_files import (
    asks,
    held_out_pairs_source,
    held_out_prompts_source,
    task_example,
)
from workbench.experiment.running.run_folder import RunFolder
from workbench.models.chat_templates import NO_TEMPLATE
from workbench.models.folder import is_adapter
from workbench.models.tokenizer import read_chat_template


@dataclass(frozen=True)
class Inspected:
    """What one source would be, if it were read now."""

    source: str
    wanted: Wanted
    rows: int
    asked: int
    """Rows that are completed and checked, where they are held out."""
    hashes: PromptHashes
    unread: dict[str, int]
    problem: str | None
    """What would stop a run that reads it."""
    rendered: bool = False
    """Whether a row of it goes through the model's chat template."""

    @property
    def line(self) -> str:
        """What was found, in words."""
        repeated, folded = self.hashes.repeated
        note = Counts(repeated=repeated, repeated_folded=folded).repeated_note()
        untouched = "read by own rewards alone" if self.wanted.keeps_columns else "not read"
        unread = ", ".join(f"{_plain(name)} ({rows:,} row{'s' * (rows != 1)})" for name, rows in self.unread.items())
        parts = [f"{self.rows:,} row{'s' * (self.rows != 1)}", note, f"{untouched}: {unread}" if unread else None]
        return f"{_plain(self.source)}: {'; '.join(part for part in parts if part)}"


class Inspector:
    """Reads each source once."""

    def __init__(self, specs: Mapping[str, RunSpec], runs: Path) -> None:
        """specs: every run of an experiment by key, those that they begin from among them."""
        self.specs, self.runs = specs, runs
        self._known: dict[tuple[str, Wanted, int | None, str | None], Inspected | None] = {}

    def training(self, spec: RunSpec) -> list[Inspected]:
        """The training data, source by source, where it is files of this machine that are not too large."""
        return [own for part in spec.parts if (own := self._training(part)) is not None]

    def _training(self, spec: RunSpec) -> Inspected | None:
        if not isinstance(spec.data, ReadData):
            return None
        return self._read(spec, spec.data, spec.form.wanted, None, spec.difficulty)

    def held_out(self, spec: RunSpec) -> Iterator[tuple[str, Inspected]]:
        """The held-out files of every set, by whether their prompts or their pairs are measured; of sets beside the
        deciding one with the set's name."""
        for index, own in enumerate(spec.by_set):
            for what, found in self._held_out(own):
                yield of_set(what, own.set_name if index else None), found

    def _held_out(self, spec: RunSpec) -> Iterator[tuple[str, Inspected]]:
        most = spec.evaluate.prompts if spec.evaluate is not None else None
        for what, source_of, wanted, rows in (
            (PROMPTS, held_out_prompts_source, spec.form.held_out, most),
            (PAIRS, held_out_pairs_source, forms.PAIRS.wanted, None),
        ):
            try:
                settings = source_of(spec)
            except WorkbenchError:
                continue  # of a file that is not there the plan says so
            if settings is not None:
                found = self._read(spec, settings.model_copy(update={"bad_rows": "error"}), wanted, rows)
                if found is not None:
                    yield what, found

    def problem(self, spec: RunSpec) -> str | None:
        """What would stop the run, in one line."""
        found = [*self.training(spec), *(own for _, own in self.held_out(spec))]
        curriculum = spec.data.curriculum if isinstance(spec.data, MixData) else None
        if isinstance(spec.data, MixData) and (curriculum is None or curriculum.pass_rate is None):
            for name, part in zip(spec.data.names, spec.parts, strict=True):
                own = self._training(part)
                if own is not None and own.problem is None and own.rows < spec.data.num_bands:
                    return too_few(name, own.rows, spec.data.num_bands)
        if any(own.rendered for own in found) and lacks_template(spec, self.specs, self.runs):
            return NO_TEMPLATE
        return next((own.problem for own in found if own.problem), None)

    def lines(self, specs: Iterable[RunSpec]) -> list[str]:
        """What there is to say of the data of these runs, each line once."""
        lines: dict[str, None] = {}
        for spec in specs:
            held_out = list(self.held_out(spec))
            lines |= dict.fromkeys(own.line for own in self.training(spec) if own.rows)
            lines |= dict.fromkeys(f"{found.line}; held out" for _, found in held_out if found.rows)
            shared = overlaps(self._trained(spec), self._asked_for(spec, held_out))
            lines |= dict.fromkeys(found.text for found in shared if found.folded is not None)
        return list(lines)

    def num_prompts(self, spec: RunSpec) -> int:
        """Held-out prompts that are completed and checked, as many as there may be where the file is not seen yet."""
        evaluate = spec.evaluate
        if evaluate is None or (evaluate.task is None and evaluate.path is None):
            return 0
        found = next((own for what, own in self._held_out(spec) if what == PROMPTS), None)
        return evaluate.prompts if evaluate.task is not None or found is None else found.asked

    def _trained(self, spec: RunSpec) -> Iterator[tuple[str, PromptHashes | None]]:
        """What the run and those that it begins from learn from, as far as it can be told now."""
        where = TRAINING
        while True:
            for part in spec.parts:
                own, data = self._training(part), part.data
                if own is not None:
                    yield where, own.hashes
                elif isinstance(data, TaskData) and data.rows <= MAX_CHECKED_ROWS and not _is_own_task(spec):
                    yield where, _of_task(data, "train", data.rows, data.seed)
            start = spec.start
            if start is None:
                return
            if start not in self.specs:
                yield from trained_before(start, self.runs)
                return
            spec, where = self.specs[start], f"{TRAINING} of {start}"

    def _asked_for(self, spec: RunSpec, files: list[tuple[str, Inspected]]) -> Iterator[tuple[str, PromptHashes]]:
        yield from ((what, found.hashes) for what, found in files)
        for index, own in enumerate(spec.by_set):
            evaluate = own.evaluate
            task = evaluate.task_settings if evaluate is not None else None
            if evaluate is not None and task is not None and isinstance(own.data, ReadData):
                hashes = _of_task(task, "held_out", evaluate.prompts, evaluate.seed)
                if hashes is not None:
                    yield of_set(PROMPTS, own.set_name if index else None), hashes

    def _read(
        self, spec: RunSpec, settings: ReadData, wanted: Wanted, most: int | None, difficulty: str | None = None
    ) -> Inspected | None:
        key = (f"{type(settings).__name__} {settings.model_dump_json()} {spec.evaluate}", wanted, most, difficulty)
        if key not in self._known:
            self._known[key] = _inspect(spec, settings, wanted, most, difficulty)
        return self._known[key]


def _inspect(
    spec: RunSpec, settings: ReadData, wanted: Wanted, most: int | None, difficulty: str | None
) -> Inspected | None:
    try:
        files = local_files(settings)
        if not files or not all(path.is_file() for path in files):
            return None
        if sum(path.stat().st_size for path in files) > LARGEST_READ:
            return None
    except (WorkbenchError, OSError):
        return None
    bad = BadRows(skip=True)
    examples = Examples.of(settings, wanted, bad, difficulty)
    kept: list[Example] = []
    problem = None
    try:
        kept.extend(examples)
        if kept and wanted == spec.form.wanted and most is None:
            spec.form.check_examples(kept)
    except DataError as error:
        problem = str(error).splitlines()[0]
    if bad.count and settings.bad_rows == "error" and problem is None:
        more = f" (and {bad.count - 1:,} more bad row{'s' * (bad.count > 2)})" if bad.count > 1 else ""
        problem = f"{bad.first[0]}{more}"
    kept = kept[:most]
    asked = sum(not isinstance(example, Preference) and asks(spec, example) for example in kept)
    rendered = any(_is_rendered(example, as_chat=settings.chat_template) for example in kept)
    return Inspected(settings.source, wanted, len(kept), asked, hashes_of(kept), examples.unread, problem, rendered)


def _of_task(task: TaskSettings, split: Split, rows: int, seed: int) -> PromptHashes | None:
    """None where the task has not so many prompts, or its package is not here."""
    try:
        return hashes_of(map(task_example, make_rows(task, split, rows, seed)))
    except WorkbenchError:
        return None


def lacks_template(spec: RunSpec, specs: Mapping[str, RunSpec], runs: Path) -> bool:
    """Whether the model that a run begins with is known to have no chat template. specs: those that it may begin
    from, by key."""
    while spec.start is not None and spec.start in specs:
        spec = specs[spec.start]
    if spec.start is not None:
        return RunFolder(runs, spec.start).is_finished() and _without_template(RunFolder(runs, spec.start).model)
    model = spec.model
    assert model is not None, "a run has a start or a model"
    if model.chat_template is not None or model.name is not None:
        return False
    return model.preset is not None or _without_template(Path(str(model.path)).expanduser())


def _is_rendered(example: Example, *, as_chat: bool) -> bool:
    """Whether it is written by the model's chat template. as_chat: plain prompts are."""
    if isinstance(example, Judged):
        return _is_rendered(example.example, as_chat=as_chat)
    if isinstance(example, Text | Chat):
        return isinstance(example, Chat)
    return as_chat or not isinstance(example.prompt, str)


def _without_template(folder: Path) -> bool:
    """Whether a whole model's folder with a tokenizer of its own lacks a template; False where that cannot be told."""
    try:
        whole = (folder / "tokenizer.json").is_file() and not is_adapter(folder)
        return whole and read_chat_template(folder) is None
    except (WorkbenchError, OSError):
        return False


def _is_own_task(spec: RunSpec) -> bool:
    """Held-out prompts of a built-in task never stand in its training data."""
    return all(own.evaluate is None or own.evaluate.path is None for own in spec.by_set)


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "·" for character in text)
