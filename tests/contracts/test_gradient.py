"""Law 2: the gradient does not depend on how a batch is cut into micro-batches, padded or packed, nor on what is kept
for the backward pass: every trainer."""

from __future__ import annotations

import pytest

from tests.trainers import TRAINERS, Variant

ALLOWED = {"float32": 1e-5, "float64": 1e-10}
GRPO_LOSSES = {
    **{name: {"loss": name} for name in ("grpo", "dapo", "dr_grpo")},
    "gspo": {"loss": "gspo", "clip_low": 0.04, "clip_high": 0.05},
    "cispo": {"loss": "cispo", "ratio_ceiling": 1.1},
    "sapo": {"loss": "sapo"},
    "luspo": {"loss": "luspo", "clip_low": 0.04, "clip_high": 0.05},
}
ADVANTAGES = ("group_std", "batch_std", "mean_only", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline")
VARIANTS = {
    **{f"grpo-{name}": ("grpo", settings) for name, settings in GRPO_LOSSES.items()},
    **{f"grpo-{name}": ("grpo", {"advantage": name}) for name in ADVANTAGES},
    **{f"grpo-kl-{name}": ("grpo", {"kl": name}) for name in ("k2", "k3", "k3_sequence")},
    "grpo-kl-reward": ("grpo", {"kl": "k1", "kl_in": "reward", "advantage": "rloo"}),
    "grpo-sums": ("grpo", {"clip_low": 0.9, "clip_high": 9.0}),
    "grpo-overlong": ("grpo", {"overlong": "mask"}),
    "ppo-head": ("ppo", {"critic": "head"}),
    "ppo-overlong": ("ppo", {"overlong": "mask"}),
    "rloo-whitened": ("rloo", {"whiten_advantages": True, "overlong": "mask"}),
    "reinforce_pp-overlong": ("reinforce_pp", {"overlong": "mask", "gamma": 0.9}),
    "ppo-raw": ("ppo", {"whiten_advantages": False, "gamma": 0.9}),
    "dpo-over-step": ("dpo", {"loss": {"aot": 1.0, "aot_unpaired": 0.5, "bco_pair": 0.25}, "beta": 0.5}),
    "dpo-of-tokens": ("dpo", {"loss": "ipo", "length_discount": 0.5, "pair_weighting": "wpo"}),
}


@pytest.fixture
def gradient(torch, make_trainer, small_llama):
    """(trainer, dtype, batch, micro_batch_rows) -> the first step's whole gradient and its metrics row."""

    def compute(name, dtype, batch, micro_batch_rows=None, **settings):
        trainer = make_trainer(
            Variant(name),
            batches=[batch],
            model=small_llama(dtype),
            make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0),
            steps=1,
            max_grad_norm=None,
            arguments={"ref_model": small_llama(dtype, seed=1), "val_loader": None},
            micro_batch_rows=micro_batch_rows,
            **TRAINERS[name].terms | settings,
        )
        seen = []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        row = trainer.train()
        return seen[0], {key: value for key, value in row.items() if not key.startswith(("time/", "cost/flops"))}

    return compute


def relative(first, second):
    return ((first - second).norm() / second.norm()).item()


def assert_equal(found, whole, dtype):
    """Both the gradient and every metric of the step."""
    assert whole[0].norm() > 1e-2
    assert relative(found[0], whole[0]) <= ALLOWED[dtype]
    assert found[1] == pytest.approx(whole[1], rel=1e-4 if dtype == "float32" else 1e-9, abs=ALLOWED[dtype])


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("name", TRAINERS)
def test_gradient_is_the_same_in_micro_batches_and_when_activations_are_computed_again(
    name, dtype, gradient, collate, make_rows
):
    batch = collate(name, make_rows(7))
    whole = gradient(name, dtype, batch)
    for rows in (1, 2, 4, 8):
        assert_equal(gradient(name, dtype, batch, rows), whole, dtype)
    assert_equal(gradient(name, dtype, batch, 2, gradient_checkpointing=True), whole, dtype)


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_every_loss_is_the_same_in_micro_batches(torch, variant, dtype, gradient, collate, make_rows):
    """Statistics over the batch, as those of advantages and of whitening, are the whole step's."""
    name, settings = VARIANTS[variant]
    batch = collate(name, make_rows(7))
    if name != "dpo":
        batch["ended"] = torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()
    if variant == "grpo-sums":
        batch["old_logprobs"] = batch["old_logprobs"].sum(1)
    assert_equal(gradient(name, dtype, batch, 2, **settings), gradient(name, dtype, batch, **settings), dtype)


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("name", TRAINERS)
def test_gradient_is_the_same_under_any_padding(name, dtype, gradient, collate, make_rows):
    rows = make_rows(5)
    plain = gradient(name, dtype, collate(name, rows))
    for padding in ({"extra": 3}, {"left": True}, {"left": True, "extra": 3}):
        assert_equal(gradient(name, dtype, collate(name, rows, **padding)), plain, dtype)


@pytest.mark.parametrize("dtype", ALLOWED)
@pytest.mark.parametrize("name", ["sft", "pretrain"])
def test_gradient_is_the_same_in_packed_rows(torch, name, dtype, gradient, collate, make_rows):
    rows = make_rows(4)
    plain, _ = gradient(name, dtype, collate(name, rows))
    parts = [collate(name, [row]) for row in rows]
    packed = {key: torch.cat([part[key] for part in parts], 1) for key in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(p["input_ids"].shape[1]) for p in parts])[None]
    assert relative(gradient(name, dtype, packed)[0], plain) <= ALLOWED[dtype]
