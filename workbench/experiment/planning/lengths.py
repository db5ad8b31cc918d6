"""How many rows a run learns from and how many tokens each is, before anything is made: counted with the model's own
tokenizer where its folder is here, on a sample of the rows. No torch."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import Example
from workbench.data.forms import DataForm
from workbench.data.reading import Examples, local_files
from workbench.data.settings import CollectData, DatasetData, FileData, MixData, ReadData, TaskSettings
from workbench.data.tasks import iterate_rows
from workbench.errors import WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.planning.data_warnings import NO_END, data_warnings, guessed_cut_warning
from workbench.models.tokenizer import Tokenizer

SAMPLE = 200
"""Rows of a task that are made, and rows of a file that are tokenised, to see how long they are."""
CHARACTERS_PER_TOKEN = 3.6
"""Characters of a token of English text, under a vocabulary of tens of thousands, where the tokenizer is not here."""
LARGEST_READ = 64 << 20
"""Bytes of a data file beyond which its rows are not counted before the run."""


@dataclass(frozen=True)
class DataSize:
    """The size of one source of rows; nothing is known of a source that cannot be read yet."""

    rows: int | None = None
    """Rows, pairs or prompts to learn from; an estimate where some were tokenised for all (`of` is larger)."""
    lengths: tuple[float, ...] = ()
    """Tokens that the model reads of some of them, of a pair its prompt once, of prompts the prompt's alone."""
    sampled: bool = False
    """Whether the rows whose lengths are known stand for more."""
    by_characters: bool = False
    """Whether tokens were guessed from characters, for the tokenizer is not here."""
    counts: Counts | None = None
    """What became of the rows whose lengths are known, where they were tokenised."""
    longer: int = 0
    """Rows longer than max_tokens, among those whose tokens were guessed."""

    def warnings(self, spec: RunSpec, tokenizer_folder: Path | None) -> Iterator[str]:
        """What the run would say of its training data, as far as it is known now. tokenizer_folder: data_size's."""
        tokenizer = _tokenizer(tokenizer_folder) if tokenizer_folder is not None else None
        if tokenizer is not None and (self.counts is not None or not isinstance(spec.data, ReadData)):
            # Where a run begins from another, that one tells: it may leave its model an end that the template has.
            told = data_warnings(spec, self.counts or Counts(), tokenizer, rows=self.rows)
            yield from (text for text in told if text != NO_END or spec.start is None)
        elif self.longer and isinstance(spec.data, ReadData):
            yield guessed_cut_warning(spec.data.max_tokens, self.longer, len(self.lengths), self.rows or 0)


def data_size(spec: RunSpec, tokenizer_folder: Path | None, *, characters: bool) -> DataSize:
    """The size of a run's training data. tokenizer_folder: the model's, where it is here. characters: a token is a
    character."""
    data = spec.data
    if isinstance(data, MixData):
        return mixed_size(data, [data_size(part, tokenizer_folder, characters=characters) for part in spec.parts])
    if isinstance(data, ReadData):
        return read_size(data, spec.form, tokenizer_folder, characters=characters)
    settings = data.collect if isinstance(data, CollectData) else data
    rows = data.collect.wanted * spec.form.rows_per_pair if isinstance(data, CollectData) else data.rows
    completions = spec.form.num_completions
    if tokenizer_folder is not None and _tokenizer(tokenizer_folder):
        return DataSize(rows, _encoded(*_written(settings), completions, tokenizer_folder), sampled=rows > SAMPLE)
    per_token = 1.0 if characters else CHARACTERS_PER_TOKEN
    guessed = [
        len(prompt) / per_token + completions * (len(text) / per_token + 1) for prompt, text in task_texts(settings)
    ]
    return DataSize(rows, tuple(guessed), sampled=rows > SAMPLE, by_characters=not characters)


@functools.lru_cache(maxsize=64)
def _encoded(kind: type[TaskSettings], text: str, completions: int, folder: Path) -> tuple[float, ...]:
    """The lengths of a task's rows in the tokens of a folder's tokenizer, found once for all runs that share them."""
    tokenizer = _tokenizer(folder)
    assert tokenizer is not None, "it was there a moment ago"
    return tuple(
        float(len(tokenizer.begun(tokenizer.encode(prompt))) + completions * (len(tokenizer.encode(completion)) + 1))
        for prompt, completion in _task_texts(kind, text)
    )


def mixed_size(data: MixData, sizes: Sequence[DataSize]) -> DataSize:
    """The size of a mix: the rows of all sources, and lengths of each by its share of the rows drawn at first."""
    if not all(size.rows and size.lengths for size in sizes):
        return DataSize()
    rows = [size.rows or 0 for size in sizes]
    lengths = [
        size.lengths[math.floor(index * len(size.lengths) / number)]
        for size, share in zip(sizes, data.shares(rows, 0), strict=True)
        for number in [math.ceil(share * SAMPLE)]
        for index in range(number)
    ]
    return DataSize(sum(rows), tuple(lengths), sampled=True, by_characters=any(size.by_characters for size in sizes))


def task_texts(settings: TaskSettings) -> tuple[tuple[str, str], ...]:
    """Prompts and completions of some rows of a built-in task."""
    return _task_texts(*_written(settings))


@functools.lru_cache(maxsize=64)
def _task_texts(kind: type[TaskSettings], text: str) -> tuple[tuple[str, str], ...]:
    """Made once for all runs that share them."""
    rows = iterate_rows(kind.model_validate_json(text), "train", 0)
    return tuple((row.prompt, row.completion) for row in itertools.islice(rows, SAMPLE))


def _written(settings: TaskSettings) -> tuple[type[TaskSettings], str]:
    """Settings as what they are found by again: some hold mappings, which cannot be."""
    return type(settings), settings.model_dump_json(by_alias=True, exclude_unset=True)


def read_size(data: ReadData, form: DataForm, tokenizer_folder: Path | None, *, characters: bool = False) -> DataSize:
    """The size of rows that are read: from files of this machine that are not too large; else nothing is known."""
    try:
        files = local_files(data)
        if not files or not all(path.is_file() for path in files) or sum(map(_size, files)) > LARGEST_READ:
            return DataSize()
        stamps = tuple((str(path), path.stat().st_mtime_ns, _size(path)) for path in files)
        return _read_size(type(data).__name__, data.model_dump_json(), form, tokenizer_folder, characters, stamps)
    except (WorkbenchError, OSError, ValueError):
        return DataSize()


@functools.lru_cache(maxsize=64)
def _read_size(
    kind: str, text: str, form: DataForm, folder: Path | None, characters: bool, _stamps: tuple[object, ...]
) -> DataSize:
    """Read once for all runs that share it."""
    data: ReadData = (FileData if kind == "FileData" else DatasetData).model_validate_json(text)
    examples = list(Examples.of(data, form.wanted, BadRows(skip=True)))
    chosen = _spread(examples)
    tokenizer = _tokenizer(folder) if folder is not None else None
    counts, longer = None, 0
    if tokenizer is not None:
        bad = BadRows(skip=True)
        found, counts = form.tokenise(chosen, tokenizer, data.max_tokens, as_chat=data.chat_template, bad=bad)
        lengths = [float(length) for length in found.read_lengths]
    else:
        per_token = 1.0 if characters else CHARACTERS_PER_TOKEN
        rows_of = [form.row_characters(example) for example in chosen]
        lengths = [min(size / per_token, 2.0 * data.max_tokens) for rows in rows_of for size in rows]
        longest = [form.longest_text(example) / per_token for example in chosen]
        longer = sum(len(rows) for rows, size in zip(rows_of, longest, strict=True) if size > data.max_tokens)
    number = round(len(examples) * len(lengths) / len(chosen)) if chosen else 0
    guessed = tokenizer is None and not characters
    sampled = len(chosen) < len(examples)
    return DataSize(number or None, tuple(lengths), sampled, guessed, counts, longer)


def _spread(examples: Sequence[Example]) -> list[Example]:
    """Returns at most SAMPLE of the examples, from the first to the last."""
    step = max(1.0, len(examples) / SAMPLE)
    return [examples[math.floor(index * step)] for index in range(min(SAMPLE, len(examples)))]


@functools.lru_cache(maxsize=8)
def _tokenizer(folder: Path) -> Tokenizer | None:
    """None where the folder has none that can be read; the run will say so."""
    try:
        return Tokenizer.load(folder)
    except WorkbenchError:
        return None


def _size(path: Path) -> int:
    return path.stat().st_size
