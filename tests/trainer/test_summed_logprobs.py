"""The seed's own batch: old log-probabilities that are one sum a completion."""

from __future__ import annotations

import pytest

from tests.trainer.test_rollouts import made_by
from workbench.errors import DataError


def of_the_seed(torch, **more):
    """The batch that the seed's own interface names, and nothing besides: no masks, no groups."""
    prompts = torch.tensor([[4, 5, 6], [4, 5, 6], [7, 8, 9], [7, 8, 9]])
    responses = torch.tensor([[5, 6], [7, 3], [9, 4], [10, 3]])
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    return {"prompts": prompts, "responses": responses, "rewards": rewards} | more


def sums_of(torch, model, batch):
    """(B,) log-probabilities of the completions, from the model's own logits."""
    ids = torch.cat((batch["prompts"], batch["responses"]), 1)
    with torch.no_grad():
        logits = model(ids)
        logprobs = getattr(logits, "logits", logits).log_softmax(-1)
    width = batch["prompts"].shape[1]
    return logprobs[:, width - 1 : -1].gather(2, batch["responses"][..., None])[..., 0].sum(1)


def test_the_seeds_batch_of_summed_old_logprobs_trains_by_ratios_of_whole_completions(torch, small_llama):
    from workbench.trainer import GRPOTrainer

    model = small_llama()
    batch = of_the_seed(torch)
    ratios = torch.tensor([1.1, 0.7, 1.5, 1.3])
    batch["old_logprobs"] = sums_of(torch, model, batch) - ratios.log()
    trainer = GRPOTrainer(model, None, [batch])
    before = [parameter.clone() for parameter in model.parameters()]
    row = trainer.train()
    # Rewards 1 and 0: mean 0.5, Bessel's deviation 0.7071; A = +-0.5 / (0.7071 + 1e-4). With clips at 0.8 and 1.2:
    # -1.1 A, 0.8 A (low, of negative advantage), 1.5 A (moved the wrong way: whole), -1.2 A.
    advantage = 0.5 / (0.5**0.5 + 1e-4)
    assert row["loss"] == pytest.approx((-1.1 + 0.8 + 1.5 - 1.2) * advantage / 4, abs=1e-5)
    assert row["clip_ratio/low_mean"] == row["clip_ratio/high_mean"] == 0.25
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert [warning for warning in trainer.warnings if "one sum a completion" in warning] == trainer.warnings[:1]
    assert len(trainer.warnings) == 1


def test_summed_old_logprobs_are_said_once(torch, small_llama):
    batch = of_the_seed(torch, old_logprobs=torch.tensor([-5.0, -6.0, -5.5, -6.5]))
    trainer = made_by("grpo", batch, small_llama(), steps=4, passes=2)
    trainer.train()
    assert sum("one sum a completion" in warning for warning in trainer.warnings) == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        *(({"loss": name}, f"loss: {name}, asked for by name") for name in ("dapo", "grpo", "dr_grpo", "cispo")),
        ({"importance_correction": "token_mask"}, "importance_correction: token_mask"),
        ({"beta": 0.1, "kl": "k3_ratio"}, "kl: k3_ratio, asked for by name"),
        ({"beta": 0.1, "kl": "k3", "kl_in": "reward", "advantage": "rloo"}, "kl: k3 in the reward"),
    ],
)
def test_what_needs_ratios_of_tokens_refuses_sums(torch, settings, named, small_llama):
    batch = of_the_seed(torch, old_logprobs=torch.tensor([-5.0, -6.0, -5.5, -6.5]))
    with pytest.raises(DataError, match=rf"batch 1: old_logprobs are one sum .* {named},? takes those of tokens"):
        made_by("grpo", batch, small_llama(), **settings).train()


@pytest.mark.parametrize(("name", "shown"), [("ppo", "PPOTrainer"), ("reinforce_pp", "ReinforcePPTrainer")])
def test_advantages_of_tokens_refuse_sums(torch, name, shown, small_llama):
    batch = of_the_seed(torch, old_logprobs=torch.tensor([-5.0, -6.0, -5.5, -6.5]))
    with pytest.raises(DataError, match=rf"batch 1: old_logprobs are one sum .* {shown} takes those of tokens"):
        made_by(name, batch, small_llama()).train()


def test_rloo_takes_sums_as_they_are(torch, small_llama):
    """Ratios 1.1, 0.7, 1.5, 1.3 and rewards 1, 0, 0, 1: A = +-1, -1.1 A, 0.8 A (low), 1.5 A (whole), -1.2 A (high)."""
    model, batch = small_llama(), of_the_seed(torch)
    batch["old_logprobs"] = sums_of(torch, model, batch) - torch.tensor([1.1, 0.7, 1.5, 1.3]).log()
    trainer = made_by("rloo", batch, model, beta=0.0)
    row = trainer.train()
    assert row["loss"] == pytest.approx((-1.1 + 0.8 + 1.5 - 1.2) / 4, abs=1e-5)
    assert row["clip_ratio/low_mean"] == row["clip_ratio/high_mean"] == 0.25
    assert not any("one sum" in warning for warning in trainer.warnings)
