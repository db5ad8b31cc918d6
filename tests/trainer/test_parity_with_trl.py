"""Law 5: the same batch, weights and settings through TRL 1.16's own loss code agree within 1e-5."""

from __future__ import annotations

import pytest

pytestmark = [
    pytest.mark.slow,
    # TRL's, transformers' and accelerate's own deprecations, not ours.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]
ROWS = [
    ("12ab", "21ba", "9"),
    ("sort: 3", "3", "333 three"),
    ("a longer prompt than the others", "short", "and a rather long answer"),
    ("x", "yz", "zyxw"),
]
COMMON = {"use_cpu": True, "bf16": False, "report_to": [], "gradient_checkpointing": False, "max_length": None}


@pytest.fixture
def models(torch, tiny_folder):
    """models(seed) -> transformers' model of the tiny preset and ours, moved alike so that probabilities are uneven."""

    def make(seed):
        import transformers

        from workbench.models.load import load_model

        theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        own = load_model(tiny_folder)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in own.named_parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
                theirs.get_parameter(name).copy_(parameter)
        return theirs, own

    return make


@pytest.fixture
def tokenizer(tiny_folder):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny_folder)


def first_step(torch, trainer):
    """Our loss and gradients by name, of the first step."""
    gradients = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({n: p.grad.clone() for n, p in trainer.unwrapped_model.named_parameters()})
    )
    return trainer.train(), gradients


def assert_equal_gradients(torch, theirs, gradients):
    expected = torch.cat([theirs.get_parameter(name).grad.flatten() for name in gradients])
    found = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert ((found - expected).norm() / expected.norm()).item() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "theirs_settings"),
    [
        ({"loss": "sigmoid"}, {"loss_type": "sigmoid"}),
        ({"loss": "sigmoid", "beta": 1.0}, {"loss_type": "sigmoid", "beta": 1.0}),
        ({"loss": "robust", "label_smoothing": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
        ({"loss": "ipo"}, {"loss_type": "ipo"}),
        ({"loss": "hinge"}, {"loss_type": "hinge"}),
        ({"loss": "sigmoid", "nll_weight": 0.7}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()) if "loss" in value else "",
)
def test_dpo(torch, models, tokenizer, tmp_path, collate, settings, theirs_settings):
    import datasets
    import trl

    from workbench.trainer import DPOTrainer

    (theirs, own), (their_reference, own_reference) = models(0), models(1)
    arguments = {"output_dir": str(tmp_path), "beta": 0.1, **COMMON, **theirs_settings}
    peer = trl.DPOTrainer(
        theirs,
        ref_model=their_reference,
        args=trl.DPOConfig(**arguments),
        train_dataset=datasets.Dataset.from_list([{"prompt": p, "chosen": c, "rejected": r} for p, c, r in ROWS]),
        processing_class=tokenizer,
    )
    peer.model.train()
    rows = [peer.train_dataset[index] for index in range(len(ROWS))]
    loss = peer._compute_loss(peer.model, peer.data_collator(rows), return_outputs=False)
    loss.backward()

    batch = collate("dpo", [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows])
    chosen = {
        "steps": 1,
        "precision": "float32",
        "device": "cpu",
        "max_grad_norm": None,
        "starts_from_reference": False,
    }
    ours = DPOTrainer(
        own, None, [batch], settings=DPOTrainer.settings_class(**chosen | settings), ref_model=own_reference
    )
    row, gradients = first_step(torch, ours)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert_equal_gradients(torch, peer.model, gradients)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):
        assert row[name] == pytest.approx(peer._metrics["train"][name][-1], rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("completion_only", [True, False])
def test_sft(torch, models, tokenizer, tmp_path, completion_only):
    import datasets
    import trl

    from workbench.trainer import SFTTrainer

    theirs, own = models(0)
    peer = trl.SFTTrainer(
        theirs,
        args=trl.SFTConfig(output_dir=str(tmp_path), completion_only_loss=completion_only, **COMMON),
        train_dataset=datasets.Dataset.from_list([{"prompt": p, "completion": c} for p, c, _ in ROWS]),
        processing_class=tokenizer,
    )
    peer.model.train()
    batch = peer.data_collator([peer.train_dataset[index] for index in range(len(ROWS))])
    own_batch = {name: batch[name].clone() for name in ("input_ids", "labels", "attention_mask")}
    loss = peer.compute_loss(peer.model, batch)
    loss.backward()
    settings = SFTTrainer.settings_class(steps=1, precision="float32", device="cpu", max_grad_norm=None)
    row, gradients = first_step(torch, SFTTrainer(own, None, [own_batch], settings=settings))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert_equal_gradients(torch, peer.model, gradients)
