"""What a run is measured on: evaluators of prompts and pairs, and rows for the held-out loss, from its definition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.batches import HeldOutLoader
from workbench.data.formats import Example, PromptCompletion
from workbench.data.reading import read_examples
from workbench.data.sets import PairSet
from workbench.data.settings import FileData, TaskSettings
from workbench.data.tasks import make_rows, prompt_id
from workbench.data.tokenise import encode_prompts, tokenise_rows
from workbench.evaluation.pairs import PairEvaluator
from workbench.evaluation.prompts import HeldOutPrompt, PromptEvaluator
from workbench.evaluation.reference import Reference, adapter_off_reference, frozen_reference
from workbench.evaluation.settings import EvaluateSettings
from workbench.experiment.prepare import ROWS_FILE, PreparedRun
from workbench.experiment.stages.reference_logprobs import REFERENCE_FILE
from workbench.models.load import load_model
from workbench.models.tokenizer import Tokenizer
from workbench.trainer.base_trainer import Evaluator
from workbench.trainer.dpo_trainer import completion_logprobs

LOSS_ROWS = 64
"""Rows at a time of the held-out loss; about memory only."""


@dataclass(frozen=True)
class HeldOut:
    """Handed to the trainer."""

    evaluators: list[Evaluator] = field(default_factory=list)
    val_loader: Iterable[Any] | None = None


def build_held_out(
    prepared: PreparedRun, tokenizer: Tokenizer, output_dir: Path, *, rank: int = 0, world_size: int = 1
) -> HeldOut:
    """The held-out evaluation of a run; its records go to output_dir."""
    spec = prepared.spec
    if spec.evaluate is None:
        return HeldOut()
    evaluators: list[Evaluator] = []
    reading = spec.data if isinstance(spec.data, FileData) else FileData(path="-")
    examples = _examples(spec.evaluate)
    answers = [example for example in examples if isinstance(example, PromptCompletion)]
    if answers:
        encoded = encode_prompts(tokenizer, [row.prompt for row in answers], as_chat=reading.chat_template)
        task = spec.evaluate.task or "file"
        prompts = [
            HeldOutPrompt(row.prompt, row.completion, prompt_id(task, row.prompt), tuple(ids))
            for row, ids in zip(answers, encoded, strict=True)
        ]
        evaluators.append(
            PromptEvaluator(
                prompts,
                spec.evaluate,
                tokenizer,
                verifier=spec.evaluate.task or spec.evaluate.verifier,
                reference=_reference(prepared),
                records=output_dir / "completions.jsonl",
            )
        )
    if prepared.held_out_pairs is not None and prepared.held_out_reference is not None:
        pairs = PairSet.load(prepared.held_out_pairs.folder / ROWS_FILE)
        pairs = pairs.with_reference(prepared.held_out_reference.folder / REFERENCE_FILE)
        evaluators.append(
            PairEvaluator(
                pairs, lambda model, batch: completion_logprobs(model, batch)[0], records=output_dir / "pairs.jsonl"
            )
        )
    form = spec.hyperparameters.data_form
    loader = None
    if examples and form != "pairs":
        rows, _ = tokenise_rows(
            examples, tokenizer, reading.max_tokens, as_chat=reading.chat_template, every_token=form == "text"
        )
        loader = HeldOutLoader(rows, LOSS_ROWS, rank=rank, world_size=world_size)
    return HeldOut(evaluators, loader)


def _examples(settings: EvaluateSettings) -> list[Example]:
    if settings.task is not None:
        task = TaskSettings(task=settings.task, digits=settings.digits, numbers=settings.numbers)
        made = make_rows(task, "held_out", settings.prompts, settings.seed)
        return [PromptCompletion(row.prompt, row.completion) for row in made]
    if settings.path is not None:
        return read_examples(Path(settings.path).expanduser(), pairs=False)[0][: settings.prompts]
    return []


def _reference(prepared: PreparedRun) -> Reference | None:
    """The start, where there is one: a model made at random is no start to stay close to."""
    spec = prepared.spec
    has_start = spec.start is not None or (spec.model is not None and spec.model.preset is None)
    if spec.evaluate is None or not spec.evaluate.kl or not has_start:
        return None
    if spec.lora is not None:
        return adapter_off_reference
    from workbench.trainer.distributed import training_device

    device = str(training_device(spec.hyperparameters.device))
    return frozen_reference(load_model(prepared.model_folder, device=device))
