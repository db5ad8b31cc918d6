"""Law 5: ORPO, CPO, SimPO and KTO agree with the trainers of TRL 1.16, or of its trl.experimental, within 1e-5: loss,
gradient and rewards of a step, and the weights after 20 whole steps."""

from __future__ import annotations

import pytest

from tests import parity
from tests.parity import ROWS, first_step, gradient_distance, pytestmark, weight_distance  # noqa: F401

STEPS, LEARNING_RATE = 20, 1e-3
THEIRS = parity.THEIRS | {
    "max_steps": STEPS,
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": len(ROWS),
    "logging_steps": 1,
    "logging_first_step": True,
    "save_strategy": "no",
    "disable_tqdm": True,
}
OURS = parity.OURS | {"steps": STEPS, "learning_rate": LEARNING_RATE}
METHODS = {
    "orpo": ("orpo", {"nll_over": "prompt_and_response", "beta": 0.3}, {"beta": 0.3}),
    "cpo": ("cpo", {"beta": 0.2}, {"beta": 0.2, "loss_type": "sigmoid", "cpo_alpha": 1.0}),
    "cpo-hinge": ("cpo", {"loss": "hinge", "beta": 0.2}, {"beta": 0.2, "loss_type": "hinge", "cpo_alpha": 1.0}),
    "simpo": (
        "simpo",
        {"beta": 2.0, "gamma": 0.7},
        {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.7, "cpo_alpha": 0.0},
    ),
    "simpo-alpha": (
        "simpo",
        {"beta": 2.0, "gamma": 0.7, "alpha": 0.1, "nll_weight": 0.5},
        {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.7, "alpha": 0.1, "cpo_alpha": 0.5},
    ),
}
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
METRICS = {
    "orpo": (*REWARDS, "nll_loss", "log_odds_ratio", "log_odds_chosen"),
    "cpo": (*REWARDS, "nll_loss"),
    "simpo": REWARDS,
}


def peer_of(name, theirs, settings, tokenizer, folder):
    """trl.experimental's trainer on the rows; SimPO is a loss of its CPO."""
    import datasets
    from trl.experimental import cpo, orpo

    trainer, config = (orpo.ORPOTrainer, orpo.ORPOConfig) if name == "orpo" else (cpo.CPOTrainer, cpo.CPOConfig)
    return trainer(
        theirs,
        args=config(output_dir=str(folder), **THEIRS, **settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in ROWS]),
        processing_class=tokenizer,
    )


def batch_of(peer, collate):
    """Our batch of the token ids that the peer made."""
    rows = [peer.train_dataset[index] for index in range(len(ROWS))]
    ids = []
    for row in rows:
        prompt = row["prompt_input_ids"]
        sides = [row[f"{side}_input_ids"] for side in ("chosen", "rejected")]
        assert all(side[: len(prompt)] == prompt for side in sides)
        ids.append((prompt, *(side[len(prompt) :] for side in sides)))
    return collate("dpo", ids)


@pytest.fixture
def both(models, tokenizer, tmp_path, collate):
    """both(method, **settings) -> the peer, and our trainer on its token ids."""

    def make(method, **more):
        from workbench.trainer import get_trainer_class

        (theirs, own), (name, settings, theirs_settings) = models(0), METHODS[method]
        peer = peer_of(name, theirs, theirs_settings, tokenizer, tmp_path)
        batch = batch_of(peer, collate)
        return peer, get_trainer_class(name)(own, None, [batch], settings=OURS | settings | more)

    return make


@pytest.mark.parametrize("method", METHODS)
def test_loss_gradient_and_metrics_of_a_step(both, method):
    peer, ours = both(method, max_grad_norm=None, steps=1)
    rows = [peer.train_dataset[index] for index in range(len(ROWS))]
    loss, metrics = peer.get_batch_loss_metrics(peer.model, peer.data_collator(rows))
    loss.backward()
    row, gradients = first_step(ours)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5
    for name in METRICS[method.partition("-")[0]]:
        assert row[name] == pytest.approx(float(metrics[name]), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("method", METHODS)
def test_twenty_whole_steps(both, method):
    peer, ours = both(method)
    losses = []
    check = ours._check_gradient
    ours._check_gradient = lambda row: losses.append(row["loss"]) or check(row)
    ours.train()
    peer.train()
    expected = [entry["loss"] for entry in peer.state.log_history if "loss" in entry]
    assert len(expected) == STEPS
    # The peer's log keeps a rounded loss.
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert losses[-1] < 0.9 * losses[0]
    assert weight_distance(ours.policy, peer.model) <= 1e-5


@pytest.fixture
def both_kto(models, tokenizer, tmp_path):
    """both_kto(**settings) -> TRL's KTO, its batch, and our trainer on the same rows, against a reference that is not
    the start. TRL puts the completion of the row before behind each prompt, as we do."""

    def make(**more):
        import datasets
        import trl

        from workbench.trainer import KTOTrainer

        (theirs, own), (their_reference, own_reference) = models(1), models(0)
        labelled = [(row[0], row[1 + side], side == 0) for side in (0, 1) for row in ROWS]
        weights = {"beta": 0.3, "desirable_weight": 1.3, "undesirable_weight": 0.8}
        peer = trl.KTOTrainer(
            theirs,
            ref_model=their_reference,
            args=trl.KTOConfig(
                **THEIRS | {"output_dir": str(tmp_path), "per_device_train_batch_size": len(labelled)} | weights
            ),
            train_dataset=datasets.Dataset.from_list(
                [{"prompt": p, "completion": c, "label": label} for p, c, label in labelled]
            ),
            processing_class=tokenizer,
        )
        given = peer.data_collator([peer.train_dataset[index] for index in range(len(labelled))])
        batch = {
            "input_ids": given["input_ids"].clone(),
            "labels": given["input_ids"].masked_fill(given["completion_mask"] == 0, -100),
            "attention_mask": given["attention_mask"].clone(),
            "desirable": given["label"].clone(),
        }
        return peer, given, KTOTrainer(own, None, [batch], settings=OURS | weights | more, ref_model=own_reference)

    return make


def test_loss_gradient_and_metrics_of_a_step_of_kto(both_kto):
    peer, given, ours = both_kto(max_grad_norm=None, steps=1)
    peer.model.train()
    loss = peer.compute_loss(peer.model, given)
    loss.backward()
    row, gradients = first_step(ours)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5
    metrics = peer._metrics["train"]
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert row[name] == pytest.approx(metrics[name][-1], rel=1e-5, abs=1e-5), name
    assert row["kl_mismatched"] > 0.01, "the divergence takes part"
    assert row["kl_mismatched"] == pytest.approx(metrics["kl"][-1], rel=1e-5, abs=1e-5)


def test_twenty_whole_steps_of_kto(both_kto):
    peer, _, ours = both_kto()
    losses, divergences = [], []
    check = ours._check_gradient

    def keep(row):
        losses.append(row["loss"])
        divergences.append(row["kl_mismatched"])
        return check(row)

    ours._check_gradient = keep
    ours.train()
    peer.train()
    assert losses == pytest.approx([e["loss"] for e in peer.state.log_history if "loss" in e], rel=1e-4, abs=1e-4)
    assert divergences == pytest.approx([e["kl"] for e in peer.state.log_history if "kl" in e], rel=1e-4, abs=1e-4)
    assert divergences[0] > 0.01, "the divergence takes part"
    assert weight_distance(ours.policy, peer.model) <= 1e-5
