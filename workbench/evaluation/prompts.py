"""Held-out prompts: exact match, greedy and sampled; pass@k and majority@k of several samples; the completions' length;
divergence from the start."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from workbench.evaluation.kl import sequence_kl
from workbench.evaluation.named import NO_LABELS, Labels
from workbench.evaluation.samples import majority_at, pass_at
from workbench.evaluation.settings import EvaluateSettings
from workbench.generation.generate import Completion, completion_texts, generate, row_seed
from workbench.generation.sampling import SamplingSettings
from workbench.models.reference import Reference
from workbench.models.tokenizer import Tokenizer
from workbench.rewards import get_verifier
from workbench.rewards.votes import votes
from workbench.tracking.names import COMPLETION_TOKENS, ENDED, KL_START, MAJORITY_AT, NUM_PROMPTS, PASS_AT, in_record
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


@dataclass(frozen=True)
class Answered:
    """One completion of a prompt as its verifier judged it. vote: the first sample of the prompt with the same answer,
    where votes are counted."""

    completion: Completion
    text: str
    score: float
    vote: int | None = None

    @property
    def is_right(self) -> bool:
        """A generator's scores may lie between 0 and 1: only 1 is right."""
        return self.score == 1.0


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
        completions = self._complete(model, None)
        answered = {"greedy": self._judged(completions, counted=False)}
        if sampling is not None:
            completions = self._complete(model, sampling, self.settings.samples)
            answered["sampled"] = self._judged(completions, counted=bool(self.settings.majority_at))
        # The length is that of the sampled completions, where there are any.
        last = list(itertools.chain(*completions))
        metrics = {
            **{
                f"eval/exact_match_{split}": statistics.fmean(answer.is_right for answer in itertools.chain(*found))
                for split, found in answered.items()
            },
            COMPLETION_TOKENS: statistics.fmean(len(completion.completion_ids) for completion in last),
            ENDED: statistics.fmean(completion.ended for completion in last),
            NUM_PROMPTS: float(len(self.prompts)),
        }
        of_prompts = [self._of_samples(samples) for samples in answered.get("sampled", [])]
        metrics |= {name: statistics.fmean(own[name] for own in of_prompts) for name in (of_prompts or [{}])[0]}
        if self.reference is not None:
            # The first sample of each alone: the estimate is the same whatever K is.
            whole = completions if sampling == WHOLE else self._complete(model, WHOLE)
            prompt_ids = [prompt.token_ids for prompt in self.prompts]
            divergences = sequence_kl(model, self.reference, prompt_ids, [own[0].completion_ids for own in whole])
            metrics[KL_START] = statistics.fmean(divergences)
        if self.records is not None:
            self._record(step, answered, of_prompts)
        return metrics

    def _complete(
        self, model: torch.nn.Module, sampling: SamplingSettings | None, num_samples: int = 1
    ) -> list[list[Completion]]:
        return generate(
            model,
            [prompt.token_ids for prompt in self.prompts],
            self._seeds,
            settings=sampling,
            max_new_tokens=self.settings.max_new_tokens,
            eos_ids=self.tokenizer.eos_ids,
            num_samples=num_samples,
        )

    def _judged(self, completions: list[list[Completion]], *, counted: bool) -> list[list[Answered]]:
        """The completions of each prompt with their texts and scores. counted: with their votes."""
        found = []
        all_texts = iter(completion_texts(self.tokenizer, list(itertools.chain(*completions))))
        for prompt, own in zip(self.prompts, completions, strict=True):
            texts = list(itertools.islice(all_texts, len(own)))
            scores = [self._verify(prompt.prompt, text, prompt.answer) for text in texts]
            answered = [Answered(*each) for each in zip(own, texts, scores, strict=True)]
            if counted:
                cast = votes(self.verifier, texts, [each.is_right for each in answered])
                answered = [replace(each, vote=vote) for each, vote in zip(answered, cast, strict=True)]
            found.append(answered)
        return found

    def _of_samples(self, samples: Sequence[Answered]) -> dict[str, float]:
        """What the samples of one prompt come to, by metric."""
        right, cast = [answer.is_right for answer in samples], [answer.vote for answer in samples]
        return {
            **{f"{PASS_AT}{k}": pass_at(k, sum(right), len(right)) for k in self.settings.pass_at},
            **{f"{MAJORITY_AT}{k}": majority_at(k, cast, right) for k in self.settings.majority_at},
        }

    def _record(
        self, step: int, answered: Mapping[str, list[list[Answered]]], of_prompts: Sequence[Mapping[str, float]]
    ) -> None:
        assert self.records is not None
        store = MetricStore(self.records)
        try:
            store.append_many(
                {"step": step, **self.labels, "split": split, "prompt_id": prompt.prompt_id, **row}
                for split, found in answered.items()
                for index, (prompt, answers) in enumerate(zip(self.prompts, found, strict=True))
                for row in self._rows(prompt, answers, of_prompts[index] if split == "sampled" else {})
            )
        finally:
            store.close()

    def _rows(
        self, prompt: HeldOutPrompt, answers: Sequence[Answered], of_prompt: Mapping[str, float]
    ) -> Iterator[dict[str, Any]]:
        """A row for each completion of a prompt. of_prompt: what they come to, which stands in the first row."""
        for index, answer in enumerate(answers):
            yield {
                "sample_index": index,
                "prompt": prompt.prompt,
                "completion": answer.text,
                "num_tokens": len(answer.completion.completion_ids),
                "ended": answer.completion.ended,
                "rewards": {self.verifier: answer.score},
                "exact_match": float(answer.is_right),
                **({"vote": answer.vote} if of_prompt and self.settings.majority_at else {}),
                **({in_record(name): value for name, value in of_prompt.items()} if not index else {}),
            }
