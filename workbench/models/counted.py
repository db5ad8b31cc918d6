"""What a model's layers compute a token, counted in passes of the model itself with torch's FLOP counter.

Nothing is read from a config: active experts, adapters, layers whose inputs need no gradient, recomputation and tables
that multiply nothing are counted as the model computes them, whatever its family. The counts are of shapes alone, and
so the same on every machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from workbench.errors import WorkbenchError
from workbench.models.llama import Llama
from workbench.models.outputs import forward_to_head
from workbench.models.passes import config_field, input_embedding
from workbench.models.positions import find_positions

LENGTHS = (8, 16, 24)
"""Tokens of the passes: what grows with the square of the length is attention's, what grows with it a token's, and what
does not grow is the one projected position that transformers' models compute in any case."""
CHECKED_ROWS, CHECKED_LENGTH = 2, 72
"""Shape of one more pass, by which the fit is checked; one row where classifiers would look for padding. It reaches
past one chunk of scans that work in chunks of 64 tokens and do not say so."""
CHUNK = re.compile("(?!attention).*chunk_size")
"""Names of a configuration's fields that say in what chunks a scan works; it computes the whole of a chunk that a row
fills in part, so a longer row is not what short ones say."""
ALLOWED = 0.05
"""Share by which that pass may compute another number than the fit says."""


class UncountedError(Exception):
    """A model's layers cannot be counted; the text is the reason."""


@dataclass(frozen=True)
class TokenFlops:
    """FLOPs of the layers, without the output head.

    A token costs `forward`, and `backward` for what is trained; gradient checkpointing computes `again` once more, None
    where that was not counted. Two tokens of a row cost `pair` and `backward_pair`; `looking_back` and
    `backward_looking_back` are the part of it in kernels that compute only what the causal mask lets through. A row of
    any length costs `row` and `backward_row` (a projected position, the ends of a convolution).
    """

    forward: float
    backward: float
    again: float | None
    pair: float
    backward_pair: float
    row: float
    backward_row: float
    looking_back: float = 0.0
    backward_looking_back: float = 0.0


def count_layers(
    model: torch.nn.Module,
    recomputing: Callable[[], AbstractContextManager[Any]] | None = None,
    *,
    learns: bool = True,
    half: bool = False,
    states_of: Callable[[torch.Tensor], torch.Tensor] | None = None,
    window: int = 0,
) -> TokenFlops:
    """Counts the layers' FLOPs in short passes, whose gradients are dropped.

    Raises UncountedError where the model cannot make these passes, where they multiply nothing that torch's counter
    knows, or where one more pass of another shape is not what the fit says.

    states_of: a pass of a model that is no language model, (B, T) token ids to whatever it gives for them. window: how
    far its layers with a window look back; 0: there are none. half: it runs in half precision, where our own forward
    computes short rows by plain products; what a machine's kernel would leave out of them is charged all the same.
    """
    rows = 1 if states_of else CHECKED_ROWS
    states_of = states_of or (lambda ids: forward_to_head(model, ids).hidden)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    trained = [parameter for parameter in model.parameters() if learns and parameter.requires_grad]

    def passes(weights: list[torch.nn.Parameter]) -> list[int]:
        return [_passes(model, states_of, weights, (1, length), device) for length in LENGTHS]

    try:
        with torch.random.fork_rng(devices=[]):
            with _LookingBack(window) as heard:
                forward = passes([])
            both = passes(trained) if trained else forward
            again = None
            if recomputing not in (None, nullcontext) and trained:
                with recomputing():
                    again = passes(trained)
            length = _checked_length(model)
            rows = rows if length <= CHECKED_LENGTH else 1  # a chunk takes memory
            checked = _passes(model, states_of, trained, (rows, length), device)
    except (torch.OutOfMemoryError, WorkbenchError, UncountedError):
        raise
    except Exception as error:  # of whatever kind: the model takes something else than token ids
        first = (str(error).strip().splitlines() or [""])[0][:160]
        raise UncountedError(f"a pass over token ids ends in {type(error).__name__}: {first}") from error
    linear, pair, row = _fitted(forward)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    if not linear > 0 and any(weight.ndim > 1 and id(weight) not in tables for weight in model.parameters()):
        raise UncountedError("no matrix product was found in a pass over token ids")
    training, training_pair, training_row = _fitted(both)
    more = None if again is None else _fitted(again)[0] - training
    _check((training, training_pair, training_row), (rows, length), checked)
    own = 0.0 if half else pair
    back = own if isinstance(model, Llama) else min(pair, heard.flops / sum(length**2 for length in LENGTHS))
    behind = min(training_pair - pair, 2 * back)
    return TokenFlops(
        linear, training - linear, more, pair, training_pair - pair, row, training_row - row, back, behind
    )


def _check(fit: tuple[float, float, float], shape: tuple[int, int], counted: int) -> None:
    """Raises UncountedError where rows of that shape do not compute what the fit says."""
    rows, length = shape
    said = rows * (fit[0] * length + fit[1] * length**2 + fit[2])
    if abs(said - counted) > ALLOWED * counted:
        raise UncountedError(
            f"{rows} rows of {length} tokens compute {counted:,} FLOPs, and by what rows of {LENGTHS[0]} to "
            f"{LENGTHS[-1]} tokens compute they would be charged {said:,.0f}"
        )


def _checked_length(model: torch.nn.Module) -> int:
    """A row's, past one chunk of a scan, where the model has that many positions."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return CHECKED_LENGTH
    fields = config.to_dict()
    chunks = [size for name, size in fields.items() if CHUNK.fullmatch(name) and type(size) is int]
    length = max([CHECKED_LENGTH, *(size + LENGTHS[0] for size in chunks)])
    positions = find_positions(fields)
    return length if positions is None else min(length, positions.most)


def _fitted(counts: list[int]) -> tuple[float, float, float]:
    """(a, b, c) of a x length + b x length^2 + c."""
    step = LENGTHS[1] - LENGTHS[0]
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    b = (second - first) / (2 * step**2)
    a = first / step - b * (LENGTHS[0] + LENGTHS[1])
    return a, b, counts[0] - a * LENGTHS[0] - b * LENGTHS[0] ** 2


def _passes(
    model: torch.nn.Module,
    states_of: Callable[[torch.Tensor], torch.Tensor],
    trained: list[torch.nn.Parameter],
    shape: tuple[int, int],
    device: torch.device,
) -> int:
    """FLOPs of a forward on rows of one length, and of the gradients of `trained` where there are any."""
    embedding = input_embedding(model)
    vocabulary = config_field(getattr(model, "config", None), "vocab_size")
    vocabulary = vocabulary or (1 if embedding is None else embedding.num_embeddings)
    ids = (torch.arange(math.prod(shape), device=device) % vocabulary).view(shape)
    kernels = _Kernels()
    with kernels, torch.set_grad_enabled(bool(trained)), _whole_attention():
        hidden = states_of(ids)
        if trained and hidden.requires_grad:
            torch.autograd.grad(hidden.float().sum(), trained, allow_unused=True)
    if kernels.unknown:
        raise UncountedError(f"torch's counter does not know the kernel {min(kernels.unknown)}")
    return kernels.flops


class _LookingBack(TorchFunctionMode):
    """Adds up the FLOPs of attention whose kernel leaves out what lies ahead, as if it computed all pairs; of that
    with a mask too where there is a window, for it counts by its width."""

    def __init__(self, window: int) -> None:
        super().__init__()
        self.flops = 0
        self._masked = window > 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            self._hear(*args, **kwargs)
        return func(*args, **kwargs)

    def _hear(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **_: Any,
    ) -> None:
        if (attn_mask is None and is_causal) or (attn_mask is not None and self._masked):
            pairs = math.prod(query.shape[:-1]) * key.shape[-2]
            self.flops += 2 * pairs * (query.shape[-1] + value.shape[-1])


class _Kernels(TorchDispatchMode):
    """Adds up the FLOPs of kernels by the table of torch's counter and ours, and collects the names of kernels of other
    libraries, which may multiply matrices and which nothing here counts. torch's own mode follows each module's calls
    as well, which takes most of its time and is not asked for here."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.unknown: set[str] = set()
        self._formulas = flop_registry | {kernel: shape_wrapper(formula) for kernel, formula in own_kernels().items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kernel = func._overloadpacket
        formula = self._formulas.get(kernel)
        if formula is None:
            library, name = str(func.name()).split(".")[0].split("::")
            if library not in ("aten", "prim", "prims") and "quantize" not in name:
                self.unknown.add(f"{library}::{name}")
            with self:  # what it is composed of
                composed = func.decompose(*args, **kwargs)
            if composed is not NotImplemented:
                return composed
        result = func(*args, **kwargs)
        self.flops += 0 if formula is None else int(formula(*args, **kwargs, out_val=result))
        return result


def own_kernels() -> dict[Any, Any]:
    """Products that torch's counter does not know: attention on a CPU, which leaves out what lies ahead where it is
    causal, whole linear layers, and experts' in one call (only the tokens that were routed to an expert are rows of
    it)."""
    aten = torch.ops.aten
    found: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _of_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _of_attention_backward,
    }
    for name in ("linear", "_grouped_mm"):
        if hasattr(aten, name):
            found[getattr(aten, name)] = _of_linear
    experts = torch.ops.transformers
    if hasattr(experts, "grouped_mm_fallback"):
        found[experts.grouped_mm_fallback] = _of_linear
        found[experts.grouped_mm_fallback_backward] = _of_two_products
    return found


def _of_attention(query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    rows, tokens, seen = math.prod(query[:-2]), query[-2], key[-2]
    pairs = tokens * (tokens + 1) // 2 if causal else tokens * seen
    return 2 * rows * pairs * int(query[-1] + value[-1])


def _of_attention_backward(_: Any, query: Any, key: Any, value: Any, *rest: Any, **__: Any) -> int:
    """rest: what the forward gave, two tensors, and its dropout and causality. Twice its products."""
    return 2 * _of_attention(query, key, value, causal=bool(rest[3]))


def _of_two_products(inputs: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 4 * math.prod(inputs) * int(weight[-1])


def _of_linear(inputs: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    return 2 * math.prod(inputs) * int(out_shape[-1])


def _whole_attention() -> AbstractContextManager[Any]:
    """Attention as plain products, which the counter knows on every device."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
