"""What a rollout's completions earn: by reward functions, which judge text, and by a reward model, which reads ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from workbench.data.chat import opened_thought
from workbench.errors import DefinitionError
from workbench.models.flops import ModelFlops, Work
from workbench.models.passes import config_field
from workbench.models.told import heard_by
from workbench.permissions import Permissions
from workbench.rewards.build import build_rewards
from workbench.rewards.keywords import as_reward_set
from workbench.rewards.reward import Reward, RewardSet, Sample, TrainerState
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loop.sources import SOURCE
from workbench.trainer.online.attempt import Attempt
from workbench.trainer.online.rollout import Rollout
from workbench.trainer.online.sampler import ids_of
from workbench.trainer.online.settings import RolloutSettings
from workbench.trainer.records.costs import Costs


class Judge:
    """Gives the rewards of reward_fn (a RewardSet, or a function called as TRL calls its own), else of what settings
    name; and those of reward_model, beside them or alone."""

    def __init__(
        self,
        settings: RolloutSettings,
        *,
        reward_fn: Callable[..., Any] | None,
        reward_model: torch.nn.Module | None,
        tokenizer: Any,
        device: torch.device,
    ) -> None:
        self._settings, self._reward_fn, self._model = settings, reward_fn, reward_model
        self._tokenizer, self._device = tokenizer, device
        self._model_flops = None if reward_model is None else ModelFlops.of_classifier(reward_model)
        self._built: RewardSet | None = None

    @property
    def reads_text(self) -> bool:
        """Whether there is a reward beside a reward model, which scores token ids alone."""
        return self._model is None or self._reward_fn is not None or bool(self._settings.rewards)

    @property
    def maximum(self) -> float | None:
        """The largest possible reward, where it is known; rewards are known once they have judged."""
        return None if self._built is None or self._model is not None else self._built.maximum

    @property
    def uncounted(self) -> str:
        """Why the FLOPs of a model among the rewards are not counted; empty: they are."""
        given = self._reward_fn.rewards if isinstance(self._reward_fn, RewardSet) else ()
        models = [self._model_flops] if self._model_flops else []
        return next(filter(None, (found.uncounted for found in (*models, *given))), "")

    def described(self) -> dict[str, str]:
        """Weights and names of the rewards that were given, for the line that training starts with."""
        rewards = self._rewards().rewards if self._reward_fn is not None else ()
        return {"rewards": ", ".join(f"{reward.weight:g} {reward.name}" for reward in rewards)} if rewards else {}

    def texts(self, rows: list[list[int]]) -> list[str]:
        """Ids as the text that rewards judge. DefinitionError where there is no tokenizer and it is needed."""
        if self._tokenizer is None:
            if self.reads_text:
                raise DefinitionError("rewards judge text; pass tokenizer")
            return [""] * len(rows)
        return self._tokenizer.decode_batch(rows, skip_special_tokens=False)

    def score(self, rollout: Rollout, batch: Batch, state: TrainerState, attempt: Attempt) -> Rollout:
        """The rollout with its rewards. RewardError where one gives a completion neither a finite number nor None."""
        rewards = self._rewards_of(rollout)
        with heard_by(None):
            scores = rewards.score(self._samples(rollout, batch, state))
        for tokens, flops in rewards.take_costs():
            attempt.charge(Costs(scored_tokens=tokens, flops=flops))
        totals = torch.tensor(scores.total, dtype=torch.float64, device=self._device)
        return replace(rollout, rewards=totals, by_name=scores.by_name, extra=scores.extra, logged=scores.metrics)

    def _samples(self, rollout: Rollout, batch: Batch, state: TrainerState) -> list[Sample]:
        lengths, ended = rollout.lengths.tolist(), rollout.ended.tolist()
        of_prompts: dict[str, list[Any]] = {
            name: batch.get(name) or [default] * len(rollout.texts)  # type: ignore[misc]
            for name, default in (("answers", None), ("columns", {}), ("messages", None))
        }
        sources = rollout.of_prompt[SOURCE].tolist() if SOURCE in rollout.of_prompt else [0] * len(rollout.texts)
        prefills = [opened_thought(text) for text in self.texts(ids_of(rollout.prompts, rollout.prompt_mask))]
        return [
            Sample(
                rollout.texts[prompt],
                rollout.completions[row],
                of_prompts["answers"][prompt],
                lengths[row],
                ended[row],
                self._settings.max_new_tokens,
                tuple(rollout.completion_ids[row, : lengths[row]].tolist()),
                of_prompts["columns"][prompt] or {},
                of_prompts["messages"][prompt],
                state,
                prefills[prompt],
                sources[prompt],
            )
            for row, prompt in enumerate(rollout.prompt_index.tolist())
        ]

    def _rewards(self) -> RewardSet:
        """The rewards that judge text; they are built when they are first asked for."""
        if self._built is None:
            device, permissions = str(self._device), Permissions.of_environment()
            given = self._reward_fn or build_rewards(
                self._settings.rewards, task=None, device=device, columns=None, permissions=permissions
            )
            self._built = as_reward_set(given)
        return self._built

    def _rewards_of(self, rollout: Rollout) -> RewardSet:
        """All rewards; the reward model's scores this rollout alone."""
        judges_text = self._rewards().rewards if self.reads_text else ()
        if self._model is None:
            return self._rewards()
        model = self._model.to(self._device).eval()
        lengths = rollout.prompt_mask.sum(1)[rollout.prompt_index] + rollout.lengths
        read = Work.of_scored(model, lengths, rollout.prompts.shape[1] + rollout.completion_ids.shape[1])
        assert self._model_flops is not None, "a reward model's FLOPs are counted when it is given"
        spent = (int(read.read), self._model_flops.forward(read))
        scored = Reward("reward_model", lambda _: sequence_scores(model, rollout), take_costs=lambda: spent)
        return RewardSet([*judges_text, scored])


@torch.no_grad()
def sequence_scores(model: torch.nn.Module, rollout: Rollout) -> list[float]:
    """A reward model's number for each completion with its prompt: model(input_ids, attention_mask).logits[:, 0]."""
    rows = rollout.row_batch()
    ids = torch.cat((rows["prompts"], rows["completion_ids"]), 1)
    mask = torch.cat((rows["prompt_mask"], rows["completion_mask"]), 1)
    # transformers' classifiers of decoders read the last token that is not this one.
    padding = config_field(config_field(model, "config"), "pad_token_id")
    ids = ids if padding is None else ids.masked_fill(~mask, padding)
    order = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices  # real tokens first: padded on the right
    logits = model(input_ids=ids.gather(1, order), attention_mask=mask.gather(1, order).long()).logits
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise DefinitionError(
            f"reward_model gives logits of {tuple(logits.shape)}; allowed one number a text (N, 1), such as "
            "transformers' AutoModelForSequenceClassification with num_labels=1"
        )
    return logits[:, 0].tolist()
