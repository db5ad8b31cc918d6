"""How many tokens a text may have, by its model's family."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import DataError
from workbench.generation.generate import generate
from workbench.models.positions import Positions, find_positions

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "llama", "max_position_embeddings": 32}, 32),
        ({"model_type": "llama"}, 2048),
        ({"model_type": "mistral"}, 131_072),
        ({"model_type": "gpt2", "n_positions": 16}, 16),
        ({"model_type": "gpt2"}, 1024),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 9}}, 9),
        ({"model_type": "phi3", "max_position_embeddings": 64, "original_max_position_embeddings": 8,
          "rope_scaling": LONGROPE}, 8),
        ({"model_type": "phi3", "max_position_embeddings": 9000, "rope_scaling": {"type": "su"}}, 4096),
        ({"model_type": "llama", "max_position_embeddings": 64, "rope_parameters":
          LONGROPE | {"original_max_position_embeddings": 16}}, 16),
        ({"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "dynamic"}}, 64),
        ({"model_type": "mpt"}, 2048),
        ({"model_type": "mamba"}, None),
        ({"model_type": "bloom"}, None),
        ({"model_type": "falcon", "alibi": True, "max_position_embeddings": 8}, None),
        ({"model_type": "falcon", "alibi": False, "max_position_embeddings": 8}, 8),
        ({"model_type": "nothing known"}, None),
        ({"model_type": ["llama"]}, None),
    ],
)  # fmt: skip
def test_positions_are_those_of_the_family(config, most):
    found = find_positions(config)
    assert (found and found.most) == most


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0, 1.0], "long_factor": [2.0, 3.0],
                          "original_max_position_embeddings": 8}},
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_row_does_not_depend_on_the_longest_of_its_batch_where_all_are_within_the_positions(changes):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=17, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, head_dim=4,
        max_position_embeddings=16, **changes,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    found = find_positions(config.to_dict())
    assert found is not None
    ids = torch.arange(2 * found.most)[None] * 7 % 17
    alone = model(ids[:, :4]).logits
    torch.testing.assert_close(model(ids[:, : found.most]).logits[:, :4], alone, rtol=0, atol=1e-5)
    assert (model(ids).logits[:, :4] - alone).abs().max() > 1e-4


def test_a_text_that_just_fits_is_taken_and_one_token_more_is_not(small_llama):
    model = small_llama(max_position_embeddings=12)
    options = {"settings": None, "max_new_tokens": 4, "eos_ids": []}
    assert len(generate(model, [[1] * 8], [0], **options)) == 1
    with pytest.raises(DataError, match=r"a prompt of 9 tokens and 4 new ones: 13 tokens, .* positions for 12 "):
        generate(model, [[1] * 9], [0], **options)
    Positions(12).check("here", 12, "")
    with pytest.raises(DataError, match=r"here: 13 tokens, and the model has positions for 12 \(max_position_emb"):
        Positions(12).check("here", 13, "cut it")
