"""What decays, what is trained."""

from __future__ import annotations

import pytest

from workbench.errors import DefinitionError
from workbench.trainer import configure_optimizer
from workbench.trainer.settings import TrainerSettings


def test_matrices_decay_and_vectors_do_not(small_llama):
    model = small_llama()
    decayed, plain = configure_optimizer(model, TrainerSettings(weight_decay=0.1, learning_rate=0.5)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"], decayed["lr"]) == (0.1, 0.0, 0.5)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out_and_a_frozen_model_is_refused(small_llama):
    model = small_llama().requires_grad_(False)
    with pytest.raises(DefinitionError, match="no trainable parameter: unfreeze some, or add an adapter"):
        configure_optimizer(model, TrainerSettings())
    model.model.norm.weight.requires_grad_(True)
    assert [len(group["params"]) for group in configure_optimizer(model, TrainerSettings()).param_groups] == [1]


def test_a_tied_weight_is_trained_once(small_llama):
    model = small_llama()
    parameters = [p for group in configure_optimizer(model, TrainerSettings()).param_groups for p in group["params"]]
    assert sum(p is model.lm_head.weight for p in parameters) == 1


def test_the_gradient_is_clipped_to_the_global_norm(torch, sft):
    trainer = sft(steps=1, max_grad_norm=0.01, learning_rate=0.0)
    norms = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([p.grad.flatten() for p in trainer.parameters]).norm().item())
    )
    assert trainer.train()["grad_norm"] > 0.1
    assert norms == pytest.approx([0.01], rel=1e-3)
