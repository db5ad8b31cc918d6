"""sample(): the tokens of generate(), each with the log-probability and entropy that a forward of the model gives."""

from __future__ import annotations

import itertools
import math

import pytest

from workbench.errors import NonFiniteError
from workbench.generation import generate as module
from workbench.generation.draw import MIN_TEMPERATURE
from workbench.generation.generate import Completion, Samples, generate, row_seed, sample
from workbench.generation.sampling import SamplingSettings

WHOLE, COOL = SamplingSettings(), SamplingSettings(temperature=0.7)
TRUNCATED = SamplingSettings(temperature=1.3, top_k=6, top_p=0.8)
SETTINGS = [WHOLE, COOL, TRUNCATED]
NAMES = ["whole", "cool", "truncated"]
EOS = (3, 11)


def _asked(prompts, **changes):
    return {
        "prompts": prompts, "seeds": [row_seed(0, str(prompt)) for prompt in prompts], "settings": WHOLE,
        "max_new_tokens": 12, "eos_ids": EOS,
    } | changes  # fmt: skip


def _rows(samples: Samples) -> list[Completion]:
    told = zip(samples.completion_ids.tolist(), samples.lengths.tolist(), samples.ended.tolist(), strict=True)
    return [Completion(ids[:length], ended) for ids, length, ended in told]


def _by_hand(torch, model, prompt, ids, settings):
    """Log-probabilities and entropies of one completion in float64, from the model's forward over the whole text."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double() / settings.temperature
    whole = logits.log_softmax(-1)
    logprobs, entropies = [], (-whole.exp() * whole).sum(-1).tolist()
    for row, token in zip(whole.exp().tolist(), ids, strict=True):
        kept = sorted(range(len(row)), key=lambda index: -row[index])[: settings.top_k or None]
        total, reached, inside = sum(row[index] for index in kept), 0.0, 0.0
        for index in kept:
            if reached / total < settings.top_p:
                inside += row[index]
            reached += row[index]
        logprobs.append(math.log(row[token] / inside))
    return logprobs, entropies


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
@pytest.mark.parametrize("name", ["own", "theirs", "gpt2"])
def test_logprobs_and_entropies_are_those_of_the_models_own_forward(torch, request, ragged_prompts, name, settings):
    model = request.getfixturevalue(name)
    samples = sample(model, **_asked(ragged_prompts, settings=settings))
    for index, (prompt, row) in enumerate(zip(ragged_prompts, _rows(samples), strict=True)):
        logprobs, entropies = _by_hand(torch, model, prompt, row.completion_ids, settings)
        assert samples.logprobs[index, : len(row.completion_ids)].tolist() == pytest.approx(logprobs, abs=1e-5)
        assert samples.entropies[index, : len(row.completion_ids)].tolist() == pytest.approx(entropies, abs=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_the_tokens_are_those_of_generate_in_the_prompts_order(own, ragged_prompts, settings, monkeypatch):
    asked = _asked(ragged_prompts, settings=settings, num_samples=3)
    expected = [completion for group in generate(own, **asked) for completion in group]
    samples = sample(own, **asked)
    assert _rows(samples) == expected
    monkeypatch.setattr(module, "MAX_ROWS", 21)
    cut = sample(own, **asked)
    assert _rows(cut) == expected
    assert (cut.logprobs - samples.logprobs).abs().max() < 1e-5
    assert (cut.entropies - samples.entropies).abs().max() < 1e-5


def test_after_its_end_a_row_is_zero_and_the_longest_row_gives_the_width(torch, own, ragged_prompts):
    samples = sample(own, **_asked(ragged_prompts, eos_ids=(3, 5, 7, 11)))
    width = samples.completion_ids.shape[1]
    assert width == max(samples.lengths.tolist())
    outside = torch.arange(width) >= samples.lengths[:, None]
    assert outside.any()
    for values in (samples.completion_ids, samples.logprobs, samples.entropies):
        assert not values[outside].any()
    assert (samples.logprobs[~outside] < 0).all()
    assert (samples.entropies[~outside] > 0).all()


def test_types_and_shapes(torch, own):
    samples = sample(own, **_asked([[1], [2, 3]], num_samples=4, eos_ids=(), max_new_tokens=5))
    assert samples.completion_ids.shape == samples.logprobs.shape == samples.entropies.shape == (8, 5)
    assert samples.lengths.tolist() == [5] * 8
    assert samples.completion_ids.dtype == samples.lengths.dtype == torch.int64
    assert samples.logprobs.dtype == samples.entropies.dtype == torch.float32
    assert samples.ended.dtype == torch.bool
    assert not samples.logprobs.requires_grad


HALVES = [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75], [1.0, 0.0, 0.0, 0.0], [0.25] * 4]


def test_hand_worked_numbers(bigram_model):
    """From 0 one bit; from 1 a quarter and three quarters: 0.5623 nats; from 2 certainty."""
    samples = sample(bigram_model(HALVES), **_asked([[0], [1], [2]], eos_ids=(3,), max_new_tokens=2, num_samples=20))
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    entropies = [math.log(2), quarter, 0.0]
    for row in range(60):
        ids = [(0, 1, 2)[row // 20], *samples.completion_ids[row, : samples.lengths[row]].tolist()]
        for place, (before, token) in enumerate(itertools.pairwise(ids)):
            assert samples.logprobs[row, place].item() == pytest.approx(math.log(HALVES[before][token]), abs=1e-4)
            assert samples.entropies[row, place].item() == pytest.approx(entropies[before], abs=1e-4)


def test_a_temperature_of_nearly_nothing_leaves_neither_entropy_nor_surprise(own, ragged_prompts):
    samples = sample(own, **_asked(ragged_prompts, settings=SamplingSettings(temperature=MIN_TEMPERATURE)))
    assert not samples.logprobs.any()
    assert not samples.entropies.any()


def test_weights_that_are_not_finite_are_told(torch, small_llama):
    model = small_llama()
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    model.train()
    with pytest.raises(NonFiniteError, match="the model's logits are not finite"):
        sample(model, **_asked([[1]]))
    assert model.training


@pytest.mark.parametrize("name", ["own", "theirs", "gpt2"])
def test_under_bf16_the_numbers_are_float32_and_near_those_of_the_float32_model(torch, request, ragged_prompts, name):
    model = request.getfixturevalue(name)
    with torch.autocast("cpu", torch.bfloat16):
        samples = sample(model, **_asked(ragged_prompts))
    assert samples.logprobs.dtype == samples.entropies.dtype == torch.float32
    for index, (prompt, row) in enumerate(zip(ragged_prompts, _rows(samples), strict=True)):
        logprobs, entropies = _by_hand(torch, model, prompt, row.completion_ids, WHOLE)
        assert samples.logprobs[index, : len(row.completion_ids)].tolist() == pytest.approx(logprobs, abs=0.25)
        assert samples.entropies[index, : len(row.completion_ids)].tolist() == pytest.approx(entropies, abs=0.25)


@pytest.mark.parametrize("name", ["own", "theirs", "gpt2"])
def test_a_model_with_an_adapter_tells_the_numbers_of_its_own_forward(torch, request, ragged_prompts, name):
    import copy

    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = copy.deepcopy(request.getfixturevalue(name))
    before = sample(model, **_asked(ragged_prompts))
    add_lora(model, LoraSettings(rank=2, alpha=4, dropout=0.5), seed=0)
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    model.train()  # dropout would show
    samples = sample(model, **_asked(ragged_prompts))
    model.eval()
    assert _rows(samples) != _rows(before)
    for index, (prompt, row) in enumerate(zip(ragged_prompts, _rows(samples), strict=True)):
        logprobs, entropies = _by_hand(torch, model, prompt, row.completion_ids, WHOLE)
        assert samples.logprobs[index, : len(row.completion_ids)].tolist() == pytest.approx(logprobs, abs=1e-5)
        assert samples.entropies[index, : len(row.completion_ids)].tolist() == pytest.approx(entropies, abs=1e-5)
