"""What a run's steps compute, hold and write, from its model's shape: parameters, tokens, bytes. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.experiment.definition.schema import RunSpec, scores_reference
from workbench.trainer.method import has_reference
from workbench.trainer.online.settings import RolloutSettings
from workbench.trainer.settings import TrainerSettings

BYTES_PER_NUMBER = 4
"""float32: weights, gradients, the optimiser's state, activations."""
PER_SCORE = 2
"""float32 numbers for each attention score that half precision keeps on a CPU (models/attention.py)."""
LOGITS = 1 << 24
"""Logits computed at once (objectives/logprobs.py), of which PER_LOGIT float32 numbers are held each."""
PER_LOGIT = 4
SLACK = 1.25
"""What allocators hold beside what is used, by peaks measured of SmolLM2 and of the preset bytes."""
COMPLETION_ROW = 180
LOSS_ROW = 85
"""Bytes of a row of completions or of losses, as finished runs on built-in tasks have them, without the text in it."""


@dataclass(frozen=True)
class StepWork:
    """Tokens of an optimiser step, padding excluded, on average over a rollout's steps."""

    trained_tokens: float
    """Read forward and backward; a prompt counts once for all of its completions."""
    generated_tokens: float
    """Read forward to sample completions: each prompt once, and the completions."""
    scored_tokens: float
    """Read forward alone by a reference and a critic."""
    taught_tokens: float
    """Read forward alone by a teacher."""
    rows: int
    """Rows, pairs or completions that a step learns from."""
    longest: float
    """Tokens of a long one, of a pair both texts', as the largest micro-batch holds them."""

    @classmethod
    def of(cls, settings: TrainerSettings, lengths: Sequence[float]) -> StepWork:
        """lengths: tokens of rows or pairs; of prompts alone for a trainer that completes them itself, whose
        completions are taken to be half as long as they may be."""
        mean, longest, rows = statistics.fmean(lengths), quantile(lengths, 0.95), settings.batch_rows_per_step()
        if not isinstance(settings, RolloutSettings):
            trained = rows * mean
            taught = trained if settings.needs_teacher and not settings.stores_teacher else 0.0
            scored = settings.scoring_passes * trained
            return cls(trained, settings.own_completions * trained, scored, taught, rows, longest)
        completion, updates = settings.max_new_tokens / 2, settings.updates_per_rollout
        sampled, learned = rows * settings.group_size, rows * settings.learned_completions
        method = settings.described()
        scorers = has_reference(method, settings) + bool(method.critic)
        return cls(
            trained_tokens=(rows * mean + learned * completion) / settings.minibatches,
            generated_tokens=(rows * mean + sampled * completion) / updates,
            scored_tokens=scorers * (rows * mean + learned * completion) / updates,
            taught_tokens=0.0,
            rows=-(-learned // (settings.num_texts() * settings.minibatches)),
            longest=(longest + settings.max_new_tokens) * settings.num_texts(),
        )


@dataclass(frozen=True)
class RunSize:
    """Numbers of a run's parameters. policy: of the language model; hidden: of its layers' matrices; state: beside
    weight and gradient, AdamW's two moments, Muon's one of a hidden matrix, averaged weights. teacher: of the model
    that is learned from."""

    policy: int
    hidden: int
    trained: int
    frozen: int
    state: int
    teacher: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], spec: RunSpec) -> RunSize:
        """The size of a model with this config.json, in a Llama's shape."""
        hidden = config["num_hidden_layers"] * sum(i * o for i, o in _projections(config))
        embeddings = config["vocab_size"] * config["hidden_size"] * (1 if config.get("tie_word_embeddings") else 2)
        policy = trained = embeddings + hidden
        if spec.lora is not None:
            trained = config["num_hidden_layers"] * sum(spec.lora.rank * (i + o) for i, o in _projections(config))
        return cls._trained(spec, policy, hidden, trained)

    @classmethod
    def of_weights(cls, shapes: Iterable[Sequence[int]], vocabulary: int, spec: RunSpec) -> RunSize:
        """The size of a model with weights of these shapes, of any family; the vocabulary's matrices are not hidden."""
        known = list(shapes)
        matrices = [shape for shape in known if len(shape) >= 2 and vocabulary not in shape]
        policy = trained = sum(map(math.prod, known))
        if spec.lora is not None:
            trained = sum(spec.lora.rank * (shape[0] + math.prod(shape[1:])) for shape in matrices)
        return cls._trained(spec, policy, sum(map(math.prod, matrices)), trained)

    @classmethod
    def _trained(cls, spec: RunSpec, policy: int, hidden: int, trained: int) -> RunSize:
        settings = spec.hyperparameters
        by_muon = trained if spec.lora is not None else hidden
        frozen = policy - trained if spec.lora is None else policy
        trained += settings.trained_trunks * policy
        by_muon += settings.trained_trunks * hidden
        state = 2 * trained - (by_muon if settings.optimizer == "muon" else 0)
        state += trained if settings.ema_decay is not None else 0
        return cls(policy, hidden, trained, frozen, state)


def memory_bytes(config: Mapping[str, Any], spec: RunSpec, size: RunSize, work: StepWork) -> float:
    """The largest that a process holds at once while it trains, beside the libraries."""
    settings = spec.hyperparameters
    tokens = min(work.rows, settings.micro_batch_rows or work.rows) * work.longest
    text = work.longest / settings.num_texts()
    half = settings.precision != "float32"
    layer = _layer_activations(config, text if half else 0.0)
    layers = config["num_hidden_layers"]
    # Gradient checkpointing keeps the layers' inputs, and all of one layer.
    kept = layers * config["hidden_size"] + layer if settings.gradient_checkpointing else layers * layer
    logits = PER_LOGIT * min(tokens * config["vocab_size"], LOGITS)
    references = 0
    if spec.lora is None:  # else it is the policy with its adapter off
        in_training = has_reference(settings.described(), settings) and not scores_reference(spec)
        references = bool(spec.start and spec.evaluate) + in_training
    held = 2.0 * size.trained + size.state + size.frozen + references * size.policy + size.teacher
    held += size.policy / 2 if half else 0.0  # weights in half precision, made once a forward pass
    return BYTES_PER_NUMBER * (held + SLACK * (tokens * kept + logits))


def disk_bytes(size: RunSize, settings: TrainerSettings, steps: float | None, seconds: float | None) -> float:
    """The model, and as many checkpoints as there are at once: those that are kept, and the one being written."""
    at_once = settings.keep_checkpoints + bool(settings.early_stopping) + 1.0
    if steps is not None and seconds is not None and not settings.early_stopping:
        by_steps = steps // settings.checkpoint_every if settings.checkpoint_every else 0
        by_time = seconds // settings.checkpoint_seconds if settings.checkpoint_seconds else 0
        at_once = min(at_once, 1 + by_steps + by_time)
    checkpoint = size.trained + size.state + (size.policy if settings.reference_moves else 0)
    return BYTES_PER_NUMBER * (size.policy + checkpoint * at_once)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _projections(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Inputs and outputs of one layer's matrices, in a Llama's shape."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    queries, keys = heads * size, (config.get("num_key_value_heads") or heads) * size
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def _layer_activations(config: Mapping[str, Any], scores: float) -> float:
    """Numbers that a layer keeps of a token for the backward pass: both norms' inputs and outputs, queries, attention's
    result twice, keys and values, four of the MLP's width; scores: of the token, where they are kept."""
    heads, width = config["num_attention_heads"], config["hidden_size"]
    queries, keys = _projections(config)[0][1], _projections(config)[1][1]
    plain = 4 * width + 3 * queries + 2 * keys + 4 * config["intermediate_size"]
    return plain + PER_SCORE * heads * scores


def record_bytes(spec: RunSpec, steps: float, lengths: Sequence[float], characters_per_token: float) -> float:
    """Bytes of every file of rows that a run writes: metrics, completions, and what trackers make of them.

    lengths: tokens of training rows, of prompts alone where those are what is trained on.
    """
    settings = spec.hyperparameters
    written = steps * spec.form.record_bytes * (1 + len(spec.track))  # a tracker holds about as much
    text = statistics.fmean(lengths) * characters_per_token
    if isinstance(settings, RolloutSettings):
        completion = settings.max_new_tokens / 2 * characters_per_token
        rollouts = steps / settings.updates_per_rollout * settings.logged_prompts * settings.group_size
        written += rollouts * (COMPLETION_ROW + text + completion)
    for own in spec.by_set:
        if own.evaluate is not None:
            evaluations = 2 + (steps / own.evaluate.every if own.evaluate.every else 0)
            row = 0.0
            if own.evaluate.task is not None or own.evaluate.path is not None:
                row += (1 + (own.evaluate.sampling is not None)) * (COMPLETION_ROW + text)
            if own.form.has_row_loss:
                row += LOSS_ROW
            written += evaluations * own.evaluate.prompts * row
    return written
