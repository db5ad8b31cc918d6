"""Rewards by a sequence classifier of a local folder: the logit that it gives a prompt with its completion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError
from workbench.models.folder import model_fingerprint
from workbench.rewards.reward import Sample
from workbench.rewards.settings import RewardSettings

if TYPE_CHECKING:
    import torch

VERSION = 1


def find_classifier(path: str) -> Path:
    """The folder, with a configuration and weights as safetensors. Raises ModelError."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        found = "no config.json" if folder.is_dir() else "no such folder"
        raise ModelError(f"rewards: {path}: {found}, allowed the Hugging Face folder of a sequence classifier")
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        found = f"only {pickled[0]}, a pickle, which is never loaded" if pickled else "no weights"
        raise ModelError(f"rewards: {path}: {found}; save it with model.save_pretrained(folder)")
    return folder


def classifier_identity(path: str) -> str:
    """The fingerprint of weights, configuration and tokenizer, wherever the folder is."""
    return model_fingerprint(find_classifier(path))


class Classifier:
    """A sequence classifier on one device, in float32 and without gradients."""

    def __init__(self, settings: RewardSettings, device: str) -> None:
        """Raises ModelError where the folder is no classifier, or the label is not one of its own."""
        from workbench.models.flops import ModelFlops

        assert settings.model is not None
        folder = find_classifier(settings.model)
        self.settings = settings
        self.tokenizer, self.model = _load(folder, settings.model)
        self.model.to(device).eval().requires_grad_(False)
        self.device = device
        self.column = _column(self.model.config, settings)
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
        # A template writes the special tokens out itself.
        special = not self.settings.chat_template
        ids = self.tokenizer(text, add_special_tokens=special, truncation=True, max_length=self.max_tokens)["input_ids"]
        return list(ids) or [self.tokenizer.eos_token_id or 0]

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


def _column(config: Any, settings: RewardSettings) -> int:
    """Which logit is the reward."""
    labels = {str(label): int(index) for label, index in config.label2id.items()}
    if settings.label is None and config.num_labels == 1:
        return 0
    if settings.label not in labels:
        found = "no label" if settings.label is None else f"label {settings.label}"
        raise ModelError(f"rewards: {settings.model}: found {found}, allowed one of {', '.join(labels)}")
    return labels[settings.label]


def _pad_id(tokenizer: Any, config: Any, rows: list[list[int]]) -> int:
    """The model's own padding; where a row has that token as text (decoders pad with the end), one that no row has."""
    used = {index for row in rows for index in row}
    own = [tokenizer.pad_token_id, config.pad_token_id]
    return next(index for index in (*own, *range(len(used) + 1)) if index is not None and index not in used)
