"""What a run is measured on: evaluators of prompts, pairs and rows, from its definition."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from workbench.data.asked import AskedPrompt, asked_prompt
from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import Example, Prompt
from workbench.data.forms import PAIRS, DataForm
from workbench.data.reading import Examples
from workbench.data.sets import RowSet, TokenSet
from workbench.data.settings import DatasetData, FileData, ReadData
from workbench.data.tasks import make_rows, prompt_id
from workbench.data.tokenise import encode_prompts
from workbench.errors import DataError
from workbench.evaluation.named import Labels, OfSet, labels_of_set
from workbench.evaluation.pairs import PairEvaluator, ScoreEvaluator
from workbench.evaluation.prompts import HeldOutPrompt, PromptEvaluator
from workbench.evaluation.rows import RowEvaluator
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.planning.leaks import of_set
from workbench.experiment.planning.positions import check_lengths
from workbench.experiment.running.held_out_files import asks, held_out_prompts_source, task_example
from workbench.experiment.running.prepared import PreparedRun, PreparedSource
from workbench.experiment.stages.cache import StageResult
from workbench.experiment.stages.data import ROWS_FILE
from workbench.experiment.stages.reference_logprobs import REFERENCE_FILE
from workbench.models.load import load_model
from workbench.models.positions import Positions, model_positions
from workbench.models.reference import Reference, adapter_off_reference, frozen_reference
from workbench.models.tokenizer import Tokenizer
from workbench.rewards import answer_problem, check_of_answers
from workbench.trainer.base_trainer import Evaluator

REMEDY = "mend the rows: none of a held-out set is left out"
UNCUT = sys.maxsize
NEEDS_ANSWERS = "exact match compares completions with it"


def build_evaluators(prepared: PreparedRun, tokenizer: Tokenizer, output_dir: Path) -> list[Evaluator]:
    """The held-out evaluation of a run, set by set; its records go to output_dir."""
    reference = _reference(prepared)
    if not prepared.spec.other_sets:
        return _evaluators(prepared, tokenizer, output_dir, reference)
    return [
        OfSet(str(own.spec.set_name), index == 0, _evaluators(own, tokenizer, output_dir, reference))
        for index, own in enumerate(prepared.by_set)
    ]


def _evaluators(
    prepared: PreparedRun, tokenizer: Tokenizer, output_dir: Path, reference: Reference | None
) -> list[Evaluator]:
    """The evaluators of one held-out set. reference: the start, where there is one to measure against."""
    spec = prepared.spec
    if spec.evaluate is None:
        return []
    evaluators: list[Evaluator] = []
    labels = labels_of_set(spec.set_name)
    as_chat = trained_as_chat(prepared.sources)
    examples = held_out_examples(spec, as_chat)
    positions = model_positions(prepared.model_folder)
    prompts = _prompts(spec, examples, tokenizer, as_chat, positions)
    if prompts:
        evaluators.append(
            PromptEvaluator(
                prompts,
                spec.evaluate,
                tokenizer,
                verifier=spec.evaluate.task or spec.evaluate.verifier or check_of_answers([p.answer for p in prompts]),
                reference=reference if spec.evaluate.kl else None,
                records=output_dir / "completions.jsonl",
                labels=labels,
            )
        )
    if prepared.held_out_pairs is not None:
        records = output_dir / "pairs.jsonl"
        evaluators.append(_of_pairs(spec, prepared.held_out_pairs, prepared.held_out_reference, records, labels))
    learned = _with_loss(spec, examples)
    if learned:
        rows, counts = held_out_set(spec, learned, tokenizer, as_chat)
        assert isinstance(rows, RowSet), "forms with a loss of rows have sets of rows"
        if positions is not None:
            check_lengths(rows.lengths, counts.places, positions, new=0)
        evaluators.append(RowEvaluator(rows, records=output_dir / "losses.jsonl", labels=labels))
    return evaluators


def _of_pairs(
    spec: RunSpec, pairs: StageResult, reference: StageResult | None, records: Path, labels: Labels
) -> Evaluator:
    """Measures pairs by the start's log-probabilities where there are any, else by the scores of a reward model."""
    if reference is None:
        return ScoreEvaluator(PAIRS.load(pairs.folder / ROWS_FILE), records=records, labels=labels)
    scored = PAIRS.load(pairs.folder / ROWS_FILE, reference.folder / REFERENCE_FILE)
    own = type(spec.hyperparameters).described().score
    return PairEvaluator(scored, own=own, records=records, labels=labels)


def _with_loss(spec: RunSpec, examples: Iterable[Example]) -> list[Example]:
    """The held-out examples whose loss is measured: a prompt with an answer is completed and checked alone."""
    return [example for example in examples if not isinstance(example, Prompt)] if spec.form.has_row_loss else []


def trained_as_chat(sources: Iterable[PreparedSource]) -> bool:
    """Whether training data, of some source at least, went through the chat template: what is held out then does so
    too."""
    return any(source.counts.chats for source in sources)


def held_out_set(
    spec: RunSpec, examples: Iterable[Example], tokenizer: Tokenizer, as_chat: bool, form: DataForm | None = None
) -> tuple[TokenSet, Counts]:
    """The held-out examples in a form, by default that which the trainer's own would have: prompts whole, as they are
    completed, rows cut as its rows are."""
    assert spec.evaluate is not None, "held-out examples are evaluate's"
    form, bad = form or spec.form.held_out_form, BadRows(remedy=REMEDY)
    most = UNCUT if form.is_sampled else _reading(spec).max_tokens
    return form.tokenise(examples, tokenizer, most, as_chat=as_chat, task=spec.evaluate.task, bad=bad)


def held_out_notes(prepared: PreparedRun) -> list[str]:
    """What was cut of the rows whose held-out loss is measured, set by set."""
    as_chat = trained_as_chat(prepared.sources)
    notes = []
    for index, spec in enumerate(prepared.spec.by_set):
        if not spec.form.has_row_loss or held_out_prompts_source(spec) is None:
            continue
        learned = _with_loss(spec, held_out_examples(spec, as_chat))
        if learned:
            _, counts = held_out_set(spec, learned, Tokenizer.load(prepared.model_folder), as_chat)
            what = of_set("held-out rows", spec.set_name if index else None)
            notes += [f"{what}: {note}" for note in [counts.note()] if note]
    return notes


def held_out_examples(spec: RunSpec, as_chat: bool) -> list[Example]:
    """Returns up to evaluate.prompts examples of the task, file or split that evaluate names; it skips no bad row."""
    settings = spec.evaluate
    if settings is None:
        return []
    task = settings.task_settings
    if task is not None:
        made = make_rows(task, "held_out", settings.prompts, settings.seed)
        return [task_example(row) for row in made]
    found = held_out_reading(spec, as_chat)
    return [] if found is None else list(found)[: settings.prompts]


def held_out_reading(spec: RunSpec, as_chat: bool) -> Examples | None:
    """The held-out rows of a file or split, to be read; None where they are of a task, or there are none."""
    source = held_out_prompts_source(spec)
    if source is None or spec.evaluate is None:
        return None
    if isinstance(source, DatasetData):  # which may be large: no more is read than is asked for
        source = source.model_copy(update={"rows": spec.evaluate.prompts})
    if as_chat:
        source = source.model_copy(update={"chat_template": True})
    bad = BadRows(remedy=REMEDY)
    return Examples.of(source, spec.form.held_out, bad)


def _reading(spec: RunSpec) -> ReadData:
    return spec.data if isinstance(spec.data, ReadData) else FileData(path="-")


def _prompts(
    spec: RunSpec, examples: Iterable[Example], tokenizer: Tokenizer, as_chat: bool, positions: Positions | None
) -> list[HeldOutPrompt]:
    """The examples that ask for one completion and say what is right. The last turn of a conversation is asked for by a
    trainer of prompts, where a verifier is named, and where the row has an answer of its own or
    tells prompt and completion apart."""
    asked: list[tuple[AskedPrompt, str]] = []
    places: list[str] = []
    for example in examples:
        if asks(spec, example):
            try:
                found = asked_prompt(example)
            except ValueError as error:
                raise DataError(f"{example.where}: {error}") from error
            if found.answer is None:
                raise DataError(f"{example.where}: the row has no answer, allowed rows with one: {NEEDS_ANSWERS}")
            named = (spec.evaluate.verifier if spec.evaluate is not None else None) or ""
            problem = answer_problem(named, found.answer)
            if problem is not None:
                raise DataError(f"{example.where}: verifier {named}: the row {problem}")
            asked.append((found, found.answer))
            places.append(example.where or f"held-out prompt {len(asked)}")
    settings = spec.evaluate
    if not asked and settings is not None and (settings.samples > 1 or settings.pass_at or settings.majority_at):
        raise DataError(
            f"{settings.path or settings.split}: none of its rows is a prompt to complete, and several samples of each "
            "are asked for; allowed rows with prompt and answer, or evaluate without samples, pass_at and majority_at"
        )
    encoded = encode_prompts(tokenizer, [found.prompt for found, _ in asked], as_chat=as_chat)
    task = spec.evaluate.task if spec.evaluate is not None else None
    if positions is not None and spec.evaluate is not None:
        new = spec.evaluate.max_new_tokens
        check_lengths([len(ids) + new for ids in encoded], places, positions, new=new)
    return [
        HeldOutPrompt(found.text, answer, prompt_id(task or "file", found.text), tuple(ids))
        for (found, answer), ids in zip(asked, encoded, strict=True)
    ]


def _reference(prepared: PreparedRun) -> Reference | None:
    """The start, where there is one and a held-out set asks for it: a model made at random is no start to stay close
    to."""
    spec = prepared.spec
    has_start = spec.start is not None or (spec.model is not None and spec.model.preset is None)
    if not has_start or not any(own.evaluate is not None and own.evaluate.kl for own in spec.by_set):
        return None
    if spec.lora is not None:
        return adapter_off_reference
    from workbench.trainer.machine.device import training_device

    device = str(training_device(spec.hyperparameters.device, spec.hyperparameters.deterministic))
    return frozen_reference(load_model(prepared.model_folder, device=device))
