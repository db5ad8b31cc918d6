"""Fixtures of the tests of parity with TRL."""

from __future__ import annotations

import pytest


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
    """The tiny preset's tokenizer, as transformers loads it."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(tiny_folder)
