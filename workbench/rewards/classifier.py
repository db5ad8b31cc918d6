"""Rewards by a sequence classifier of a local folder: the logit that it gives a prompt with its completion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError
from workbench.models.folder import SCORES_END, model_fingerprint
from workbench.models.tokenizer import Tokenizer, read_json
from workbench.rewards.reward import Sample
from workbench.rewards.settings import RewardSettings

if TYPE_CHECKING:
    import torch

VERSION = 1


def find_classifier(path: str, label: str | None = None) -> Path:
    """The folder, with a configuration and weights as safetensors. Raises ModelError; also where the configuration has
    several labels, and label names none of them."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        found = "no config.json" if folder.is_dir() else "no such folder"
        raise ModelError(f"rewards: {path}: {found}, allowed the Hugging Face folder of a sequence classifier")
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        found = f"only {pickled[0]}, a pickle, which is never loaded" if pickled else "no weights"
        raise ModelError(f"rewards: {path}: {found}; save it with model.save_pretrained(folder)")
    config = read_json(folder / "config.json")
    named = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named):
        raise ModelError(
            f"rewards: {path}: no classifier ({', '.join(named)}), it has no score head; name a model that was trained "
            "to score"
        )
    _column(path, _labels(config), label)
    return folder


def classifier_identity(path: str, label: str | None) -> str:
    """The fingerprint of weights, configuration and tokenizer, wherever the folder is. Raises ModelError as
    find_classifier."""
    return model_fingerprint(find_classifier(path, label))


class Classifier:
    """A sequence classifier on one device, in float32 and without gradients."""

    def __init__(self, settings: RewardSettings, device: str) -> None:
        """Raises ModelError where the folder is no classifier, or the label is not one of its own."""
        from workbench.models.flops import ModelFlops

        assert settings.model is not None
        folder = find_classifier(settings.model, settings.label)
        self.settings = settings
        self.tokenizer, self.model = _load(folder, settings.model)
        self.model.to(device).eval().requires_grad_(False)
        self.device = device
        self.column = _column(settings.model, _labels(self.model.config.to_dict()), settings.label)
        self._own = Tokenizer.load(folder) if read_json(folder / "config.json").get(SCORES_END) else None
        self._flops, self._spent = ModelFlops.of_classifier(self.model), (0, 0.0)
        self.uncounted = self._flops.uncounted
        if settings.chat_template and not self.tokenizer.chat_template:
            raise ModelError(f"rewards: {settings.model}: no chat template; leave chat_template out")
        positions = getattr(self.model.config, "max_position_embeddings", None)
        self.max_tokens: int = settings.max_tokens or positions or 1024
        if positions is not None and self.max_tokens > positions:
            raise ModelError(
                f"rewards: {settings.model}: max_tokens is {self.max_tokens}, it has {positions} positions"
            )

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """A logit a sample. Rows of like lengths are scored together; the order is the samples'."""
        rows = [self._encode(sample) for sample in samples]
        import torch

        from workbench.models.flops import Work

        order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
        values = [0.0] * len(rows)
        for start in range(0, len(order), self.settings.batch_rows):
            batch = order[start : start + self.settings.batch_rows]
            lengths = torch.tensor([len(rows[index]) for index in batch])
            work = Work.of_scored(self.model, lengths, int(lengths.max()))
            self._spent = (self._spent[0] + int(work.read), self._spent[1] + self._flops.forward(work))
            for index, value in zip(batch, self._score([rows[index] for index in batch]), strict=True):
                values[index] = value
        return values

    def take_costs(self) -> tuple[int, float]:
        """Tokens read, padding excluded, and FLOPs since it was last asked."""
        spent, self._spent = self._spent, (0, 0.0)
        return spent

    def _encode(self, sample: Sample) -> list[int]:
        if self.settings.chat_template:
            turns = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.completion}]
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            text = sample.prompt + sample.completion
        if self._own is not None:
            ids = _as_trained(self._own, text, sample.ended, templated=self.settings.chat_template)[-self.max_tokens :]
        else:
            # A template writes the special tokens out itself.
            special, most = not self.settings.chat_template, self.max_tokens
            ids = list(self.tokenizer(text, add_special_tokens=special, truncation=True, max_length=most)["input_ids"])
        rows = self.model.get_input_embeddings().weight.shape[0]
        if max(ids, default=0) >= rows:
            raise ModelError(
                f"rewards: {self.settings.model}: its tokenizer gives id {max(ids)}, and the model has {rows} rows: it "
                "is another model's vocabulary"
            )
        return ids or [self.tokenizer.eos_token_id or 0]

    def _score(self, rows: list[list[int]]) -> list[float]:
        import torch

        width = max(map(len, rows))
        pad = _pad_id(self.tokenizer, self.model.config, rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        # Decoders take the logit of the last token that is not this one.
        self.model.config.pad_token_id = pad
        with torch.no_grad():
            logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits[:, self.column].float().tolist()


def _load(folder: Path, shown: str) -> tuple[Any, Any]:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, truncation_side="left"
        )
        model, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"rewards: {shown}: transformers cannot load it as a sequence classifier: {first}") from error
    # transformers makes a head at random where the folder has none, and says so in a warning.
    if loaded["missing_keys"]:
        raise ModelError(
            f"rewards: {shown}: no classifier ({', '.join(raw.get('architectures') or ['no architecture named'])}), "
            f"its weights lack {sorted(loaded['missing_keys'])[0]}; name a model that was trained to score"
        )
    return tokenizer, model


def _as_trained(tokenizer: Tokenizer, text: str, ended: bool, *, templated: bool) -> list[int]:
    """The ids of a text as our own reward models learn them: with what ends a completion where it ended, and nothing
    behind that."""
    ids = tokenizer.encode(text)
    if not templated:
        ids = tokenizer.begun(ids)
        return tokenizer.ended(ids) if ended else ids
    ends = [place for place, index in enumerate(ids) if index in tokenizer.eos_ids]
    return ids[: ends[-1] + ended] if ends else ids


def _labels(config: Mapping[str, Any]) -> dict[str, int]:
    """The labels that a configuration has, and their logits; transformers' default is two."""
    named = config.get("label2id") or {label: index for index, label in (config.get("id2label") or {}).items()}
    numbered = {f"LABEL_{index}": index for index in range(config.get("num_labels") or 2)}
    return {str(label): int(index) for label, index in (named or numbered).items()}


def _column(path: str, labels: Mapping[str, int], label: str | None) -> int:
    """Which logit is the reward."""
    if label is None and len(labels) == 1:
        return 0
    if label is None or label not in labels:
        found = "no label" if label is None else f"label {label}"
        raise ModelError(f"rewards: {path}: found {found}, allowed one of {', '.join(labels)}")
    return labels[label]


def _pad_id(tokenizer: Any, config: Any, rows: list[list[int]]) -> int:
    """The model's own padding; where a row has that token as text (decoders pad with the end), one that no row has."""
    used = {index for row in rows for index in row}
    own = [tokenizer.pad_token_id, config.pad_token_id]
    return next(index for index in (*own, *range(len(used) + 1)) if index is not None and index not in used)
