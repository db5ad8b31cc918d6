"""Finds the files that held-out rows are read from, and says how they are read. Nothing here loads torch."""

from __future__ import annotations

from workbench.data.fields import MISSING, column_of
from workbench.data.formats import Chat, Example, Prompt, PromptCompletion
from workbench.data.reading import open_records
from workbench.data.settings import FileData, ReadData
from workbench.data.tasks import TaskRow
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.identity import held_out_split


def held_out_prompts_source(spec: RunSpec) -> ReadData | None:
    """The source of rows that are completed and checked: a file, or another split of the training data's set; None for
    neither."""
    path = spec.evaluate.path if spec.evaluate is not None else None
    return _source(spec, path, as_trained=not spec.form.has_pair_accuracy)


def held_out_pairs_source(spec: RunSpec) -> ReadData | None:
    """The source of the pairs that pair accuracy is measured on; None where there is none."""
    path = spec.evaluate.pairs if spec.evaluate is not None else None
    return _source(spec, path, as_trained=spec.form.has_pair_accuracy)


def _source(spec: RunSpec, path: str | None, *, as_trained: bool) -> ReadData | None:
    """as_trained: whether the training data's own rows are measured so, and those of its other splits."""
    if path is not None:
        return _held_out_file(spec, path, as_trained=as_trained)
    return held_out_split(spec) if as_trained else None


def _held_out_file(spec: RunSpec, path: str, *, as_trained: bool) -> FileData:
    """A held-out file, all of its rows read as the training data is; its columns too, where both are of one form, those
    that the file's first row has."""
    kept = {name for name in ReadData.model_fields if name != "rows"} if isinstance(spec.data, ReadData) else set()
    if not as_trained:
        kept.discard("columns")
    held_out = FileData(path=path, **spec.data.model_dump(include=kept))
    first = next(iter(open_records(FileData(path=path))), None)
    fields = {} if first is None else first.fields
    columns = {name: column for name, column in held_out.columns.items() if column_of(fields, column) is not MISSING}
    return held_out.model_copy(update={"columns": columns})


def asks(spec: RunSpec, example: Example) -> bool:
    """Whether a held-out example is completed and checked."""
    if not isinstance(example, Chat):
        return isinstance(example, PromptCompletion | Prompt)
    told_apart = 0 < len(example.messages) - 1 == example.learn_from
    by_answer = example.reference is not None or (spec.evaluate is not None and spec.evaluate.verifier is not None)
    return told_apart or by_answer or spec.form.is_sampled


def task_example(row: TaskRow) -> PromptCompletion:
    """A row of a built-in task as an example."""
    return PromptCompletion(row.prompt, row.completion, row.reference)
