"""What the model will see of an experiment's data: counts, lengths, rows; decoded from the ids that training reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.counts import Counts
from workbench.data.formats import Prompt
from workbench.data.forms import PAIRS, PROMPTS, DataForm, form_of
from workbench.data.overlap import PromptHashes, hashes_of
from workbench.data.reading import find_format
from workbench.data.sets import Part, TokenSet
from workbench.data.settings import CollectData, DatasetData, FileData, MixData, ReadData, TaskData
from workbench.data.tasks import Split
from workbench.errors import DataError, DefinitionError
from workbench.experiment.definition.schema import Experiment, RunSpec
from workbench.experiment.planning import leaks
from workbench.experiment.planning.data_warnings import end_warnings
from workbench.experiment.running.held_out import (
    held_out_examples,
    held_out_reading,
    held_out_set,
)
from workbench.experiment.running.held_out_files import held_out_pairs_source, held_out_prompts_source
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.running.run_stages import RunStages
from workbench.experiment.running.start_models import Reporter, StartModels
from workbench.experiment.stages.cache import StageResult
from workbench.experiment.stages.data import MAX_TASK_TOKENS, ROWS_FILE
from workbench.models.tokenizer import Tokenizer
from workbench.processor import num_cores

MAX_BINS = 24
MAX_PENDING = 6
"""Tokens that one character may be spread over."""


@dataclass(frozen=True)
class Token:
    """A token as it is shown. text: empty where the character that it begins is ended by a later one."""

    text: str
    learned: bool
    special: bool


@dataclass(frozen=True)
class ShownRow:
    """A row, or a pair in its three parts."""

    where: str
    parts: tuple[tuple[str, tuple[Token, ...]], ...]


@dataclass(frozen=True)
class Histogram:
    """counts of the lengths from edges[i] up to, but not including, edges[i + 1]."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass
class Section:
    """One source of data, with the variants that use it."""

    title: str
    source: str
    form: DataForm
    format: str
    max_tokens: int
    counts: Counts
    lengths: np.ndarray
    """Tokens of each row, or prompt; of a pair, of its prompt with the longer completion."""
    rows: tuple[ShownRow, ...]
    stage: str | None
    """The folder under runs/stages/ that training reads."""
    variants: list[str] = field(default_factory=list)
    answered: int | None = None
    """Prompts that have an answer; None where rows are no prompts."""
    warnings: tuple[str, ...] = ()
    """What a run would warn of, beside what is told of the rows."""
    share: str = ""
    """The share of the rows drawn that it has in a mix, in words."""
    shared: tuple[str, ...] = ()
    """The held-out prompts that training data has, in words."""

    @property
    def unit(self) -> str:
        """What its rows are called."""
        return self.form.units

    @property
    def histogram(self) -> Histogram:
        """The histogram of the lengths, in at most MAX_BINS bins of a round width."""
        shortest, longest = int(self.lengths.min()), int(self.lengths.max())
        width = next(w for w in _round_numbers() if longest // w - shortest // w < MAX_BINS)
        edges = tuple(range(shortest // width * width, longest // width * width + width + 1, width))
        counts, _ = np.histogram(self.lengths, edges)
        counts[-1] -= int((self.lengths == edges[-1]).sum())  # numpy closes the last bin on the right
        return Histogram(edges, tuple(int(count) for count in counts))


def look_at_data(experiment: Experiment, runs: Path, split: Split, num_rows: int, reporter: Reporter) -> list[Section]:
    """A section for each distinct source of the experiment's runs. What is missing of the stages is made.

    DataError, DefinitionError: the data cannot be read, or rests on a run that is not finished.
    """
    stages = RunStages(StartModels(runs, reporter), num_cores())
    sections: dict[str, Section] = {}
    for spec in experiment.runs:
        for own in spec.by_set if split == "held_out" else (spec,):
            for key, section in _sections(stages, own, split, num_rows):
                found = sections.setdefault(key, section)
                if spec.variant not in found.variants:
                    found.variants.append(spec.variant)
    if not sections:
        raise DataError(f"{experiment.file}: evaluate names no held-out data, allowed task, path, pairs or split")
    return list(sections.values())


def _sections(stages: RunStages, spec: RunSpec, split: Split, num_rows: int) -> Iterator[tuple[str, Section]]:
    for key in spec.needs:
        if not RunFolder(stages.models.runs, key).is_finished():
            name = key.split("/")[0]
            raise DefinitionError(f"{spec.key}: its data rests on {key}, which is not finished; make exp NAME={name}")
    tokenizer = Tokenizer.load(stages.models.folder(spec))
    if split == "train":
        yield from _training_sections(stages, spec, tokenizer, num_rows)
        return
    as_chat = any(Counts(**stage.made["counts"]).chats for stage in _training_stages(stages, spec))
    pairs, reading = stages.held_out_pairs(spec, tokenizer, stages.models.worker(spec)), held_out_reading(spec, as_chat)
    examples = (
        held_out_examples(spec, as_chat)
        if reading is None or spec.evaluate is None
        else [*reading][: spec.evaluate.prompts]
    )
    trained = [*_trained(stages, spec)] if pairs is not None or examples else []
    if pairs is not None:
        held_out = held_out_pairs_source(spec)
        source = _source(held_out) if held_out is not None else f"held out: {_source(spec.data)}"
        section = _of_stage(pairs, tokenizer, spec, PAIRS, source, num_rows)
        hashes = leaks.load_hashes(pairs.folder)
        section.shared = _shared(trained, leaks.PAIRS, hashes) if hashes is not None else ()
        yield pairs.stage.fingerprint, section
    if examples and spec.evaluate is not None:
        held_out = held_out_prompts_source(spec)
        source = _source(held_out) if held_out is not None else f"the task {spec.evaluate.task}, held out"
        asked_alone = any(isinstance(example, Prompt) for example in examples)
        form = PROMPTS if asked_alone else spec.form.held_out_form
        rows, counts = held_out_set(spec, examples, tokenizer, as_chat, form)
        section = _held_out_section(spec, form, source, (rows, counts), tokenizer, num_rows)
        hashes = hashes_of(examples)
        section.counts.unread = reading.unread if reading is not None else {}
        section.counts.repeated, section.counts.repeated_folded = hashes.repeated
        section.shared = _shared(trained, leaks.PROMPTS, hashes)
        yield f"{spec.evaluate}{_max_tokens(spec)}{tokenizer.fingerprint}", section


def _training_sections(
    stages: RunStages, spec: RunSpec, tokenizer: Tokenizer, num_rows: int
) -> Iterator[tuple[str, Section]]:
    """A section of each source, with its share of the rows drawn where there are several."""
    found = []
    for part in spec.parts:
        form = _form(part)
        stage = stages.training_data(part, form)
        found.append((stage, _of_stage(stage, tokenizer, part, form, _source(part.data), num_rows)))
    data = spec.data
    if isinstance(data, MixData):
        shares = data.shares([section.counts.rows for _, section in found], 0)
        for name, share, (_, section) in zip(data.names, shares, found, strict=True):
            section.title = f"source {name}"
            at_first = " at first" if data.schedule is not None else ""
            section.share = f"{share:.1%} of the {section.unit} drawn{at_first}"
    yield from ((f"{section.title} {section.share} {stage.stage.fingerprint}", section) for stage, section in found)


def _training_stages(stages: RunStages, spec: RunSpec) -> list[StageResult]:
    return [stages.training_data(part, part.form) for part in spec.parts]


def _form(spec: RunSpec) -> DataForm:
    """The trainer's, but rows of a format that serves one form alone can be looked at under any trainer."""
    found = find_format(spec.data, spec.form.wanted) if isinstance(spec.data, ReadData) else None
    if found is None or not found.alone or found in spec.form.wanted.formats:
        return spec.form
    return form_of(found)


def _trained(stages: RunStages, spec: RunSpec) -> Iterator[tuple[str, PromptHashes | None]]:
    """What the run and those before it learn from."""
    yield from ((leaks.TRAINING, leaks.load_hashes(stage.folder)) for stage in _training_stages(stages, spec))
    yield from leaks.trained_before(spec.start, stages.models.runs)


def _shared(trained: list[tuple[str, PromptHashes | None]], what: str, hashes: PromptHashes) -> tuple[str, ...]:
    return tuple(found.text for found in leaks.overlaps(trained, [(what, hashes)]))


def _held_out_section(
    spec: RunSpec,
    form: DataForm,
    source: str,
    found: tuple[TokenSet, Counts],
    tokenizer: Tokenizer,
    num_rows: int,
) -> Section:
    rows, counts = found
    shown = tuple(_rows(rows, counts, tokenizer, num_rows))
    kind = "prompts with answers" if form.is_sampled else _kind(counts)
    limit = max(_max_tokens(spec), int(rows.lengths.max(initial=0))) if form.is_sampled else _max_tokens(spec)
    section = Section("held-out prompts", source, form, kind, limit, counts, rows.lengths, shown, None)
    section.answered = rows.num_answered
    section.warnings = tuple(end_warnings(counts, tokenizer))
    return section


def _of_stage(
    stage: StageResult, tokenizer: Tokenizer, spec: RunSpec, form: DataForm, source: str, num_rows: int
) -> Section:
    counts = Counts(**stage.made["counts"])
    rows = form.load(stage.folder / ROWS_FILE)
    shown = tuple(_rows(rows, counts, tokenizer, num_rows))
    title = "held-out pairs" if source != _source(spec.data) else "training data"
    max_tokens = _max_tokens(spec)
    found = stage.made["format"]
    section = Section(title, source, form, found, max_tokens, counts, rows.text_lengths, shown, stage.folder.name)
    section.answered, section.warnings = rows.num_answered, tuple(end_warnings(counts, tokenizer))
    return section


def _kind(counts: Counts) -> str:
    return "rows with a loss" if counts.rows else "nothing"


def _max_tokens(spec: RunSpec) -> int:
    return spec.data.max_tokens if isinstance(spec.data, ReadData) else MAX_TASK_TOKENS


def _source(data: Any) -> str:
    """The source of the rows, in words."""
    if isinstance(data, FileData):
        return data.path
    if isinstance(data, DatasetData):
        parts = [data.dataset, *([f"configuration {data.config}"] if data.config else []), f"split {data.split}"]
        return ", ".join(parts)
    if isinstance(data, CollectData):
        what = "completions" if data.collect.completions else "pairs"
        return f"{what} collected from models' own samples of the task {data.collect.task}"
    if isinstance(data, MixData):
        return f"a mix of {', '.join(data.names)}"
    assert isinstance(data, TaskData), "every kind of data has a name"
    return f"the task {data.task}"


def _rows(rows: TokenSet, counts: Counts, tokenizer: Tokenizer, num_rows: int) -> Iterator[ShownRow]:
    """The first rows of a set, decoded."""
    for row in range(min(len(rows), num_rows)):
        where = counts.places[row] if row < len(counts.places) else f"row {row + 1}"
        yield ShownRow(where, tuple((part.name, _shown(part, tokenizer)) for part in rows.parts(row)))


def _shown(part: Part, tokenizer: Tokenizer) -> tuple[Token, ...]:
    if part.text is not None:
        return (Token(part.text, learned=False, special=False),)
    return tuple(_tokens(tokenizer, part.ids, part.learned))


def _tokens(tokenizer: Tokenizer, row: np.ndarray, learned: np.ndarray) -> Iterator[Token]:
    """Each token with the text that it adds to those before it (a token's own text may lack its space, or be a part of
    a character)."""
    ids = [int(index) for index in row]
    first, done = 0, 0
    for end in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[first:done], skip_special_tokens=False)
        whole = tokenizer.decode(ids[first:end], skip_special_tokens=False)
        text = ""
        if not whole.endswith("\ufffd") or end - done >= MAX_PENDING or end == len(ids):
            text, first, done = whole[len(before) :], done, end
        special = not tokenizer.decode([ids[end - 1]]) and bool(tokenizer.decode([ids[end - 1]], False))
        yield Token(text, bool(learned[end - 1]), special)


def _round_numbers() -> Iterator[int]:
    size = 1
    while True:
        yield from (size, 2 * size, 5 * size)
        size *= 10
