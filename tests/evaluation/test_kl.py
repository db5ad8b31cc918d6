"""eval/kl_start against the sum over the whole vocabulary at each position, written as a loop."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math

import pytest

from workbench.evaluation import kl as module
from workbench.evaluation.kl import sequence_kl
from workbench.generation.generate import generate
from workbench.models.reference import adapter_off_reference, frozen_reference

PROMPTS = [[1], [2, 3, 4], [5, 6, 7, 8, 9, 10], [11, 12]]
COMPLETIONS = [[3, 4, 5], [1], [9, 8, 7, 6, 5], [16, 2]]


@pytest.fixture(scope="module")
def models(small_llama):
    return small_llama(seed=0).eval(), small_llama(seed=1).eval()


def _slowly(torch, policy, reference):
    found = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        total = 0.0
        for place in range(len(completion)):
            ids = torch.tensor([[*prompt, *completion[:place]]])
            own, other = (model(ids).logits[0, -1].double().log_softmax(-1).tolist() for model in (policy, reference))
            total += sum(math.exp(a) * (a - b) for a, b in zip(own, other, strict=True))
        found.append(total)
    return found


def test_it_is_the_full_divergence_at_each_position_of_the_completion_alone(torch, models):
    policy, reference = models
    expected = _slowly(torch, policy, reference)
    assert sequence_kl(policy, frozen_reference(reference), PROMPTS, COMPLETIONS) == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0


def test_its_direction_is_from_policy_to_start(torch, models):
    one, other = models
    forward, backward = (
        sequence_kl(a, frozen_reference(b), PROMPTS, COMPLETIONS) for a, b in ((one, other), (other, one))
    )
    assert backward == pytest.approx(_slowly(torch, other, one), rel=1e-5)
    assert abs(forward[0] - backward[0]) > 0.1


def test_two_coins_by_hand(speaker, tokenizer):
    """From a: b 3/4, c 1/4 against 1/2, 1/2: 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812. Then both end for certain."""
    policy = speaker({"a": {"b": 0.75, "c": 0.25}})
    reference = speaker({"a": {"b": 0.5, "c": 0.5}})
    prompt, completion = tokenizer.encode("a"), [*tokenizer.encode("b"), tokenizer.eos_ids[0]]
    assert sequence_kl(policy, frozen_reference(reference), [prompt], [completion]) == pytest.approx(
        [0.130812], abs=1e-5
    )


def test_its_mean_over_samples_is_the_divergence_of_whole_sequences(speaker, tokenizer):
    tables = [
        {"a": {"a": x, "b": y, "<eos>": 1 - x - y}, "b": {"a": y, "<eos>": 1 - y}}
        for x, y in ((0.5, 0.25), (0.25, 0.5))
    ]
    policy, reference = map(speaker, tables)
    exact = 0.0
    for length in (1, 2, 3):
        for text in itertools.product(("a", "b", "<eos>"), repeat=length):
            if "<eos>" in text[:-1] or (length < 3 and text[-1] != "<eos>"):
                continue
            own, other = (
                math.prod(table[x].get(y, 0.0) for x, y in itertools.pairwise(("a", *text))) for table in tables
            )
            exact += own * math.log(own / other) if own else 0.0
    from workbench.generation.sampling import SamplingSettings

    [samples] = generate(
        policy, [tokenizer.encode("a")], [0], settings=SamplingSettings(), max_new_tokens=3,
        eos_ids=tokenizer.eos_ids, num_samples=2000,
    )  # fmt: skip
    completions = [sample.completion_ids for sample in samples]
    found = sequence_kl(policy, frozen_reference(reference), [tokenizer.encode("a")] * 2000, completions)
    mean = sum(found) / 2000
    error = (sum((value - mean) ** 2 for value in found) / 2000**2) ** 0.5
    assert abs(mean - exact) < 4 * error
    assert error < 0.02


def test_a_model_is_exactly_0_from_itself(models):
    policy, _ = models
    assert sequence_kl(policy, frozen_reference(copy.deepcopy(policy)), PROMPTS, COMPLETIONS) == [0.0] * 4


@pytest.mark.parametrize("name", ["TOKENS_AT_ONCE", "LOGITS_ELEMENTS"])
def test_the_bounds_of_memory_do_not_matter(models, monkeypatch, name):
    policy, reference = models
    expected = sequence_kl(policy, frozen_reference(reference), PROMPTS, COMPLETIONS)
    monkeypatch.setattr(module, name, 1)
    assert sequence_kl(policy, frozen_reference(reference), PROMPTS, COMPLETIONS) == pytest.approx(expected, rel=1e-5)


def test_a_completion_without_tokens_adds_nothing(models):
    policy, reference = models
    found = sequence_kl(policy, frozen_reference(reference), [[1, 2], [1]], [[], [3]])
    assert found[0] == 0.0
    assert found[1] > 0
    assert sequence_kl(policy, frozen_reference(reference), [[1]], [[]]) == [0.0]
    assert sequence_kl(policy, frozen_reference(reference), [], []) == []


@pytest.fixture
def adapted(torch, small_llama):
    """A policy with an adapter that does something, and dropout that would show."""
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = small_llama()
    add_lora(model, LoraSettings(rank=2, alpha=4, dropout=0.5), seed=0)
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    return model.train()


def test_with_its_adapter_off_a_policy_is_its_base_model(torch, small_llama, adapted):
    base = small_llama().eval()
    expected = sequence_kl(adapted, frozen_reference(base), PROMPTS, COMPLETIONS)
    assert sequence_kl(adapted, adapter_off_reference, PROMPTS, COMPLETIONS) == pytest.approx(expected, rel=1e-6)
    assert min(expected) > 0.01
    with adapter_off_reference(adapted.eval()) as start:
        assert torch.equal(start(torch.tensor([PROMPTS[1]])).logits, base(torch.tensor([PROMPTS[1]])).logits)
    assert not torch.equal(adapted(torch.tensor([PROMPTS[1]])).logits, base(torch.tensor([PROMPTS[1]])).logits)


def test_the_adapter_is_on_again_after_an_error(torch, adapted):
    adapted.eval()
    before = adapted(torch.tensor([[1, 2]])).logits
    with contextlib.suppress(KeyError), adapter_off_reference(adapted):
        raise KeyError
    assert torch.equal(adapted(torch.tensor([[1, 2]])).logits, before)


def test_dropout_is_off_and_training_goes_on(adapted):
    found = [sequence_kl(adapted, adapter_off_reference, PROMPTS, COMPLETIONS) for _ in range(2)]
    assert found[0] == found[1]
    assert adapted.training


def test_a_frozen_reference_has_no_gradient_and_no_dropout(small_llama):
    model = small_llama().train()
    with frozen_reference(model)(small_llama()) as start:
        assert start is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_transformers_models_are_measured_alike(torch, models, small_config):
    import transformers

    settings = {name: value for name, value in small_config.items() if name not in ("architectures", "model_type")}
    theirs = []
    for model in models:
        copied = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
        copied.load_state_dict(model.state_dict())
        theirs.append(copied)
    expected = sequence_kl(models[0], frozen_reference(models[1]), PROMPTS, COMPLETIONS)
    found = sequence_kl(theirs[0], frozen_reference(theirs[1]), PROMPTS, COMPLETIONS)
    assert found == pytest.approx(expected, rel=1e-4)
