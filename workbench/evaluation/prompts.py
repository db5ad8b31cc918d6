"""Held-out prompts: exact match, greedy and sampled; the completions' length; divergence from the start."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.evaluation.kl import sequence_kl
from workbench.evaluation.named import NO_LABELS, Labels
from workbench.evaluation.settings import EvaluateSettings
from workbench.generation.generate import Completion, completion_texts, generate, row_seed
from workbench.generation.sampling import SamplingSettings
from workbench.models.reference import Reference
from workbench.models.tokenizer import Tokenizer
from workbench.rewards import get_verifier
from workbench.tracking.names import COMPLETION_TOKENS, ENDED, KL_START, NUM_PROMPTS
from workbench.tracking.store import MetricStore

WHOLE = SamplingSettings()
"""Temperature 1 over the whole distribution: what eval/kl_start is measured on."""


@dataclass(frozen=True)
class HeldOutPrompt:
    """A prompt, as text and as token ids, and the answer it is checked against."""

    prompt: str
    answer: str
    prompt_id: str
    token_ids: tuple[int, ...]


class PromptEvaluator:
    """Called as evaluator(model, step) -> metrics; appends every completion to `records` (completions.jsonl)."""

    def __init__(
        self,
        prompts: Sequence[HeldOutPrompt],
        settings: EvaluateSettings,
        tokenizer: Tokenizer,
        *,
        verifier: str,
        reference: Reference | None = None,
        records: Path | None = None,
        labels: Labels = NO_LABELS,
    ) -> None:
        """verifier: a name of workbench.rewards. reference: None measures no eval/kl_start. labels: what each recorded
        row says beside."""
        self.prompts, self.settings, self.tokenizer = list(prompts), settings, tokenizer
        self.verifier, self.reference, self.records, self.labels = verifier, reference, records, labels
        self._verify = get_verifier(verifier)
        self._seeds = [row_seed(settings.seed, prompt.prompt_id) for prompt in self.prompts]

    def __call__(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        sampling = self.settings.sampling
        completions = {"greedy": self._complete(model, None)}
        if sampling is not None:
            completions["sampled"] = self._complete(model, sampling)
        scores = {split: self._scores(found) for split, found in completions.items()}
        last = completions[list(completions)[-1]]
        metrics = {
            **{
                # A generator's scores may lie between: only 1 is right.
                f"eval/exact_match_{split}": statistics.fmean(score == 1.0 for score in found)
                for split, found in scores.items()
            },
            # The length is that of the sampled completions, where there are any.
            COMPLETION_TOKENS: statistics.fmean(len(completion.completion_ids) for completion in last),
            ENDED: statistics.fmean(completion.ended for completion in last),
            NUM_PROMPTS: float(len(self.prompts)),
        }
        if self.reference is not None:
            whole = completions["sampled"] if sampling == WHOLE else self._complete(model, WHOLE)
            prompt_ids = [prompt.token_ids for prompt in self.prompts]
            divergences = sequence_kl(model, self.reference, prompt_ids, [c.completion_ids for c in whole])
            metrics[KL_START] = statistics.fmean(divergences)
        if self.records is not None:
            self._record(step, completions, scores)
        return metrics

    def _complete(self, model: torch.nn.Module, sampling: SamplingSettings | None) -> list[Completion]:
        completions = generate(
            model,
            [prompt.token_ids for prompt in self.prompts],
            self._seeds,
            settings=sampling,
            max_new_tokens=self.settings.max_new_tokens,
            eos_ids=self.tokenizer.eos_ids,
        )
        return [samples[0] for samples in completions]

    def _scores(self, completions: list[Completion]) -> list[float]:
        texts = completion_texts(self.tokenizer, completions)
        return [self._verify(p.prompt, text, p.answer) for p, text in zip(self.prompts, texts, strict=True)]

    def _record(self, step: int, completions: dict[str, list[Completion]], scores: dict[str, list[float]]) -> None:
        assert self.records is not None
        rows: list[dict[str, Any]] = []
        for split, found in completions.items():
            texts = completion_texts(self.tokenizer, found)
            for prompt, completion, text, score in zip(self.prompts, found, texts, scores[split], strict=True):
                rows.append(
                    {
                        "step": step,
                        **self.labels,
                        "split": split,
                        "prompt_id": prompt.prompt_id,
                        "sample_index": 0,
                        "prompt": prompt.prompt,
                        "completion": text,
                        "num_tokens": len(completion.completion_ids),
                        "ended": completion.ended,
                        "rewards": {self.verifier: score},
                        "exact_match": float(score == 1.0),
                    }
                )
        store = MetricStore(self.records)
        try:
            store.append_many(rows)
        finally:
            store.close()
