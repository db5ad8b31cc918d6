"""KTO's own law: z is of completions behind a prompt that they were not written to."""

from __future__ import annotations

import pytest

from tests.trainers import Watched
from workbench.experiment.planning.sizes import StepWork
from workbench.trainer.kto_settings import KTOSettings


@pytest.fixture
def batch_of(torch):
    """batch_of((prompt, completion), ...) -> labelled rows, every other one wanted, padded on the right."""

    def make(*texts):
        width = max(len(prompt) + len(completion) for prompt, completion in texts)
        found = {"input_ids": [], "labels": [], "attention_mask": []}
        for prompt, completion in texts:
            padding = width - len(prompt) - len(completion)
            found["input_ids"].append(prompt + completion + [0] * padding)
            found["labels"].append([-100] * len(prompt) + completion + [-100] * padding)
            found["attention_mask"].append([1] * (width - padding) + [0] * padding)
        batch = {name: torch.tensor(rows) for name, rows in found.items()}
        return batch | {"desirable": torch.arange(len(texts)) % 2 == 0}

    return make


def log_ratio(torch, trainer, text):
    """Policy minus reference of a completion behind a prompt."""
    prompt, completion = text
    ids = torch.tensor([prompt + completion])
    sums = []
    for model in (trainer.policy, trainer.ref_model):
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].double().log_softmax(-1)
        sums.append(logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum().item())
    return sums[0] - sums[1]


@pytest.mark.parametrize("micro_batch_rows", [None, 1])
def test_the_divergence_is_of_completions_of_other_prompts_though_prompts_repeat(
    torch, make_trainer, small_llama, batch_of, micro_batch_rows
):
    (a, b), (c, d, e) = ([3, 4], [5, 6, 7]), ([8, 9], [10], [11, 12, 13])
    batch, reference = batch_of((a, c), (a, d), (b, e)), {"ref_model": small_llama(seed=1), "val_loader": None}
    trainer = make_trainer(
        "kto", batches=[batch], arguments=reference, mixin=Watched, steps=1, micro_batch_rows=micro_batch_rows
    )
    (update,) = trainer.updates_of(batch)
    mean = sum(log_ratio(torch, trainer, text) for text in ((a, e), (a, e), (b, d))) / 3
    assert abs(mean) > 0.01
    assert update["divergence"].tolist() == pytest.approx([max(mean, 0.0)] * 3, abs=1e-5)


def test_a_mismatched_completion_is_cut_where_the_positions_end(torch, make_trainer, gpt2_of, batch_of):
    long, short = list(range(1, 11)), [11, 12]
    batch = batch_of((long, short), (short, long))
    trainer = make_trainer(
        "kto", model=gpt2_of(0), batches=[batch], arguments={"ref_model": gpt2_of(1), "val_loader": None},
        mixin=Watched, steps=1,
    )  # fmt: skip
    (update,) = trainer.updates_of(batch)
    mean = sum(log_ratio(torch, trainer, text) for text in ((long, long[:2]), (short, short))) / 2
    assert update["divergence"].tolist() == pytest.approx([max(mean, 0.0)] * 2, abs=1e-5)


def test_scoring_rows_is_cut_where_memory_is_short(torch, make_trainer, small_llama, batch_of):
    batch = batch_of(([3, 4], [5, 6]), ([7, 8], [9, 10]), ([11, 12], [13, 14]), ([15, 16], [1, 2]))
    arguments = {"ref_model": small_llama(seed=1), "val_loader": None}
    trainer = make_trainer("kto", arguments=arguments, mixin=Watched, micro_batch_rows=None)

    def refuse_more_than_two(_, given):
        if given[0].numel() > 8:
            raise torch.OutOfMemoryError("out of memory")

    (whole,) = trainer.updates_of(batch)
    trainer.ref_model.get_input_embeddings().register_forward_pre_hook(refuse_more_than_two)
    (cut,) = trainer.updates_of(batch)
    assert trainer.micro_batch_rows == 2
    for name in ("divergence", "ref_sums"):
        assert cut[name].tolist() == pytest.approx(whole[name].tolist(), abs=1e-5)


def test_a_plan_counts_the_passes_that_a_step_is_charged(make_trainer, batch_of):
    batch = batch_of(([3, 4], [5, 6]), ([7, 8], [9, 10]))
    trainer = make_trainer("kto", batches=[batch], arguments={"val_loader": None}, steps=1)
    trainer.train()
    planned = StepWork.of(KTOSettings(batch_rows=2), [4.0, 4.0])
    assert (trainer.costs.trained_tokens, trainer.costs.scored_tokens) == (8, 24)
    assert (planned.trained_tokens, planned.scored_tokens) == (8, 24)


@pytest.fixture
def gpt2_of(torch):
    """gpt2_of(seed) -> a small model with positions for 12 tokens."""
    import transformers

    def make(seed):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=17, n_positions=12, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5
        )
        return transformers.GPT2LMHeadModel(config).eval()

    return make
