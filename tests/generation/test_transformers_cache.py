"""The cache with room: transformers' own numbers, written in place."""

from __future__ import annotations

import pytest

from workbench.models.cached_decoder import ModelDecoder


def _steps(torch, decoder, kept=None):
    """Logits after each of 6 steps, and where the first layer's keys lay."""
    generator, found, places = torch.Generator().manual_seed(0), [], []
    with torch.no_grad():
        rows = torch.arange(len(decoder.prefill([[1, 2, 3], [4]], 3)))
        for position in range(6):
            tokens = torch.randint(1, 17, (6,), generator=generator)
            if kept and position == 3:
                decoder.select_rows(torch.tensor(kept))
                rows = rows[kept]
            found.append(decoder.step(tokens[rows]))
            places.append(decoder._cache.layers[0].keys.data_ptr())
    return found, places


@pytest.mark.parametrize("kept", [None, [0, 4, 5]])
@pytest.mark.parametrize("name", ["theirs", "gpt2"])
def test_the_numbers_are_those_of_transformers_own_cache(torch, request, name, kept, monkeypatch):
    import transformers

    from workbench.models import cached_decoder

    model = request.getfixturevalue(name)
    found, places = _steps(torch, ModelDecoder(model, 6), kept)
    assert len(set(places)) == (2 if kept else 1), "written in place, but for the steps after rows were dropped"
    monkeypatch.setattr(
        cached_decoder, "_roomy_cache", lambda model, capacity: transformers.DynamicCache(config=model.config)
    )
    expected, places = _steps(torch, ModelDecoder(model, 6), kept)
    assert len(set(places)) > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-5


def test_more_positions_than_there_was_room_for_are_held_all_the_same(torch, gpt2):
    found, _ = _steps(torch, ModelDecoder(gpt2, 1))
    expected, _ = _steps(torch, ModelDecoder(gpt2, 6))
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_a_sliding_window_keeps_its_own_cache(torch):
    import transformers

    from workbench.models.transformers_cache import RoomyLayer, roomy_cache

    config = transformers.Gemma2Config(
        vocab_size=17, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=4,
    )  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config).eval()
    assert [type(layer) is RoomyLayer for layer in roomy_cache(model, 10).layers] == [False, True]
    found, _ = _steps(torch, ModelDecoder(model, 6))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.stack([torch.randint(1, 17, (6,), generator=generator) for _ in range(6)])
    for row, prompt in enumerate([[1, 2, 3]] * 3 + [[4]] * 3):
        with torch.no_grad():
            whole = model(torch.tensor([[*prompt, *tokens[:, row].tolist()]])).logits[0, -6:]
        assert (torch.stack([logits[row] for logits in found]) - whole).abs().max() < 1e-5
