"""What the tests of parity with TRL have in common; their fixtures are in tests/trainer/conftest.py."""

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
"""A prompt, the chosen completion and the rejected one."""
THEIRS = {"use_cpu": True, "bf16": False, "report_to": [], "gradient_checkpointing": False}
OURS = {"precision": "float32", "device": "cpu"}


def first_step(trainer, parameters=None):
    """Our metrics row and gradients by name, of the first step. parameters: by the peer's names, where they are not
    the policy's."""
    parameters, gradients = parameters or dict(trainer.policy.named_parameters()), {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: parameter.grad.clone() for name, parameter in parameters.items()})
    )
    return trainer.train(), gradients


def gradient_distance(found, model, scale=1.0):
    """The distance of our gradients, by name, from those of the peer's model. scale: what ours are multiplied by."""
    found = {name: gradient * scale for name, gradient in found.items()}
    return _distance(found, {name: model.get_parameter(name).grad for name in found})


def weight_distance(policy, model):
    """The distance of our policy's weights from those of the peer's model."""
    found = dict(policy.named_parameters())
    return _distance(found, {name: model.get_parameter(name) for name in found})


def _distance(found, expected):
    """The norm of the difference over the norm, of tensors by name."""
    import torch

    found, expected = (torch.cat([part[name].flatten() for name in expected]) for part in (found, expected))
    assert expected.norm() > 1e-3, "there is something to compare"
    return ((found - expected).norm() / expected.norm()).item()
