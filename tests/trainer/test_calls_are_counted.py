"""The law of costs for trainers of one's own: what is charged is what their models' calls compute, or nothing is."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.trainer.test_flops_are_counted import LARGE, counted_and_recorded, long_rows, of_transformers, ragged_rows
from workbench.errors import DefinitionError
from workbench.trainer import BaseTrainer, DPOTrainer, SFTTrainer
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.pairs import completion_logprobs
from workbench.trainer.settings import Budget, TrainerSettings


class PairSettings(TrainerSettings):
    data_form: ClassVar[Any] = "pairs"


class OwnPairs(BaseTrainer):
    """Pairs without a reference: each side behind its prompt, in one call a side."""

    settings_class = PairSettings

    def _prepare_batch(self, batch: Any) -> Any:
        return {key: value.to(self.device) for key, value in batch.items()}

    def _call(self, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(ids, attention_mask=mask).logits

    def _sums(self, model: Any, batch: Any) -> list[torch.Tensor]:
        found = []
        for side in ("chosen", "rejected"):
            ids = torch.cat([batch["prompt_input_ids"], batch[f"{side}_input_ids"]], 1)
            mask = torch.cat([batch["prompt_attention_mask"], batch[f"{side}_attention_mask"]], 1)
            logprobs = self._call(model, ids, mask)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            found.append((logprobs * mask[:, 1:]).sum(1))
        return found

    def _forward(self, batch: Any) -> Any:
        return self._sums(self.model, batch)

    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        return -logsigmoid(outputs[0] - outputs[1]).mean()


class WithoutMask(OwnPairs):
    def _call(self, model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids).logits


class OwnKeys(OwnPairs):
    """Both sides of a pair in one row, under names of its own."""

    def _prepare_batch(self, batch: Any) -> Any:
        rows = [
            torch.cat([batch[f"{part}_{key}"] for part in ("prompt", "chosen", "rejected")], 1)
            for key in ("input_ids", "attention_mask")
        ]
        return {"tokens": rows[0], "real": rows[1]}

    def _forward(self, batch: Any) -> Any:
        return self.model(batch["tokens"], attention_mask=batch["real"]).logits

    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        return (outputs.logsumexp(-1) * batch["real"]).sum(1).mean()


class WithReference(OwnPairs):
    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        with self.reference.scoring() as reference:
            chosen, rejected = self._sums(reference, batch)
        return -logsigmoid(outputs[0] - outputs[1] - chosen + rejected).mean()


class PromptOnce(OwnPairs):
    """By the product's own function."""

    def _forward(self, batch: Any) -> Any:
        return completion_logprobs(self.model, batch)[0].chunk(2)


class TwoPasses(SFTTrainer):
    def _forward(self, batch: Any) -> Any:
        super()._forward(batch)
        return super()._forward(batch)


class NoReference(DPOTrainer):
    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        chosen, rejected = outputs.chunk(2)
        return LossResult({"preference": LossTerm(-logsigmoid(chosen - rejected).sum(), float(len(chosen)))})


class NoReferenceSettings(DPOTrainer.settings_class):
    needs_reference: ClassVar[bool] = False


def step_on(cls: Any, model: Any, batch: Any, *, settings_class: Any = None, **settings: Any) -> Any:
    chosen = {"steps": 1, "device": "cpu", "precision": "float32"} | settings
    return cls(model, None, [batch], settings=(settings_class or cls.settings_class)(**chosen))


def recorded_of_second_step(trainer: Any) -> float:
    """The charge as a share of what torch counted. In the first step a reference's own layers are counted."""
    trainer.train_step()
    before = trainer.costs.flops
    counted, after = counted_and_recorded(trainer)
    return (after - before) / counted


LONGER = [{"micro_batch_rows": 2}, {"gradient_checkpointing": True}]


@pytest.mark.parametrize("forward", ["own", pytest.param("transformers", marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{}, *(pytest.param(one, marks=pytest.mark.slow) for one in LONGER)])
@pytest.mark.parametrize("cls", [OwnPairs, OwnKeys, WithReference, PromptOnce])
def test_flops_are_those_of_the_calls(cls: Any, settings: Any, forward: str, small_llama: Any, collate: Any) -> None:
    model = small_llama(**LARGE) if forward == "own" else of_transformers()
    trainer = step_on(cls, model, collate("dpo", long_rows(4)), steps=2, **settings)
    assert recorded_of_second_step(trainer) == pytest.approx(1.0, rel=0.05)
    assert (trainer.costs.scored_tokens > 0) == (cls is WithReference)


@pytest.mark.parametrize(
    ("cls", "tokens"),
    [
        (OwnPairs, "apart"),
        (WithReference, "apart"),
        (PromptOnce, "once"),
        (WithoutMask, "padded"),
        (OwnKeys, "one row"),
    ],
)
def test_trained_tokens_are_those_that_are_read(cls: Any, tokens: str, small_llama: Any, collate: Any) -> None:
    rows = ragged_rows()
    trainer = step_on(cls, small_llama(**LARGE), collate("dpo", rows))
    trainer.train()
    prompts, chosen, rejected = (sum(len(row[part]) for row in rows) for part in range(3))
    width = max(len(row[0]) for row in rows)
    read = {
        "apart": 2 * prompts + chosen + rejected,
        "once": prompts + chosen + rejected,
        "padded": 2 * len(rows) * width + chosen + rejected,  # without a mask the model reads padding as text
        "one row": prompts + chosen + rejected,
    }
    assert trainer.costs.trained_tokens == read[tokens]
    assert trainer.costs.scored_tokens == (read[tokens] if cls is WithReference else 0)


def test_one_that_takes_over_dpos_forward_costs_what_dpo_does(small_llama: Any, collate: Any) -> None:
    costs = []
    for cls in (DPOTrainer, NoReference):
        trainer = step_on(cls, small_llama(**LARGE), collate("dpo", ragged_rows()))
        trainer.train()
        costs.append(trainer.costs)
    assert costs[1].flops == pytest.approx(costs[0].flops, rel=1e-9)
    assert costs[1].trained_tokens == costs[0].trained_tokens
    free = step_on(NoReference, small_llama(**LARGE), collate("dpo", ragged_rows()), settings_class=NoReferenceSettings)
    free.train()
    assert (free.costs.trained_tokens, free.costs.scored_tokens) == (costs[0].trained_tokens, 0)
    assert free.costs.flops == pytest.approx(0.75 * costs[0].flops, rel=0.02)


def test_a_pass_that_a_subclass_adds_is_charged(small_llama: Any, collate: Any) -> None:
    trainer = step_on(TwoPasses, small_llama(**LARGE), collate("sft", long_rows(4)))
    plain = step_on(SFTTrainer, small_llama(**LARGE), collate("sft", long_rows(4)))
    trainer.train()
    plain.train()
    assert trainer.costs.trained_tokens == 2 * plain.costs.trained_tokens


def test_a_reference_of_another_size_is_charged_by_its_own(small_llama: Any, collate: Any) -> None:
    batch = collate("dpo", long_rows(4))
    settings = DPOTrainer.settings_class(steps=2, device="cpu", precision="float32", starts_from_reference=False)
    large = small_llama(**LARGE | {"num_hidden_layers": 9})
    trainer = DPOTrainer(small_llama(**LARGE), None, [batch], settings=settings, ref_model=large)
    assert recorded_of_second_step(trainer) == pytest.approx(1.0, rel=0.05)


class Teacher(OwnPairs):
    """Calls a model that takes no token ids."""

    def _set_up_model(self, model: Any) -> Any:
        self.teacher = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 2))
        return super()._set_up_model(model)

    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        return super()._compute_loss(outputs, batch) + self.teacher(torch.ones(1, 300)).mean()


class Vector(BaseTrainer):
    """Trains what is no language model."""

    def _prepare_batch(self, batch: Any) -> Any:
        return batch

    def _forward(self, batch: Any) -> Any:
        return self.model(batch["x"])

    def _compute_loss(self, outputs: Any, batch: Any) -> Any:
        return outputs.square().mean()


def make_uncounted(which: int, small_llama: Any, collate: Any, **settings: Any) -> Any:
    if which == 0:
        return step_on(Vector, torch.nn.Linear(3, 1), {"x": torch.ones(4, 3)}, **settings)
    return step_on(Teacher, small_llama(**LARGE), collate("dpo", long_rows(4)), **settings)


@pytest.mark.parametrize("which", [0, 1])
def test_what_cannot_be_counted_is_said_and_no_budget_of_flops_is_taken(
    which: int, small_llama: Any, collate: Any, capsys: Any
) -> None:
    make = partial(make_uncounted, which, small_llama, collate)
    trainer = make()
    row = trainer.train()
    assert "cost/flops" not in row
    assert row["cost/trained_tokens"] > 0
    reason = trainer.uncounted
    assert (
        "Linear: a pass over token ids ends in" if which == 0 else "Sequential was called without token ids"
    ) in reason
    assert capsys.readouterr().err.count("not counted") == 1
    with pytest.raises(DefinitionError, match=r"budget\.flops: a part of the run's FLOPs could not be counted: "):
        make(budget=Budget(flops=1e9)).train()
    assert make(budget=Budget(tokens=1)).train()["step"] == 1


def test_costs_that_were_not_counted_stay_so_through_json() -> None:
    from workbench.trainer.records.costs import Costs

    costs = Costs(flops=float("nan"), trained_tokens=7)
    text = json.dumps(costs.as_json(), allow_nan=False)
    again = Costs.of(json.loads(text))
    again.add(Costs(flops=3.0, trained_tokens=1))
    assert again.as_json() == costs.as_json() | {"trained_tokens": 8}


def test_own_code_that_reads_a_reference_it_did_not_ask_for_is_told_how(small_llama: Any, collate: Any) -> None:
    class Reads(OwnPairs):
        def _compute_loss(self, outputs: Any, batch: Any) -> Any:
            return super()._compute_loss(outputs, batch) + batch["ref_chosen_logprobs"].sum()

    with pytest.raises(DefinitionError, match=r"reads ref_chosen_logprobs.*needs_reference = True"):
        step_on(Reads, small_llama(**LARGE), collate("dpo", long_rows(2))).train()


def test_a_kernel_that_torchs_counter_does_not_know_is_named() -> None:
    from workbench.models.flops import ModelFlops

    class Scan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.ops.workbench_tests.scan(self.embed(input_ids)))

    library = torch.library.Library("workbench_tests", "DEF")
    library.define("scan(Tensor x) -> Tensor")
    library.impl("scan", lambda x: x.cumsum(1), "CompositeExplicitAutograd")
    found = ModelFlops.counted_of(Scan(), learns=False)
    assert found.uncounted == "Scan: torch's counter does not know the kernel workbench_tests::scan"
