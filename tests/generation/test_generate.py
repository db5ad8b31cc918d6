"""The same completions whatever the batch, the order, the padding, the cache and the implementation of the model."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from workbench.errors import DataError
from workbench.generation import generate as module
from workbench.generation import sampling_loop as rollout
from workbench.generation.draw import draw, mix
from workbench.generation.generate import Completion, completion_texts, generate, row_seed
from workbench.generation.sampling import SamplingSettings
from workbench.models.mode import evaluation_mode

WHOLE = SamplingSettings()
EOS = (3, 11)


def _seeds(prompts, seed=0):
    return [row_seed(seed, str(prompt)) for prompt in prompts]


def _generate(model, prompts, *, settings=WHOLE, max_new_tokens=12, eos_ids=EOS, **options):
    return generate(
        model, prompts, _seeds(prompts), settings=settings, max_new_tokens=max_new_tokens, eos_ids=eos_ids, **options
    )


def _slowly(torch, model, prompt, settings, max_new_tokens=12, eos_ids=EOS, sample=0):
    """One row alone, without cache and padding: the definition."""
    seeds = mix(torch.tensor(_seeds([prompt])), torch.tensor([sample]))
    ids: list[int] = []
    for position in range(max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[:, -1]
        ids.append(int(draw(logits, settings, seeds, position)))
        if ids[-1] in eos_ids:
            return Completion(ids, True)
    return Completion(ids, False)


SETTINGS = [None, WHOLE, SamplingSettings(temperature=0.7, top_k=5, top_p=0.9)]


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "whole", "truncated"])
@pytest.mark.parametrize("name", ["own", "theirs", "gpt2"])
def test_a_batch_gives_what_each_prompt_gives_alone_without_cache(torch, request, ragged_prompts, name, settings):
    model = request.getfixturevalue(name)
    expected = [[_slowly(torch, model, prompt, settings)] for prompt in ragged_prompts]
    assert _generate(model, ragged_prompts, settings=settings) == expected
    assert len({sample.ended for [sample] in expected}) == 2, "rows end at different times, or nothing is tested"


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "whole", "truncated"])
def test_our_llama_and_transformers_give_the_same_tokens(own, theirs, ragged_prompts, settings):
    options = {"settings": settings, "num_samples": 3, "max_new_tokens": 20}
    assert _generate(own, ragged_prompts, **options) == _generate(theirs, ragged_prompts, **options)


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_the_size_of_the_batch_does_not_matter(own, ragged_prompts, rows, monkeypatch):
    expected = _generate(own, ragged_prompts, num_samples=2)
    monkeypatch.setattr(module, "MAX_ROWS", rows)
    assert _generate(own, ragged_prompts, num_samples=2) == expected


def test_the_bounds_of_memory_do_not_matter(own, ragged_prompts, monkeypatch):
    expected = _generate(own, ragged_prompts)
    for name in ("CACHE_BYTES", "LOGITS_ELEMENTS"):
        monkeypatch.setattr(module, name, 1)
        assert _generate(own, ragged_prompts[:9]) == expected[:9]
        monkeypatch.undo()


def test_order_and_company_do_not_matter(own, ragged_prompts):
    expected = _generate(own, ragged_prompts)
    backwards = _generate(own, ragged_prompts[::-1])
    assert backwards[::-1] == expected
    assert _generate(own, ragged_prompts[5:20:3]) == expected[5:20:3]


@pytest.mark.parametrize("name", ["own", "theirs"])
def test_each_sample_is_the_same_however_many_are_asked_for(torch, request, ragged_prompts, name):
    model, prompts = request.getfixturevalue(name), ragged_prompts[:10]
    four = _generate(model, prompts, num_samples=4)
    assert [samples[:1] for samples in four] == _generate(model, prompts)
    assert [samples[3] for samples in four] == [_slowly(torch, model, prompt, WHOLE, sample=3) for prompt in prompts]
    assert len({tuple(sample.completion_ids) for sample in four[0]}) > 1


@pytest.mark.parametrize("name", ["own", "theirs"])
def test_dropping_finished_rows_does_not_matter(request, ragged_prompts, name, monkeypatch):
    model, found = request.getfixturevalue(name), []
    for share in (0.0, 0.75, 1.01):  # never; as it is; as soon as one has finished
        monkeypatch.setattr(rollout, "DROP_BELOW", share)
        found.append(_generate(model, ragged_prompts, num_samples=2))
    assert found[0] == found[1] == found[2]


def test_every_end_stops_and_is_the_last_token(own, ragged_prompts):
    for eos_ids in ((), (3,), EOS, tuple(range(17))):
        for [completion] in _generate(own, ragged_prompts, eos_ids=eos_ids, max_new_tokens=8):
            ends = [place for place, token in enumerate(completion.completion_ids) if token in eos_ids]
            assert completion.ended == bool(ends)
            assert ends in ([], [len(completion.completion_ids) - 1])
            assert completion.ended or len(completion.completion_ids) == 8
    both = {c.completion_ids[-1] for [c] in _generate(own, ragged_prompts) if c.ended}
    assert both == set(EOS)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5])
def test_a_shorter_limit_gives_the_beginning(own, ragged_prompts, max_new_tokens):
    for [long], [short] in zip(
        _generate(own, ragged_prompts), _generate(own, ragged_prompts, max_new_tokens=max_new_tokens), strict=True
    ):
        assert short.completion_ids == long.completion_ids[:max_new_tokens]
        assert short.ended == (long.ended and len(long.completion_ids) <= max_new_tokens)


CHAIN = [[0.25, 0.5, 0.125, 0.125], [0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]


# Of 1's two equal tokens both are kept beside the likeliest; nothing follows 3, which ends.
TOP_2 = [[1 / 3, 2 / 3, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0, 3 / 7, 4 / 7]]


@pytest.mark.parametrize(("settings", "table"), [(WHOLE, CHAIN), (SamplingSettings(top_k=2), TOP_2)])
def test_sequences_come_as_often_as_their_probabilities_say(bigram_model, settings, table):
    [samples] = _generate(
        bigram_model(CHAIN), [[0]], settings=settings, max_new_tokens=3, eos_ids=(3,), num_samples=6000
    )
    probabilities = {}
    for ids in itertools.product(range(4), repeat=3):
        ids = ids[: ids.index(3) + 1] if 3 in ids else ids
        probabilities[ids] = math.prod(table[a][b] for a, b in itertools.pairwise((0, *ids)))
    assert sum(probabilities.values()) == pytest.approx(1)
    counts = {ids: 0 for ids, value in probabilities.items() if value}
    for sample in samples:
        counts[tuple(sample.completion_ids)] += 1
    expected = np.array([probabilities[ids] for ids in counts]) * 6000
    assert scipy.stats.chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_greedy_follows_the_likeliest(bigram_model):
    [[completion]] = _generate(bigram_model(CHAIN), [[2, 0]], settings=None, max_new_tokens=4, eos_ids=(3,))
    assert completion == Completion([1, 0, 1, 0], False)
    [[completion]] = _generate(bigram_model(CHAIN), [[0, 2]], settings=None, max_new_tokens=4, eos_ids=(3,))
    assert completion == Completion([3], True)


@pytest.mark.parametrize("name", ["own", "theirs"])
def test_a_model_with_an_adapter_answers_as_its_merged_weights(torch, small_llama, theirs, ragged_prompts, name):
    import copy

    from workbench.models.adapters import adapters_off, add_lora, merged_tensors
    from workbench.models.settings import LoraSettings

    model = small_llama() if name == "own" else copy.deepcopy(theirs)
    plain = copy.deepcopy(model)
    add_lora(model, LoraSettings(rank=2, alpha=4, dropout=0.5), seed=0)
    before = _generate(plain, ragged_prompts)
    assert _generate(model, ragged_prompts) == before
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    model.train()  # dropout would show
    adapted = _generate(model, ragged_prompts)
    assert adapted != before
    plain.load_state_dict(merged_tensors(model), strict=False)
    assert adapted == _generate(plain, ragged_prompts)
    with adapters_off(model):
        assert _generate(model, ragged_prompts) == before


@pytest.mark.parametrize("name", ["own", "theirs"])
def test_bf16_autocast_gives_samples_of_the_bf16_model(torch, request, ragged_prompts, name):
    model = request.getfixturevalue(name)
    with torch.autocast("cpu", torch.bfloat16):
        found = _generate(model, ragged_prompts)
        assert found == _generate(model, ragged_prompts)
        alone = [_slowly(torch, model, prompt, WHOLE) for prompt in ragged_prompts[:20]]
    assert all(0 <= token < 17 for [sample] in found for token in sample.completion_ids)
    first = [
        sample.completion_ids[0] == other.completion_ids[0] for [sample], other in zip(found[:20], alone, strict=True)
    ]
    assert sum(first) >= 18, "logits of 8 bits may move a draw, but seldom"


def test_generation_leaves_no_gradient_and_every_module_as_it_was(torch, small_llama):
    model = small_llama().train()
    model.model.norm.eval()
    _generate(model, [[1, 2]])
    assert model.training
    assert not model.model.norm.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model(torch.tensor([[1, 2]])).logits.sum().backward()  # nothing of inference mode is left in the model's tables

    def fail():
        with evaluation_mode(model):
            assert not any(part.training for part in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.training


def test_progress_counts_prompts(own, ragged_prompts, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 24)
    told = []
    _generate(own, ragged_prompts, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(24, 64), (48, 64), (64, 64)]


def test_no_prompts_give_no_completions(own):
    assert _generate(own, []) == []


def test_a_prompt_beyond_a_models_table_of_positions_is_refused(gpt2):
    assert len(_generate(gpt2, [[1] * 28])) == 1
    with pytest.raises(DataError, match=r"a prompt of 29 tokens and 12 new ones: 41 tokens, .* positions for 40"):
        _generate(gpt2, [[1], [1] * 29])


def test_a_completion_is_shown_without_its_end_but_with_any_other_special_token(tiny_folder):
    from workbench.models.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(tiny_folder)
    [pad], [eos], ids = [tokenizer.pad_id], tokenizer.eos_ids, tokenizer.encode("ab")
    rows = [([*ids, eos], True), (ids, False), ([eos], True), ([ids[0], pad, eos], True)]
    completions = [Completion(*row) for row in rows]
    assert completion_texts(tokenizer, completions) == ["ab", "ab", "", "a<pad>"]
    assert completion_texts(tokenizer, []) == []
