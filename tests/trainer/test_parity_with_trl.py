"""Law 5: the same batch, weights and settings through TRL 1.16's own loss code agree within 1e-5."""

from __future__ import annotations

import copy

import pytest

from tests.parity import OURS, ROWS, THEIRS, first_step, gradient_distance, pytestmark  # noqa: F401

PREFERENCE = OURS | {"starts_from_reference": False}
# Not comparable, and worked by hand in tests/objectives/test_preference.py: cdpo (TRL's sigmoid ignores
# label_smoothing), ipo_sum, and bco_pair, whose shift TRL leaves out (its bco_pair is our bco_pair_unshifted).
LOSSES = [
    ({"loss": "sigmoid"}, {"loss_type": "sigmoid"}),
    ({"loss": "sigmoid", "beta": 1.0}, {"loss_type": "sigmoid", "beta": 1.0}),
    ({"loss": "robust", "label_smoothing": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
    ({"loss": "exo_pair", "label_smoothing": 0.1}, {"loss_type": "exo_pair", "label_smoothing": 0.1}),
    *[({"loss": name}, {"loss_type": name}) for name in ("ipo", "hinge", "sigmoid_norm", "nca_pair", "sppo_hard")],
    *[({"loss": name}, {"loss_type": name}) for name in ("apo_zero", "apo_down", "discopop", "aot", "aot_unpaired")],
    ({"loss": "aot", "label_smoothing": 0.2}, {"loss_type": "aot", "label_smoothing": 0.2}),
    ({"loss": "aot_unpaired", "micro_batch_rows": 2}, {"loss_type": "aot_unpaired"}),
    ({"loss": "bco_pair_unshifted"}, {"loss_type": "bco_pair"}),
    ({"loss": "sigmoid", "nll_weight": 0.7}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
    (
        {"loss": {"sigmoid": 0.8, "bco_pair_unshifted": 0.2}, "nll_weight": 1.0},
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    ),
    ({"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    ({"divergence": "jensen_shannon", "loss": "ipo"}, {"f_divergence_type": "js_divergence", "loss_type": "ipo"}),
    # Their coefficient is 1 - alpha.
    (
        {"divergence": "alpha", "divergence_alpha": 0.3},
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
    ({"length_discount": 0.4}, {"ld_alpha": 0.6}),
    ({"length_discount": 1.0, "loss": "hinge"}, {"ld_alpha": 0.0, "loss_type": "hinge"}),
    ({"pair_weighting": "wpo"}, {"use_weighting": True}),
    (
        {"pair_weighting": "wpo", "loss": {"sigmoid": 1.0, "apo_zero": 0.5}},
        {"use_weighting": True, "loss_type": ["sigmoid", "apo_zero"], "loss_weights": [1.0, 0.5]},
    ),
]


def shown(value):
    return "-".join(str(part) for part in value.values())


@pytest.fixture
def peer(tokenizer, tmp_path):
    """peer(model, reference, **arguments) -> TRL's trainer on ROWS."""
    import datasets
    import trl

    def make(model, reference, **arguments):
        rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in ROWS]
        return trl.DPOTrainer(
            model,
            ref_model=reference,
            args=trl.DPOConfig(**{"output_dir": str(tmp_path), "beta": 0.1, "max_length": None, **THEIRS, **arguments}),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    return make


@pytest.fixture
def batch_of(collate):
    """batch_of(peer) -> their rows as a batch of ours."""

    def make(peer):
        rows = [peer.train_dataset[index] for index in range(len(ROWS))]
        return collate("dpo", [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows])

    return make


@pytest.mark.parametrize(("settings", "theirs_settings"), LOSSES, ids=lambda value: shown(value))
def test_dpo(models, peer, batch_of, settings, theirs_settings):
    from workbench.trainer import DPOTrainer

    (theirs, own), (their_reference, own_reference) = models(0), models(1)
    other = peer(theirs, their_reference, **theirs_settings)
    other.model.train()
    rows = [other.train_dataset[index] for index in range(len(ROWS))]
    loss = other._compute_loss(other.model, other.data_collator(rows), return_outputs=False)
    loss.backward()

    chosen = DPOTrainer.settings_class(**PREFERENCE | {"steps": 1, "max_grad_norm": None} | settings)
    ours = DPOTrainer(own, None, [batch_of(other)], settings=chosen, ref_model=own_reference)
    row, gradients = first_step(ours)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert gradient_distance(gradients, other.model) <= 1e-5
    # Under a discount TRL's are those of the loss; ours are of whole completions.
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):
        if "length_discount" not in settings:
            assert row[name] == pytest.approx(other._metrics["train"][name][-1], rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize(
    ("settings", "theirs_settings"),
    [
        ({}, {}),
        ({"loss": "aot_unpaired"}, {"loss_type": "aot_unpaired"}),
        (
            {"loss": {"nca_pair": 1.0, "apo_zero": 0.5}},
            {"loss_type": ["nca_pair", "apo_zero"], "loss_weights": [1, 0.5]},
        ),
        (
            {"sync_reference_every": 6, "sync_reference_weight": 0.6},
            {"sync_ref_model": True, "ref_model_sync_steps": 6, "ref_model_mixup_alpha": 0.6},
        ),
        (
            {"sync_reference_every": 5},
            {"sync_ref_model": True, "ref_model_sync_steps": 5, "ref_model_mixup_alpha": 1.0},
        ),
    ],
    ids=lambda value: shown(value),
)
def test_dpo_over_twenty_whole_steps(torch, models, peer, batch_of, settings, theirs_settings):
    from workbench.trainer import DPOTrainer

    theirs, own = models(0)
    other = peer(
        theirs,
        copy.deepcopy(theirs),
        max_steps=20,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=len(ROWS),
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        **theirs_settings,
    )
    batch = batch_of(other)
    other.train()
    chosen = DPOTrainer.settings_class(
        **PREFERENCE | {"steps": 20, "learning_rate": 1e-3, "adam_epsilon": 1e-8} | settings
    )
    ours = DPOTrainer(own, None, [batch], settings=chosen)
    losses = []
    for _ in range(20):
        ours.train_step()
        losses.append(ours.state.pending_row["loss"])
    seen = [entry["loss"] for entry in other.state.log_history if "loss" in entry]
    assert losses == pytest.approx(seen, abs=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter, other.model.get_parameter(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("completion_only", [True, False])
def test_sft(models, tokenizer, tmp_path, completion_only):
    import datasets
    import trl

    from workbench.trainer import SFTTrainer

    theirs, own = models(0)
    peer = trl.SFTTrainer(
        theirs,
        args=trl.SFTConfig(output_dir=str(tmp_path), completion_only_loss=completion_only, max_length=None, **THEIRS),
        train_dataset=datasets.Dataset.from_list([{"prompt": p, "completion": c} for p, c, _ in ROWS]),
        processing_class=tokenizer,
    )
    peer.model.train()
    batch = peer.data_collator([peer.train_dataset[index] for index in range(len(ROWS))])
    own_batch = {name: batch[name].clone() for name in ("input_ids", "labels", "attention_mask")}
    loss = peer.compute_loss(peer.model, batch)
    loss.backward()
    settings = SFTTrainer.settings_class(steps=1, max_grad_norm=None, **OURS)
    row, gradients = first_step(SFTTrainer(own, None, [own_batch], settings=settings))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5
