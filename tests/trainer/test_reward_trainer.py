"""Reward models: where a score is read, what is saved, and that every reader of the folder gives the same score."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests.batches import collate, make_rows
from workbench.data.formats import Preference
from workbench.data.forms import PAIRS
from workbench.data.sets import PairSet
from workbench.data.tokenise import tokenise_pairs
from workbench.errors import ModelError
from workbench.models.load import load_model
from workbench.models.tokenizer import Tokenizer
from workbench.objectives.reward_model import centring
from workbench.trainer import get_trainer_class
from workbench.trainer.pairs import pair_scores

ROWS = [("12ab", "21ba", "9"), ("sort: 3", "3", "333 three"), ("x", "yz", "zyxw"), ("a longer prompt", "short", "s")]
SETTINGS = {"steps": 4, "learning_rate": 0.01, "precision": "float32", "device": "cpu"}


@pytest.fixture
def pairs(tiny_folder) -> PairSet:
    rows = [Preference(prompt, chosen, rejected) for prompt, chosen, rejected in ROWS]
    return tokenise_pairs(rows, Tokenizer.load(tiny_folder), 64, as_chat=False)[0]


@pytest.fixture
def batch(pairs):
    import numpy as np

    return pairs.batch(np.arange(len(ROWS)))


@pytest.fixture
def trained(tiny_folder, batch, torch):
    """trained(**settings) -> a trainer after its steps; lora: with an adapter."""

    def train(model=None, *, lora=False, **settings):
        from workbench.models.adapters import add_lora
        from workbench.models.settings import LoraSettings

        model = load_model(tiny_folder) if model is None else model
        if lora:
            add_lora(model, LoraSettings(rank=2, alpha=4), seed=1)
        tokenizer = Tokenizer.load(tiny_folder)
        trainer = get_trainer_class("reward")(model, None, [batch], settings=SETTINGS | settings, tokenizer=tokenizer)
        trainer.train()
        return trainer

    return train


def texts_of(pairs):
    """Every prompt with its completion as token ids, chosen above rejected."""
    sides = (pairs.chosen, pairs.rejected)
    return [[*pairs.prompts[row], *side[row]] for side in sides for row in range(len(pairs))]


@pytest.mark.parametrize("lora", [False, True])
def test_the_saved_classifier_scores_as_the_trainer_does_padded_and_alone(tmp_path, trained, batch, pairs, torch, lora):
    import transformers

    from workbench.rewards.build import build_rewards
    from workbench.rewards.reward import Sample
    from workbench.rewards.settings import RewardSettings

    trainer = trained(lora=lora)
    with torch.no_grad():
        expected = pair_scores(trainer.result, batch)
    trainer.save_model(tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert (model.config.num_labels, model.config.architectures) == (1, ["LlamaForSequenceClassification"])
    pad = transformers.AutoTokenizer.from_pretrained(tmp_path / "model").pad_token_id
    texts = texts_of(pairs)
    width = max(map(len, texts))
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=mask).logits[:, 0]
        alone = torch.cat([model(input_ids=torch.tensor([text])).logits[:, 0] for text in texts])
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    samples = [Sample(row[0], row[side], None, 1, True, 64) for side in (1, 2) for row in ROWS]
    reward = build_rewards([RewardSettings(model=str(tmp_path / "model"))], task=None, device="cpu")
    assert reward.score(samples).total == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_classifier_that_is_given_from_python_reads_completions_to_their_ends(tmp_path, trained, pairs, torch):
    """Rows are padded by zeros, and the classifier's padding token is another."""
    import transformers

    from workbench.trainer.online.judge import sequence_scores

    trained().save_model(tmp_path / "model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    model.config.pad_token_id = 97  # no text has it
    batch = collate(PAIRS, make_rows(4))
    names = {"prompts": "prompt_input_ids", "prompt_mask": "prompt_attention_mask"}
    names |= {"completion_ids": "chosen_input_ids", "completion_mask": "chosen_attention_mask"}
    rows = {name: batch[key] for name, key in names.items()}
    alone = [
        model(input_ids=torch.tensor([[*prompt, *chosen]])).logits[0, 0].item() for prompt, chosen, _ in make_rows(4)
    ]
    found = sequence_scores(model, SimpleNamespace(row_batch=lambda: rows))
    assert found == pytest.approx(alone, abs=1e-5)


def test_a_score_is_read_at_the_last_real_token_wherever_the_padding_stands(trained, pairs, torch):
    trainer = trained()
    rows = make_rows(5)
    form = trainer.settings.data_form
    with torch.no_grad():
        paddings = ({}, {"left": True}, {"extra": 3})
        right, left, wide = (pair_scores(trainer.result, collate(form, rows, **padding)) for padding in paddings)
        alone = torch.stack([pair_scores(trainer.result, collate(form, [row])) for row in rows], 1).flatten()
    for scores in (left, wide, alone):
        torch.testing.assert_close(scores, right, atol=1e-5, rtol=0)


def test_training_prefers_the_chosen_and_the_centring_term_holds_the_level(trained, batch, torch):
    free, centred = (trained(steps=60, center_rewards_coefficient=weight) for weight in (0.0, 1.0))
    row = free.last_row
    assert row["accuracy"] == 1.0
    assert row["margin"] > 1.0
    assert row["min_reward"] < row["mean_reward"] < row["max_reward"]
    assert {"loss/preference", "loss/centring"} <= centred.last_row.keys()
    assert "loss/centring" not in row
    with torch.no_grad():
        levels = [centring(*pair_scores(trainer.result, batch).chunk(2)).mean() for trainer in (free, centred)]
    assert levels[1] < levels[0] / 10


def test_the_output_head_is_not_trained_and_not_saved(tmp_path, trained, tiny_folder, torch):
    from safetensors.torch import load_file

    start, trainer = load_model(tiny_folder), trained()
    trainer.save_model(tmp_path / "model")
    saved = load_file(tmp_path / "model/model.safetensors")
    assert "score.weight" in saved
    assert "lm_head.weight" not in saved
    own = trainer.policy.state_dict()
    if not start.config.tie_word_embeddings:
        assert torch.equal(own["lm_head.weight"], start.state_dict()["lm_head.weight"])


def test_the_head_begins_by_the_seed(trained):
    first, again, other = (trained(steps=1, learning_rate=0.0, seed=seed).result.score.weight for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


def test_another_family_is_scored_as_its_classifier_does_or_refused(tmp_path, batch, pairs, torch):
    import transformers

    sizes = {"vocab_size": 160, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ends))
    trainer = get_trainer_class("reward")(model, None, [batch], settings=SETTINGS)
    trainer.train()
    with torch.no_grad():
        expected = pair_scores(trainer.result, batch)
    trainer.save_model(tmp_path / "model")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        found = torch.cat([classifier(input_ids=torch.tensor([text])).logits[:, 0] for text in texts_of(pairs)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    config = transformers.CodeGenConfig(**sizes | {"rotary_dim": 4}, **ends)
    with pytest.raises(ModelError, match="a reward model of codegen: transformers has no sequence classifier"):
        get_trainer_class("reward")(transformers.CodeGenForCausalLM(config), None, [batch], settings=SETTINGS)


def test_a_padding_token_that_ends_texts_is_not_named_as_padding(tmp_path, trained, tiny_folder):
    """transformers would read the score of a text that ends with it one token too early."""
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "start")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": settings["eos_token"]}))
    tokenizer = Tokenizer.load(folder)
    trainer = trained()
    trainer.tokenizer = tokenizer
    trainer.save_model(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["pad_token_id"] not in tokenizer.eos_ids


def test_a_reward_model_is_no_language_model(tmp_path, trained):
    trained().save_model(tmp_path / "model")
    with pytest.raises(ModelError, match="a LlamaForSequenceClassification, which scores texts and completes none"):
        load_model(tmp_path / "model")
