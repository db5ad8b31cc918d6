"""Muon on hidden matrices, AdamW on the rest: which is which, one step by hand, one face."""

from __future__ import annotations

import pytest

from workbench.errors import DefinitionError
from workbench.models.adapters import add_lora
from workbench.models.settings import LoraSettings
from workbench.trainer import configure_optimizer
from workbench.trainer.settings import TrainerSettings

MUON = TrainerSettings(optimizer="muon", learning_rate=0.01, weight_decay=0.1)


def names(model, group):
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    return {own[id(parameter)] for parameter in group["params"]}


@pytest.mark.parametrize("tied", [True, False])
def test_layers_matrices_go_to_muon_and_embedding_head_and_norms_to_adamw(small_llama, tied):
    model = small_llama(tie_word_embeddings=tied)
    hidden, matrices, vectors = configure_optimizer(model, MUON).param_groups
    layers = {name for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    assert names(model, hidden) == layers
    assert names(model, matrices) == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert all("norm" in name for name in names(model, vectors))
    assert sum(len(group["params"]) for group in (hidden, matrices, vectors)) == len(list(model.parameters()))
    assert [group["weight_decay"] for group in (hidden, matrices, vectors)] == [0.1, 0.1, 0.0]
    assert "momentum" in hidden
    assert "betas" in matrices


def test_positions_of_another_architecture_are_an_embedding_too(torch):
    import transformers

    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=17, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    _, matrices, _ = configure_optimizer(model, MUON).param_groups
    assert names(model, matrices) == {"transformer.wte.weight", "transformer.wpe.weight"}


def test_an_adapters_matrices_are_hidden(small_llama):
    model = small_llama()
    add_lora(model, LoraSettings(rank=2), seed=0)
    [hidden] = configure_optimizer(model, MUON).param_groups
    assert all("lora_" in name for name in names(model, hidden))


@pytest.mark.parametrize(("rows", "columns"), [(32, 48), (48, 32), (32, 32)])
def test_an_update_is_nearly_orthogonal(torch, rows, columns):
    """One step on a random gradient: five Newton-Schulz iterations bring every singular value near one."""
    layer = torch.nn.Linear(columns, rows, bias=False)
    optimizer = configure_optimizer(torch.nn.Sequential(layer), MUON.model_copy(update={"weight_decay": 0.0}))
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    assert torch.linalg.cond(layer.weight.grad) > 4
    optimizer.step()
    singular = torch.linalg.svdvals((before - layer.weight.detach()) / (0.01 * 0.2 * max(rows, columns) ** 0.5))
    assert singular.min() > 0.6
    assert singular.max() < 1.2


def test_two_steps_by_the_paper(torch):
    """Momentum, Nesterov, decoupled decay and the 0.2 sqrt(max(rows, columns)) of arXiv 2502.16982, written out."""
    generator = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(6, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 6, generator=generator))  # large enough for the decay to be seen
    weight = layer.weight.detach().clone()
    optimizer = configure_optimizer(torch.nn.Sequential(layer), MUON)
    momentum = torch.zeros(4, 6)
    for _ in range(2):
        gradient = torch.randn(4, 6, generator=generator)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        # torch averages where Jordan sums; the scale of the direction is lost in the orthogonalisation.
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = 0.05 * gradient + 0.95 * momentum
        x = direction.bfloat16() / direction.bfloat16().norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 6**0.5 * x.float()
    # In half precision the orthogonalisation rounds by up to 0.05 of an entry, 2.5e-4 of a step; a step is 2.5e-3.
    torch.testing.assert_close(layer.weight.detach(), weight, atol=6e-4, rtol=0.0)


def test_it_steps_as_its_two_parts_apart(torch, small_llama, sft):
    """One face, the numbers of torch's own two optimisers."""
    trainer = sft(steps=3, optimizer="muon", learning_rate=0.01, weight_decay=0.1, schedule="linear")
    twin = sft(steps=3)
    hidden = [p for n, p in twin.model.named_parameters() if ".layers." in n and p.ndim == 2]
    vectors = [p for p in twin.model.parameters() if p.ndim == 1]
    parts = [
        torch.optim.Muon(hidden, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([twin.model.model.embed_tokens.weight], lr=0.01, weight_decay=0.1, fused=True),
        torch.optim.AdamW(vectors, lr=0.01, weight_decay=0.0, fused=True),
    ]
    gradients = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append({n: p.grad.clone() for n, p in trainer.model.named_parameters()})
    )
    trainer.train()
    for step, found in enumerate(gradients):
        for name, parameter in twin.model.named_parameters():
            parameter.grad = found[name]
        for part in parts:
            for group in part.param_groups:
                group["lr"] = 0.01 * (1 - step / 3)
            part.step()
    for a, b in zip(trainer.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_model_without_hidden_matrices_is_refused(small_llama):
    model = small_llama().requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(DefinitionError, match="none is trainable here; use adamw"):
        configure_optimizer(model, MUON)


def test_a_step_that_overflows_in_fp16_leaves_both_parts_alone(torch, sft):
    trainer = sft(steps=2, optimizer="muon", precision="fp16")
    trainer.parameters[0].register_hook(lambda gradient: gradient * (torch.inf if trainer.step == 1 else 1.0))
    after = []
    trainer.optimizer.register_step_post_hook(
        lambda *_: after.append([parameter.detach().clone() for parameter in trainer.parameters])
    )
    assert trainer.train()["skipped"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(after[0], trainer.parameters, strict=True))
