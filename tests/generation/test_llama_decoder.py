"""Our Llama's own steps: equal to its forward, whether rows share a prompt or not, static or dynamic, packed or not."""

from __future__ import annotations

import pytest

from workbench.generation import decoding
from workbench.generation.cuda_graph import GraphDecoder
from workbench.generation.decoding import decoders
from workbench.generation.generate import row_seed, sample
from workbench.generation.sampling import SamplingSettings
from workbench.models.cached_decoder import ModelDecoder
from workbench.models.joined_linear import JoinedLinear, can_pack
from workbench.models.llama_decoder import LlamaDecoder, LlamaWeights, can_decode

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [2, 2]]
STEPS, GROUP = 6, 3
ROWS = len(PROMPTS) * GROUP
SHAPES = {
    "llama": {},
    "untied": {"tie_word_embeddings": False},
    "one key-value head": {"num_key_value_heads": 1},
    "no grouped queries": {"num_key_value_heads": 4},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 4},
    "all biases": {"attention_bias": True, "mlp_bias": True},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }
    },
}  # fmt: skip


def _tokens(torch, rows, seed=0):
    return torch.randint(1, 17, (STEPS, rows), generator=torch.Generator().manual_seed(seed))


def _logits(torch, decoder, prompts=PROMPTS, group=GROUP):
    """(1 + STEPS, R, V) along tokens that do not depend on them."""
    with torch.no_grad():
        found = [decoder.prefill(prompts, group)]
        return torch.stack(found + [decoder.step(tokens).clone() for tokens in _tokens(torch, len(found[0]))])


def _by_forward(torch, model, prompts=PROMPTS, group=GROUP):
    """The same, from the model's forward over each whole text alone."""
    tokens, rows = _tokens(torch, len(prompts) * group), []
    for row in range(len(prompts) * group):
        text = torch.tensor([[*prompts[row // group], *tokens[:, row].tolist()]])
        with torch.no_grad():
            rows.append(model(text).logits[0, -1 - STEPS :])
    return torch.stack(rows, 1)


def _decoder(model, *, static=False, rows=ROWS, new=STEPS):
    return LlamaDecoder(LlamaWeights(model, rows), new, static=static)


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("name", SHAPES)
def test_steps_are_the_forward_of_the_whole_text(torch, small_llama, name, static):
    model = small_llama(**SHAPES[name])
    assert can_decode(model)
    found = _logits(torch, _decoder(model, static=static))
    assert (found - _by_forward(torch, model)).abs().max() < 1e-5


def test_every_decoder_gives_the_same(torch, own):
    for decoder in (ModelDecoder(own, STEPS), _decoder(own, rows=1), _decoder(own), decoders(own, 12)(STEPS)):
        assert (_logits(torch, decoder) - _by_forward(torch, own)).abs().max() < 1e-5


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_a_prompt_held_once_is_a_prompt_of_each_row(torch, own, static):
    shared = _logits(torch, _decoder(own, static=static))
    apart = [prompt for prompt in PROMPTS for _ in range(GROUP)]
    assert (shared - _logits(torch, _decoder(own, static=static), apart, 1)).abs().max() < 1e-5


@pytest.mark.parametrize("kept", [[0, 1, 2], [2, 3, 11], [0, 3, 6, 9], [5], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]])
def test_rows_that_are_kept_go_on_as_before_however_ragged_their_groups(torch, own, kept):
    expected = _by_forward(torch, own)
    decoder, tokens, rows = _decoder(own), _tokens(torch, 12), torch.arange(12)
    with torch.no_grad():
        decoder.prefill(PROMPTS, GROUP)
        for position in range(STEPS):
            if position == 2:
                decoder.select_rows(torch.tensor(kept))
                rows = rows[kept]
            if position == 4 and len(rows) > 1:
                decoder.select_rows(torch.tensor([1]))
                rows = rows[[1]]
            logits = decoder.step(tokens[position][rows])
            assert (logits - expected[position + 1][rows]).abs().max() < 1e-5


def test_a_static_step_keeps_its_storage_and_its_greedy_tokens(torch, own):
    """What a recording needs: inputs, outputs of every step and the caches stay where they are."""
    static, dynamic = _decoder(own, static=True), _decoder(own)
    places = set()
    with torch.no_grad():
        tokens = static.prefill(PROMPTS, GROUP).argmax(-1)
        assert tokens.tolist() == dynamic.prefill(PROMPTS, GROUP).argmax(-1).tolist()
        for _ in range(STEPS):
            following = static.step(tokens).argmax(-1)
            assert following.tolist() == dynamic.step(tokens).argmax(-1).tolist()
            tokens = following
            places.add((static._own.data_ptr(), static._position.data_ptr(), static._lengths.data_ptr()))
    assert len(places) == 1
    assert static._own.shape[-2] == STEPS


def test_a_step_that_was_rewound_leaves_no_trace(torch, own):
    """A recording's warm-up: steps whose tokens are other ones than the first real step's."""
    expected, decoder = _by_forward(torch, own), _decoder(own, static=True)
    with torch.no_grad():
        decoder.prefill(PROMPTS, GROUP)
        for _ in range(2):
            decoder.step(torch.full((12,), 16))
            decoder.rewind()
        for position, tokens in enumerate(_tokens(torch, 12)):
            assert (decoder.step(tokens) - expected[position + 1]).abs().max() < 1e-5


def test_samples_of_the_static_decoder_are_those_of_the_dynamic_one(torch, own, ragged_prompts, monkeypatch):
    """Rows that are never dropped, as on a GPU."""
    asked = {
        "prompts": ragged_prompts, "seeds": [row_seed(0, str(prompt)) for prompt in ragged_prompts],
        "settings": SamplingSettings(), "max_new_tokens": 12, "eos_ids": (3, 11), "num_samples": 2,
    }  # fmt: skip
    expected = sample(own, **asked)

    class Undropped(LlamaDecoder):
        drops_rows = False

        def __init__(self, weights, max_new_tokens):
            super().__init__(weights, max_new_tokens, static=True)

    monkeypatch.setattr(decoding, "LlamaDecoder", Undropped)
    found = sample(own, **asked)
    assert found.completion_ids.equal(expected.completion_ids)
    assert found.lengths.equal(expected.lengths)
    assert (found.logprobs - expected.logprobs).abs().max() < 1e-5


@pytest.mark.gpu
def test_a_recorded_step_gives_what_the_step_gives(torch, small_llama):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model = small_llama().cuda()
    decoder = GraphDecoder(_decoder(model, static=True))
    with torch.no_grad():
        found = [decoder.prefill(PROMPTS, GROUP)]
        for tokens in _tokens(torch, 12):
            found.append(decoder.step(tokens.cuda()).clone())
    assert (torch.stack(found).cpu() - _by_forward(torch, model.cpu())).abs().max() < 1e-4


def test_under_bf16_steps_are_near_the_float32_forward_in_either_layout(torch, own):
    expected = _by_forward(torch, own)
    for rows in (1, 12):
        with torch.autocast("cpu", torch.bfloat16):
            decoder = _decoder(own, rows=rows)
            found = _logits(torch, decoder)
            forward = _by_forward(torch, own)
        assert found.dtype == torch.bfloat16
        # No further from the truth than the model's own forward in bf16.
        assert (found - expected).norm() < 1.2 * (forward - expected).norm()


def test_weights_in_bf16_are_sampled_from_as_they_are(torch, small_llama):
    model = small_llama(dtype="bfloat16")
    assert (_logits(torch, _decoder(model)) - _by_forward(torch, model)).abs().max() < 0.25


@pytest.mark.parametrize("packed", [False, True])
def test_joined_layers_multiply_as_each_one_alone(torch, packed):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, 16, generator=generator)
    for bias in (False, True):
        layers = [torch.nn.Linear(16, size, bias=bias) for size in (24, 8, 3)]
        found = JoinedLinear(layers, torch.float32, packed=packed)(x)
        for part, layer in zip(found, layers, strict=True):
            assert (part - layer(x)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_small_adapter_is_not_rounded_away(torch, small_llama, dtype, packed):
    """2^-12 of the output: added to the weights in bf16 it would be lost."""
    from workbench.models.adapters import adapters_off, add_lora
    from workbench.models.settings import LoraSettings

    if packed and not can_pack(torch.device("cpu"), getattr(torch, dtype), 64):
        pytest.skip(f"this CPU has no blocks of {dtype}")
    model = small_llama()
    add_lora(model, LoraSettings(rank=2, alpha=4, dropout=0.5), seed=0)
    model.eval()
    layer, x = model.model.layers[0].mlp.up_proj, torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = layer(x)
        layer.lora_B["default"].weight.fill_(2.0**-12)
        change = layer(x) - plain
    assert change.abs().max() > 0

    def output():
        with torch.no_grad():
            return JoinedLinear([layer], getattr(torch, dtype), packed=packed)(x.to(getattr(torch, dtype)))[0].double()

    adapted = output()
    with adapters_off(model):
        off = output()
    # Where the output is small enough to show it.
    shown = plain.abs() < 2.0**-4
    assert shown.sum() > 20
    assert ((adapted - off)[shown] - change[shown]).norm() < 0.5 * change[shown].norm()


def test_four_bits_and_other_models_stay_with_the_models_own_forward(torch, own, theirs, small_llama):
    assert can_decode(own)
    assert not can_decode(theirs)
    model = small_llama()

    class Other(torch.nn.Linear):
        pass

    model.model.layers[1].mlp.up_proj = Other(16, 24)
    assert not can_decode(model)
    assert isinstance(decoders(model, 4)(3), ModelDecoder)


def test_few_rows_are_not_packed(torch, own):
    assert not can_pack(torch.device("cpu"), torch.float32, 1)
    assert can_pack(torch.device("cpu"), torch.float32, 64) == torch.backends.mkldnn.is_available()
    assert not can_pack(torch.device("cpu"), torch.float64, 64)
    assert LlamaWeights(own, 1).head._weights[0] is not None
