"""The stage "collect": models' own samples, as preference pairs ranked by the task's verifier or as they are."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.data.encoding import TokenPair
from workbench.data.formats import PromptCompletion
from workbench.data.settings import CollectSettings
from workbench.data.sources import read_records
from workbench.data.tasks import Split, TaskRow, completion_limit, iterate_rows
from workbench.data.tokenise import encode_prompts
from workbench.data.whole import cut_whole
from workbench.errors import DataError
from workbench.experiment.running.processes import fork_map
from workbench.experiment.stages.worker import Worker
from workbench.generation.sampling import SamplingSettings
from workbench.models.tokenizer import Tokenizer
from workbench.rewards import get_verifier

if TYPE_CHECKING:
    import torch

BLOCK_PROMPTS = 256
"""Prompts sampled by one process at a time. The result does not depend on the number of processes: it is taken in the
order of the blocks, and what lies behind the last pair needed is neither used nor charged."""
MAX_PROMPTS_PER_PAIR = 60
PAIRS_FILE = "pairs.jsonl"

Pair = dict[str, Any]


@dataclass(frozen=True)
class Sampled:
    """A completion, as text without its end and as the token ids that were sampled; ended: they have an end."""

    text: str
    ended: bool
    completion_ids: tuple[int, ...]


@dataclass
class Block:
    """What one block of prompts gave."""

    pairs: list[Pair] = field(default_factory=list)
    prompts: int = 0
    correct_samples: int = 0
    samples: int = 0
    none_correct: int = 0
    all_correct: int = 0
    generated_tokens: int = 0
    flops: float = 0.0


def collect_pairs(
    folder: Path,
    settings: CollectSettings,
    *,
    split: Split,
    num_pairs: int,
    samplers: Sequence[Path],
    worker: Worker,
    jobs: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write pairs.jsonl (prompt, chosen, rejected, each also as *_ids; *_ended; of completions prompt and completion);
    returns costs and counts. num_pairs: pairs, or completions.

    samplers: model folders. Raises DataError when the models give too few of them.
    """
    rows = iterate_rows(settings, split, settings.seed)
    blocks: list[Block] = []
    found, width = 0, jobs

    def count(block: Block) -> None:
        nonlocal found
        before, found = found, found + len(block.pairs)
        if before < num_pairs:
            on_progress(min(found, num_pairs), num_pairs)

    on_progress(0, num_pairs)
    while found < num_pairs:
        wave = list(_blocks(rows, width))
        prompts = sum(block.prompts for block in blocks)
        if not wave or prompts > 10_000 + MAX_PROMPTS_PER_PAIR * num_pairs:
            raise DataError(_too_few(settings, found, num_pairs, blocks))
        blocks += fork_map(
            lambda: [_Sampler(folder, settings, worker) for folder in samplers],
            lambda models, block: _sample_block(models, block, settings),
            wave,
            jobs=jobs,
            threads=worker.threads,
            on_result=count,
        )
        rate = max(found / len(blocks), 1.0)
        width = max(jobs, math.ceil((num_pairs - found) / rate * 1.05 / jobs) * jobs)
    return _write(folder, blocks, num_pairs, completions=bool(settings.completions))


def _blocks(rows: Iterator[TaskRow], number: int) -> Iterator[list[TaskRow]]:
    for _ in range(number):
        block = list(itertools.islice(rows, BLOCK_PROMPTS))
        if block:
            yield block


class _Sampler:
    """One model in one process."""

    def __init__(self, folder: Path, settings: CollectSettings, worker: Worker) -> None:
        from workbench.models.flops import ModelFlops

        self.model: torch.nn.Module = worker.load(folder)
        self.tokenizer = Tokenizer.load(folder)
        self.flops = ModelFlops.counted_of(self.model, learns=False, half=worker.is_half)
        self.worker = worker
        self.sampling = SamplingSettings(temperature=settings.temperature)
        self.limit = completion_limit(settings)

    def sample(
        self, rows: list[TaskRow], settings: CollectSettings, index: int
    ) -> tuple[list[list[int]], list[list[Sampled]], int, float]:
        """Each prompt's ids; every sample of it; tokens generated; FLOPs. index: which of several samplers."""
        from workbench.generation.costs import sampling_flops
        from workbench.generation.generate import completion_texts, generate, row_seed

        prompts = encode_prompts(self.tokenizer, [row.prompt for row in rows], as_chat=False)
        with self.worker.autocast():
            completions = generate(
                self.model,
                prompts,
                [row_seed(settings.seed + 1_000_003 * index, row.prompt_id) for row in rows],
                settings=self.sampling,
                max_new_tokens=self.limit,
                eos_ids=self.tokenizer.eos_ids,
                num_samples=settings.num_samples,
            )
        generated = sum(len(sample.completion_ids) for samples in completions for sample in samples)
        lengths = [[len(sample.completion_ids) for sample in samples] for samples in completions]
        spent = sampling_flops(self.flops, self.model, prompts, lengths, self.limit)
        texts = iter(completion_texts(self.tokenizer, [sample for samples in completions for sample in samples]))
        found = [
            [Sampled(next(texts), sample.ended, tuple(sample.completion_ids)) for sample in samples]
            for samples in completions
        ]
        return prompts, found, generated, spent


def _sample_block(samplers: list[_Sampler], rows: list[TaskRow], settings: CollectSettings) -> Block:
    verify = get_verifier(settings.task)
    block = Block(prompts=len(rows))
    by_prompt: list[list[Sampled]] = [[] for _ in rows]
    prompts: list[list[int]] = []
    for index, sampler in enumerate(samplers):
        prompts, sampled, generated, spent = sampler.sample(rows, settings, index)
        for samples, more in zip(by_prompt, sampled, strict=True):
            samples += more
        block.generated_tokens += generated
        block.flops += spent
    for row, prompt_ids, samples in zip(rows, prompts, by_prompt, strict=True):
        right = [sample for sample in samples if sample.ended and verify(row.prompt, sample.text, row.answer) == 1.0]
        wrong = [sample for sample in samples if sample not in right]
        block.samples += len(samples)
        block.correct_samples += len(right)
        block.none_correct += not right
        block.all_correct += not wrong
        if settings.completions:
            block.pairs += [{"prompt": row.prompt, "completion": each.text} for each in samples if each.ended]
            continue
        if not right and settings.no_correct == "reference":
            right = [_reference(samplers[0].tokenizer, row)]
        wrong = [sample for sample in wrong if right and sample.text != right[0].text]
        if right and wrong:
            pair: Pair = {"prompt": row.prompt, "chosen": right[0].text, "rejected": wrong[0].text}
            pair |= {} if wrong[0].ended else {"rejected_ended": False}
            ids = {
                "prompt_ids": prompt_ids,
                "chosen_ids": right[0].completion_ids,
                "rejected_ids": wrong[0].completion_ids,
            }
            block.pairs.append(pair | ids)
    return block


def _reference(tokenizer: Tokenizer, row: TaskRow) -> Sampled:
    """The task's own answer, as it would be learned behind the prompt."""
    [cut] = cut_whole(tokenizer, [(row.prompt, row.completion)])
    return Sampled(row.completion, True, tuple(tokenizer.ended(cut.after)))


def read_pairs(path: Path) -> Iterator[TokenPair]:
    """The pairs of a stage, as the ids that were sampled."""
    for record in read_records(path):
        prompt, chosen, rejected = (record.fields[f"{name}_ids"] for name in ("prompt", "chosen", "rejected"))
        yield TokenPair(record.where, prompt, chosen, rejected, record.fields["prompt"])


def read_completions(path: Path) -> Iterator[PromptCompletion]:
    """The completions of a stage, as text."""
    for record in read_records(path):
        yield PromptCompletion(record.fields["prompt"], record.fields["completion"])


def _write(folder: Path, blocks: list[Block], num_pairs: int, *, completions: bool) -> dict[str, Any]:
    used: list[Block] = []
    pairs: list[Pair] = []
    for block in blocks:
        if len(pairs) >= num_pairs:
            break
        used.append(block)
        pairs += block.pairs
    lines = (json.dumps(pair, ensure_ascii=False) for pair in pairs[:num_pairs])
    (folder / PAIRS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    totals = {
        name: sum(getattr(block, name) for block in used)
        for name in ("prompts", "samples", "correct_samples", "none_correct", "all_correct")
    }
    flops = sum(block.flops for block in used)
    costs = {
        "generated_tokens": sum(block.generated_tokens for block in used),
        "flops": None if math.isnan(flops) else flops,
    }
    return {"pairs": num_pairs, "completions": completions, **totals, "costs": costs}


def _too_few(settings: CollectSettings, found: int, wanted: int, blocks: list[Block]) -> str:
    prompts = sum(block.prompts for block in blocks)
    samples = max(1, sum(block.samples for block in blocks))
    if settings.completions:
        return (
            f"data.collect: {found:,} of {wanted:,} completions from {prompts:,} prompts of {settings.task}; the "
            "others were cut before their end, or there are no more prompts: ask for fewer"
        )
    share = sum(block.correct_samples for block in blocks) / samples
    return (
        f"data.collect: {found:,} of {wanted:,} pairs from {prompts:,} prompts of {settings.task}; {share:.1%} of the "
        "samples are right, and a pair needs a right and a wrong one: start from a model that is right more often, "
        "ask for fewer pairs, or set no_correct: reference"
    )


def collect_note(made: Mapping[str, Any]) -> str:
    """One sentence for the report."""
    share = made["correct_samples"] / max(1, made["samples"])
    if made.get("completions"):
        return f"{made['pairs']:,} completions were collected from {made['prompts']:,} prompts ({share:.1%} right)"
    return (
        f"{made['pairs']:,} pairs were collected from {made['prompts']:,} prompts and {made['samples']:,} samples "
        f"({share:.1%} right; {made['none_correct']:,} prompts had no right one, {made['all_correct']:,} no wrong one)"
    )
