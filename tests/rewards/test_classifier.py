"""A reward by a classifier: its own logit for each completion, whatever it is scored with; nothing but safetensors."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.errors import ModelError
from workbench.rewards.build import build_rewards, rewards_identity
from workbench.rewards.reward import Sample
from workbench.rewards.settings import RewardSettings

TEXTS = ["1", "12345678 and more", "", "ab", "a much longer completion than the others have", "ab"]


def samples(texts=TEXTS, prompt="what? ") -> list[Sample]:
    return [Sample(prompt, text, None, len(text), True, 64) for text in texts]


def reward(folder, **fields):
    return build_rewards([RewardSettings.model_validate({"model": str(folder), **fields})], task=None, device="cpu")


def make(folder, tiny_folder, torch, kind="llama", **changes):
    """A classifier with random weights over the tiny preset's characters."""
    import transformers

    shutil.copytree(tiny_folder, folder)
    sizes = {"vocab_size": 160, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 128}
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(**sizes | {"pad_token_id": 0} | changes)
        model = transformers.LlamaForSequenceClassification(config)
    else:
        config = transformers.BertConfig(**sizes | changes)
        model = transformers.BertForSequenceClassification(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "norm" not in name.lower():
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def one_label(tmp_path, tiny_folder, torch):
    return make(tmp_path / "one", tiny_folder, torch, num_labels=1)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_completion_has_the_same_reward_alone_and_among_others_in_any_order(tmp_path, tiny_folder, torch, kind):
    folder = make(tmp_path / kind, tiny_folder, torch, kind, num_labels=1)
    alone = [reward(folder, batch_rows=1).score([sample]).total[0] for sample in samples()]
    together = reward(folder, batch_rows=4).score(samples()).total
    backwards = reward(folder, batch_rows=3).score(samples()[::-1]).total[::-1]
    assert len({round(value, 4) for value in alone}) == 5
    assert together == pytest.approx(alone, abs=1e-5)
    assert backwards == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_reward_is_the_logit_of_prompt_and_completion(tmp_path, tiny_folder, torch, kind):
    import transformers

    folder = make(tmp_path / kind, tiny_folder, torch, kind, num_labels=1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)("what? ab", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0, 0].item()
    assert reward(folder).score(samples(["ab"])).total == pytest.approx([expected], abs=1e-5)


def test_a_text_that_holds_the_padding_token_is_read_to_its_end(tmp_path, tiny_folder, torch):
    """Decoders pad with a token that text may hold; the logit is of the last token, not of the last other one."""
    from workbench.models.tokenizer import Tokenizer

    pad = Tokenizer.load(tiny_folder).encode("b")[0]
    padded = make(tmp_path / "padded", tiny_folder, torch, num_labels=1, pad_token_id=pad)
    other = make(tmp_path / "other", tiny_folder, torch, num_labels=1)
    texts = ["ab", "a", "abb"]
    for folder in (padded, other):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["pad_token"] = "b" if folder is padded else settings.get("pad_token")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    expected = [reward(other).score([sample]).total[0] for sample in samples(texts)]
    assert reward(padded).score(samples(texts)).total == pytest.approx(expected, abs=1e-5)


def test_of_several_labels_one_is_named(tmp_path, tiny_folder, torch):
    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    folder = make(tmp_path / "two", tiny_folder, torch, **labels)
    good, bad = (reward(folder, label=label).score(samples()).total for label in ("good", "bad"))
    assert good != bad
    for label, found in (({}, "no label"), ({"label": "goood"}, "label goood")):
        with pytest.raises(ModelError, match=f"found {found}, allowed one of bad, good"):
            reward(folder, **label)


def test_a_long_text_loses_its_beginning(one_label):
    long = samples(["x" * 300 + "ab"])
    short = samples(["x" * 30 + "ab"], prompt="")
    assert reward(one_label, max_tokens=32).score(long).total == reward(one_label).score(short).total
    assert reward(one_label).score(long).total == reward(one_label).score(samples(["x" * 126 + "ab"], "")).total
    with pytest.raises(ModelError, match="max_tokens is 129, it has 128 positions"):
        reward(one_label, max_tokens=129)


def test_a_chat_template_writes_prompt_and_completion_as_turns(one_label):
    with pytest.raises(ModelError, match="no chat template; leave chat_template out"):
        reward(one_label, chat_template=True)
    (one_label / "chat_template.jinja").write_text("{% for m in messages %}({{ m.role }}: {{ m.content }}){% endfor %}")
    chat = reward(one_label, chat_template=True).score(samples(["ab"], "p")).total
    assert chat == reward(one_label).score(samples(["(user: p)(assistant: ab)"], "")).total
    assert chat != reward(one_label).score(samples(["ab"], "p")).total


def test_no_gradient_and_no_dropout(one_label, torch):
    classifier = reward(one_label).rewards[0].function
    assert not classifier.model.training
    assert not any(parameter.requires_grad for parameter in classifier.model.parameters())
    assert classifier(samples()) == classifier(samples())


def test_what_is_no_classifier_is_refused(tmp_path, tiny_folder, one_label):
    with pytest.raises(ModelError, match="nowhere: no such folder, allowed the Hugging Face folder of a sequence"):
        reward("nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        reward(tmp_path)
    with pytest.raises(ModelError, match=r"no classifier \(LlamaForCausalLM\), it has no score head"):
        reward(tiny_folder)
    (one_label / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not readable as JSON"):
        reward(one_label)


def test_a_tokenizer_of_another_model_is_refused_where_it_gives_an_id_without_a_row(tmp_path, tiny_folder, torch):
    small = make(tmp_path / "small", tiny_folder, torch, num_labels=1, vocab_size=60)
    with pytest.raises(ModelError, match="gives id 69, and the model has 60 rows: it is another model's vocabulary"):
        reward(small).score(samples(["ab"], prompt=""))


def test_pickles_and_remote_code_are_never_loaded(one_label, torch):
    config = json.loads((one_label / "config.json").read_text())
    (one_label / "evil.py").write_text(f"open({str(one_label / 'ran')!r}, 'w')")
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config",
                                                  "AutoModelForSequenceClassification": "evil.Model"}}  # fmt: skip
    (one_label / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        reward(one_label)
    (one_label / "model.safetensors").unlink()
    torch.save({}, one_label / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model.bin, a pickle, which is never loaded"):
        reward(one_label)
    assert not (one_label / "ran").exists()


def test_the_folders_contents_decide_the_identity(tmp_path, one_label, tiny_folder, torch):
    def identity(folder, **fields):
        return rewards_identity([RewardSettings.model_validate({"model": str(folder), **fields})], None)

    copy = shutil.copytree(one_label, tmp_path / "copy")
    assert identity(copy) == identity(one_label) == identity(one_label, batch_rows=2)
    assert identity(one_label, max_tokens=3) != identity(one_label)
    other = make(tmp_path / "other", tiny_folder, torch, num_labels=2)
    with pytest.raises(ModelError, match="found no label, allowed one of LABEL_0, LABEL_1"):
        identity(other)
    assert identity(other, label="LABEL_1") != identity(one_label)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert identity(copy) != identity(one_label)


def test_what_a_classifier_reads_is_told_once_and_counts_like_any_forward(one_label):
    rewards = reward(one_label)
    rewards.score(samples(["ab", "abcd"], prompt="12"))
    (tokens, flops), *others = rewards.take_costs()
    assert (tokens, others) == (4 + 6, [])  # a character is a token
    assert flops > 0
    rewards.score(samples(["ab"], prompt="12"))
    assert rewards.take_costs()[0][0] == 4
    assert rewards.take_costs() == [(0, 0.0)]
