"""GGUF files: the same logits as the model that was written, once; a torn one is refused."""

from __future__ import annotations

import shutil

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.folder import settings_identity
from workbench.models.load import load_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")

TOKENS = ["<pad>", "<eos>", *"abcdefgh", "ab", "abc"]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}


def interleaved(weight, heads):
    """llama.cpp turns neighbouring features, Hugging Face those half a head apart."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    )


@pytest.fixture
def written(small_llama, tmp_path):
    """(a .gguf file of a small Llama, the model)."""
    model = small_llama(vocab_size=len(TOKENS), tie_word_embeddings=False)
    config, path = model.config, tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(128)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        for module, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            value = interleaved(value, heads) if module in name else value
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model.eval()


@pytest.mark.parametrize("named", ["file", "folder"])
def test_a_gguf_file_gives_the_written_models_logits_and_tokens(named, written, tmp_path):
    path, model = written
    settings = ModelSettings(path=str(path if named == "file" else path.parent))
    (tmp_path / "cache").mkdir()
    folder = resolve_model_folder(settings, tmp_path / "cache")
    ids = torch.tensor([[3, 5, 2, 7, 1, 9, 4]])
    with torch.no_grad():
        torch.testing.assert_close(load_model(folder).eval()(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("abcab") == [TOKENS.index("abc"), TOKENS.index("ab")]
    assert tokenizer.eos_ids == (1,)


def test_it_is_converted_once_for_its_content_wherever_it_lies(written, tmp_path):
    path, _ = written
    (tmp_path / "cache").mkdir()
    first = resolve_model_folder(ModelSettings(path=str(path)), tmp_path / "cache")
    made = (first / "model.safetensors").stat().st_mtime_ns
    moved = shutil.copyfile(path, tmp_path / "moved.gguf")
    assert resolve_model_folder(ModelSettings(path=str(moved)), tmp_path / "cache") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    identities = [settings_identity(ModelSettings(path=str(file))) for file in (path, moved)]
    assert identities[0] == identities[1]


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_torn_file_is_refused_in_one_line(keep, written, tmp_path):
    path, _ = written
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(ModelError, match=r"model.gguf: not readable as GGUF \(.*\); download it again") as error:
        resolve_model_folder(ModelSettings(path=str(path)), tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]
