"""What every side of a comparison is given: a model's folder, token ids, the rows of each step, a precision."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

THREADS = 2
LEARNING_RATE = 1e-4
BETA = 0.1
FAMILY = ("orpo", "simpo", "kto", "reward", "distill")
"""Methods that learn from pairs, or from one side of each."""
FIRST_TOKEN = 2
"""Ids below are the padding's and the end of sequence's."""
FIRST_LETTER = 0x100
# Tokens of GSM8K's 7,473 training answers, SmolLM2's tokenizer, end of sequence included: the logarithm has mean 4.745
# and standard deviation 0.417 (nearly normal: skewness 0.08), the shortest has 31 and the longest 455.
LENGTHS_LOG_MEAN, LENGTHS_LOG_DEVIATION, SHORTEST, LONGEST = 4.745, 0.417, 31, 455


@dataclass(frozen=True)
class Shape:
    """A Llama's."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    intermediate: int = 1024
    vocabulary: int = 512

    @property
    def layer_parameters(self) -> int:
        """Of all matrices between embedding and head."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """Of all matrices."""
        return self.layer_parameters + 2 * self.hidden * self.vocabulary

    def training_flops(self, length: int) -> float:
        """Of one token in rows of that length, forward and backward: what the share of the peak counts.

        Six for each parameter that multiplies it, and attention to what precedes it: 12 x layers x hidden x length / 2.
        """
        multiplied = self.layer_parameters + self.hidden * self.vocabulary
        return 6 * multiplied + 12 * self.layers * self.hidden * (length + 1) / 2


@dataclass(frozen=True)
class Workload:
    """One comparison's. It travels to a side's process as JSON in the folder that holds model and rows."""

    kind: str
    """sft, dpo, generate, grpo, a method of FAMILY, or peak."""
    rows: int = 32
    """Of one step: texts, pairs or prompts."""
    length: int = 128
    """Tokens of a text, of a pair's side with its prompt, or of a prompt with its completion."""
    prompt: int = 0
    """Of these, the prompt's."""
    lengths: str = "full"
    """full: every row has `length` tokens; gsm8k: texts, or a pair's completions, are as long as that set's answers."""
    num_ends: int = 0
    """generate: tokens that end a completion; 0 goes to the full length, greedily where group is 1."""
    group: int = 1
    """generate, grpo: completions of each prompt."""
    family: str = "llama"
    """generate: or gpt2, which workbench runs by transformers' own forward."""
    precision: str = "float32"
    shape: Shape = Shape()
    warm_up: int = 3
    """Steps that are not timed, whose losses must agree."""
    num_batches: int = 64
    """Steps without repeating a row."""

    @property
    def token_flops(self) -> float:
        """Of training on one token, the mean of a step's."""
        # A token attends within its own row, so long rows count by their length.
        weighted = round(np.exp(LENGTHS_LOG_MEAN + 1.5 * LENGTHS_LOG_DEVIATION**2))
        return self.shape.training_flops(weighted if self.lengths == "gsm8k" else self.length)

    def save(self, folder: Path) -> None:
        """Write model, rows and the workload itself."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.kind != "peak":
            write_model(self.shape, folder / "model", self.family)
            if self.kind == "distill":
                write_model(self.shape, folder / "teacher", seed=1)
            if self.kind == "grpo":
                write_endless_tokenizer(self.shape, folder / "model")
            _write_rows(self, folder)
        (folder / "workload.json").write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Workload:
        """The mirror of save."""
        values = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
        return cls(**(values | {"shape": Shape(**values["shape"])}))


@dataclass(frozen=True)
class Rows:
    """Token ids of every row, and their order: step s takes order[s * rows:(s + 1) * rows]. N rows in all."""

    values: np.ndarray
    """All rows one behind the other; of pairs (N, 2, the longest), of prompts (N, length)."""
    lengths: np.ndarray
    """(N,) tokens of a row; of pairs (N, 2), prompts included."""
    order: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Rows:
        """As they were written."""
        with np.load(folder / "rows.npz") as arrays:
            return cls(arrays["values"], arrays["lengths"], arrays["order"])

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def text(self, row: int) -> np.ndarray:
        """The tokens of a row."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def pair(self, row: int, prompt: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tokens of a pair's prompt, of so many, and of its completions, the chosen one first."""
        chosen, rejected = (self.values[row, side, prompt : self.lengths[row, side]] for side in (0, 1))
        return self.values[row, 0, :prompt], chosen, rejected


def one_of(pair: tuple[np.ndarray, np.ndarray, np.ndarray], row: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair's prompt with one of its completions: with the chosen one in every other row."""
    return pair[0], pair[1 + row % 2]


def gsm8k_lengths(number: int, generator: np.random.Generator) -> np.ndarray:
    """(number,) tokens of a row, drawn from the distribution above."""
    drawn = generator.lognormal(LENGTHS_LOG_MEAN, LENGTHS_LOG_DEVIATION, number)
    return np.clip(np.rint(drawn), SHORTEST, LONGEST).astype(np.int64)


def write_model(shape: Shape, folder: Path, family: str = "llama", seed: int = 0) -> None:
    """A model of that shape with weights at random, and a tokenizer (for TRL, which asks it for its padding)."""
    import torch
    from safetensors.torch import save_file

    from workbench.models.llama import Llama
    from workbench.models.llama_config import LlamaConfig
    from workbench.models.presets import make_preset

    make_preset("bench", folder, seed=0)
    if family == "gpt2":
        _write_gpt2(shape, folder)
        return
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.hidden // shape.heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
    }
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: parameter.detach().normal_(0.0, 0.02, generator=generator) if parameter.ndim == 2 else parameter.detach()
        for name, parameter in Llama(LlamaConfig.from_dict(config)).named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def character(token: int) -> str:
    """What the endless tokenizer writes for a token: Latin letters, none of which combines with its neighbour."""
    return chr(FIRST_LETTER + token)


def write_endless_tokenizer(shape: Shape, folder: Path) -> None:
    """A character a token, and an end of sequence that has no row in the model: no completion ends early."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    end = shape.vocabulary
    characters = {character(token): token for token in range(1, shape.vocabulary)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"<pad>": 0, **characters, "<eos>": end}, unk_token="<none>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<pad>", "<eos>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("config.json", "generation_config.json"):
        held = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(held | {"eos_token_id": end}), encoding="utf-8")


def _write_gpt2(shape: Shape, folder: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=shape.vocabulary,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.intermediate,
        eos_token_id=1,
        bos_token_id=1,
    )
    transformers.logging.disable_progress_bar()
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def _write_rows(workload: Workload, folder: Path) -> None:
    from workbench.data.batches import BatchLoader

    generator = np.random.default_rng(0)
    number, prompt, is_paired = workload.rows * workload.num_batches, workload.prompt, workload.kind in ("dpo", *FAMILY)
    shape = (number, 2) if is_paired else (number,)
    lengths = np.full(shape, workload.length)
    if workload.lengths == "gsm8k":
        lengths = prompt + gsm8k_lengths(lengths.size, generator).reshape(shape)
    apart = (*shape, int(lengths.max()) if is_paired else prompt)
    size = int(lengths.sum()) if workload.kind == "sft" else apart
    values = generator.integers(FIRST_TOKEN, workload.shape.vocabulary, size, dtype=np.int32)
    if is_paired:
        values[:, 1, :prompt] = values[:, 0, :prompt]
    # Our loader's own order, so that all sides see the same rows at the same step.
    loader = BatchLoader(range(number), workload.rows, 0)  # type: ignore[arg-type]
    order = np.concatenate([loader.rows_of(step) for step in range(workload.num_batches)])
    np.savez(folder / "rows.npz", values=values, lengths=lengths, order=order)
