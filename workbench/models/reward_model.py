"""A reward model: a language model without its output head, and a head that scores the last token of a text.

It is saved as transformers' sequence classifier of the family with one label. N texts, P prompts, H width of the hidden
states.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import ModelError
from workbench.models.adapters import merged_tensors
from workbench.models.by_transformers import published_tensors
from workbench.models.folder import SCORES_END
from workbench.models.llama import Llama
from workbench.models.outputs import hidden_size, last_states
from workbench.models.passes import config_field, head_inputs, output_head
from workbench.models.probe import short_texts
from workbench.models.tokenizer import TOKENIZER_FILES, Tokenizer
from workbench.objectives.logprobs import at_least_float32

HEAD = "score"
"""What transformers calls the head of its decoders' sequence classifiers."""
INITIALIZER_RANGE = 0.02


class RewardModel(nn.Module):
    """trunk: the language model; of its output head nothing is computed or trained. seed: of the head's first weights,
    which are drawn as transformers draws them. Raises ModelError where transformers has no such classifier of the
    family, which could not be loaded again."""

    def __init__(self, trunk: nn.Module, seed: int) -> None:
        super().__init__()
        width, first = hidden_size(trunk), next(trunk.parameters())
        _check_family(trunk)
        spread = config_field(config_field(trunk, "config"), "initializer_range") or INITIALIZER_RANGE
        weight = torch.empty(1, width).normal_(0.0, spread, generator=torch.Generator().manual_seed(seed))
        self.trunk = trunk
        self.score = nn.utils.skip_init(nn.Linear, width, 1, bias=False, device=first.device)
        self.score.to(torch.promote_types(first.dtype, torch.float32))
        with torch.no_grad():
            self.score.weight.copy_(weight)
        _freeze_head(trunk)

    def forward(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        completion_ids: torch.Tensor,
        completion_mask: torch.Tensor,
        prompt_index: torch.Tensor,
    ) -> torch.Tensor:
        """(N,) scores of the completions behind their prompts, read at their last tokens; arguments as
        forward_completions of outputs.py has them. At least float32."""
        states = last_states(self.trunk, prompt_ids, prompt_mask, completion_ids, completion_mask, prompt_index)
        with torch.autocast(states.device.type, enabled=False):
            scores: torch.Tensor = self.score(at_least_float32(states).to(self.score.weight.dtype))
        return scores.squeeze(-1)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Turns it on in the trunk (transformers' name)."""
        self.trunk.gradient_checkpointing_enable(gradient_checkpointing_kwargs)  # type: ignore[operator]

    @property
    def config(self) -> Any:
        """The trunk's config."""
        return self.trunk.config

    def get_input_embeddings(self) -> Any:
        """The trunk's input embeddings (transformers' name)."""
        return self.trunk.get_input_embeddings()  # type: ignore[operator]

    def get_output_embeddings(self) -> nn.Linear:
        """The head, which makes scores where a language model's makes logits (transformers' name)."""
        return self.score


def published(model: nn.Module) -> dict[str, torch.Tensor]:
    """A model's weights under the names that transformers has for them, adapters folded in; of a reward model those of
    the classifier."""
    if not isinstance(model, RewardModel):
        return published_tensors(model, merged_tensors(model))
    head, tensors = _head_names(model.trunk), published(model.trunk)
    return {name: value for name, value in tensors.items() if name not in head} | {f"{HEAD}.weight": model.score.weight}


def make_classifier(folder: Path, trunk: nn.Module) -> None:
    """Turns the folder of a language model, of which the weights are a reward model's already, into a classifier's.

    transformers finds the last token of a padded row by its padding token, so that is named as one that ends no text;
    where there is none it is left out, and transformers then takes one row at a time.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    config |= {"architectures": [classifier_name(trunk)], **labels, "pad_token_id": _name_padding(folder)}
    path.write_text(json.dumps(config | {SCORES_END: True}, indent=2) + "\n", encoding="utf-8")


def classifier_name(trunk: nn.Module) -> str:
    """The name of transformers' sequence classifier of the model's family. Raises ModelError where there is none."""
    kind = str(config_field(trunk, "config").to_dict().get("model_type"))
    if isinstance(trunk, Llama):
        return f"{kind.capitalize()}ForSequenceClassification"
    import transformers

    name = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(kind)
    if name is None:
        raise ModelError(f"a reward model of {kind}: transformers has no sequence classifier of that family")
    return str(name)


def _name_padding(folder: Path) -> int | None:
    """Lets the folder's tokenizer pad with a token that ends no text, and returns its id: its own where it is such a
    one, else another special token. None, and nothing changed, where there is none."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    tokenizer, path = Tokenizer.load(folder), folder / "tokenizer_config.json"
    kept = {*tokenizer.eos_ids, tokenizer.bos_id}
    free = [index for index in (tokenizer.pad_id, *sorted(tokenizer.special_ids)) if index not in kept]
    if not free:
        return None
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings["pad_token"] = tokenizer.token_text(free[0])
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return free[0]


def _freeze_head(trunk: nn.Module) -> None:
    """Scores do not come from the output head, and DDP waits for the gradient of all that is trained. A head that is
    the input embedding too is trained as such."""
    head, embedding = output_head(trunk), trunk.get_input_embeddings()  # type: ignore[operator]
    for parameter in head.parameters() if head is not None else ():
        parameter.requires_grad_(parameter.requires_grad and parameter is embedding.weight)


def _head_names(trunk: nn.Module) -> set[str]:
    head = output_head(trunk)
    [found] = [name for name, module in trunk.named_modules() if module is head]
    return {f"{found}.weight", f"{found}.bias"}


@torch.no_grad()
def _check_family(trunk: nn.Module) -> None:
    """Raises ModelError where the classifier that transformers would load scores other states than ours, or has
    weights by other names. Of the families that our own forward runs that is known."""
    if isinstance(trunk, Llama):
        return
    name = classifier_name(trunk)
    import transformers

    config: Any = copy.deepcopy(trunk.config)
    config.num_labels = 1
    with torch.device("meta"):
        classifier = getattr(transformers, name)(config)
    ours = {key for key in trunk.state_dict() if key not in _head_names(trunk)}
    theirs = classifier.state_dict().keys() - {f"{HEAD}.weight"}
    base = getattr(trunk, getattr(trunk, "base_model_prefix", ""), None)
    if HEAD not in dict(classifier.named_children()) or not _same_names(ours, theirs) or base is None:
        raise ModelError(f"a reward model of {config.model_type}: {name} is more than its trunk and a head named score")
    device = next(trunk.parameters()).device
    text = short_texts(config, device)[0][0][None]
    states = base(text).last_hidden_state
    if not torch.allclose(states, head_inputs(trunk, text), rtol=1e-4, atol=1e-5):
        raise ModelError(
            f"a reward model of {config.model_type}: {name} scores other states than its output head takes"
        )


def _same_names(ours: set[str], theirs: Mapping[str, Any] | set[str]) -> bool:
    plain = {name.replace(".base_layer.", ".") for name in ours if "lora_" not in name}
    return plain == set(theirs)
