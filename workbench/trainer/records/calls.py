"""Costs of a trainer that does not say what its passes compute: its models' calls are counted as it makes them.

A trainer says so by `_work`. Where there is none, or a class overrides what decides the passes and inherits `_work`,
the calls are counted: of the policy, and of every other language model that it calls, a reference among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from workbench.models.flops import ModelFlops, Work, pairs_of_call
from workbench.models.outputs import is_called_by_row, projects_everything
from workbench.models.passes import output_head
from workbench.models.told import heard_by, listener
from workbench.trainer.records.costs import Costs

DECIDE = ("_prepare_batch", "_make_update_batches", "_forward", "_compute_loss")
"""Methods that decide what passes a step makes."""
SMALL = 0.01
"""Share of the policy's parameters up to which a module beside it (a value head, a loss) is not counted."""
PRODUCTS = {
    torch.nn.functional.linear,
    torch.matmul,
    torch.mm,
    torch.einsum,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.mm,
}


def says_its_work(trainer: type) -> bool:
    """Whether `_work` is of the class that decides the passes, or of one derived from it."""
    order = trainer.__mro__

    def place(name: str) -> int:
        return next(index for index, cls in enumerate(order) if name in vars(cls))

    return all(place("_work") <= place(name) for name in DECIDE)


class CallMeter:
    """Listens to the calls of modules, and to products with a policy's output head, which losses make themselves.

    policy: the language model that is trained, within `trained`, which holds it and may be wrapped.
    """

    def __init__(self, wrapped: torch.nn.Module, trained: torch.nn.Module, policy: torch.nn.Module) -> None:
        self._policy = policy
        self._holders = {id(wrapped), id(trained)} - {id(policy)}
        self._parts = {id(module) for module in policy.modules()} - {id(policy)}
        self._models: dict[int, torch.nn.Module] = {}
        self._flops: dict[int, ModelFlops] = {}
        self._heads: dict[int, torch.nn.Module] = {}
        self._depth = 0
        self._works: dict[tuple[int, bool], list[Work]] = {}
        self._unknown = ""
        self._know_head(policy)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Forget what was heard before, and count what is computed within."""
        self._depth, self._works, self._unknown = 0, {}, ""
        with ExitStack() as stack:
            before = register_module_forward_pre_hook(self._enter)
            stack.callback(before.remove)
            after = register_module_forward_hook(self._leave, with_kwargs=True, always_call=True)
            stack.callback(after.remove)
            stack.enter_context(_Products(self._hear_product))
            stack.enter_context(heard_by(self))
            yield

    def costs(self, policy: ModelFlops, *, recomputed: bool) -> tuple[Costs, str]:
        """What was heard, and why its FLOPs are not known, if they are not. policy: the policy's FLOPs. recomputed: its
        layers are computed again for the backward pass."""
        found, reason = Costs(), self._unknown
        for (key, learned), works in self._works.items():
            model = self._models[key]
            flops, work = self._flops_of(model, policy), Work.total(works)
            reason = reason or flops.uncounted
            spent = flops.training(work, recomputed=recomputed) if learned else flops.forward(work)
            of_policy = learned and model is self._policy
            found.add(
                Costs(
                    trained_tokens=int(work.read) if of_policy else 0,
                    scored_tokens=0 if learned else int(work.read),
                    flops=spent,
                )
            )
        found.flops = math.nan if reason else found.flops
        return found, reason

    # What is heard.

    def hear_rows(self, model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        """Adds a call of forward_to_head on rows."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._add(model, Work.of_rows(real.sum(1), 0.0, model, input_ids.shape[1]))

    def hear_packed(self, model: torch.nn.Module, positions: torch.Tensor) -> None:
        """Adds a call of forward_to_head on packed texts."""
        self._add(model, Work.of_packed(positions, 0.0, model))

    def hear_completions(
        self, model: torch.nn.Module, prompts: torch.Tensor, lengths: torch.Tensor, prompt_index: torch.Tensor
    ) -> None:
        """Adds a call of forward_completions."""
        self._add(model, Work.of_completions(model, prompts, lengths, prompt_index).without_head())

    def _add(self, model: torch.nn.Module, work: Work) -> None:
        if projects_everything(model):
            work = replace(work, projected=work.tokens)
        self._know_head(model)
        self._count(model, work)

    def _count(self, model: torch.nn.Module, work: Work) -> None:
        learned = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
        self._works.setdefault((id(model), learned), []).append(work)

    def _know_head(self, model: torch.nn.Module) -> None:
        self._models[id(model)] = model
        head = output_head(model)
        if head is not None:
            self._heads[head.weight.data_ptr()] = model

    def _flops_of(self, model: torch.nn.Module, policy: ModelFlops) -> ModelFlops:
        if model is self._policy:
            return policy
        if id(model) not in self._flops:
            self._flops[id(model)] = ModelFlops.counted_of(model, half=policy.half)
        return self._flops[id(model)]

    def _hears(self) -> bool:
        """Whether a call is counted now: not where it was told already, nor where a backward pass computes it again."""
        return listener() is self and torch._C._current_graph_task_id() == -1

    def _enter(self, module: torch.nn.Module, _: Any) -> None:
        if not self._hears() or id(module) in self._holders:
            return
        if self._depth == 0 and id(module) not in self._parts:
            self._know_head(module)
        self._depth += 1

    def _leave(self, module: torch.nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        """rest: the call's keywords and what it gave; where it raised, torch passes None alone."""
        if not self._hears() or id(module) in self._holders:
            return
        self._depth -= 1
        if self._depth == 0 and len(rest) == 2:
            self._hear_call(module, args, rest[0])

    def _hear_call(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = next((value for value in (kwargs.get("input_ids"), *args, *kwargs.values()) if _is_ids(value)), None)
        if id(module) in self._parts:
            if ids is not None and not isinstance(module, torch.nn.Embedding):
                self._count(self._policy, _work_of_call(self._policy, ids, args, kwargs))
            elif ids is None and module is not output_head(self._policy):
                self._unknown = self._unknown or f"{type(module).__name__}, a part of the model, was called by itself"
            return
        if module is not self._policy and _size(module) <= SMALL * _size(self._policy):
            return
        if ids is None:
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
            self._unknown = self._unknown or f"{type(module).__name__} was called without token ids"
            tokens = 0.0 if first is None else float(math.prod(first.shape[:2]))
            self._count(module, Work(tokens, 0.0, 0.0, tokens))
            return
        self._count(module, _work_of_call(module, ids, args, kwargs))

    def _hear_product(self, tensors: list[torch.Tensor], product: torch.Tensor) -> None:
        if not self._hears():
            return
        model = next((self._heads[t.data_ptr()] for t in tensors if t.data_ptr() in self._heads), None)
        if model is not None:
            projected = product.numel() / product.shape[-1]
            self._count(model, Work(0.0, 0.0, projected, 0.0))


class _Products(TorchFunctionMode):
    """Hears of matrix products."""

    def __init__(self, hear: Callable[[list[torch.Tensor], torch.Tensor], None]) -> None:
        super().__init__()
        self._hear = hear

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            self._hear([value for value in args if isinstance(value, torch.Tensor)], found)
        return found


def _is_ids(value: Any) -> bool:
    integers = (torch.long, torch.int)
    return isinstance(value, torch.Tensor) and value.ndim == 2 and value.dtype in integers


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _work_of_call(model: torch.nn.Module, ids: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
    """The work of a call of the model itself, which computes every place; a mask says which are tokens."""
    rows, width = ids.shape
    held: Any = getattr(kwargs.get("past_key_values"), "get_seq_length", None)
    end = max(width, int(held())) if held else width  # after the call, its own tokens are among them
    masks = [value for value in (kwargs.get("attention_mask"), *args[1:2]) if isinstance(value, torch.Tensor)]
    fits = masks and masks[0].shape[0] == rows and masks[0].ndim == 2
    read = float(masks[0][:, -width:].sum()) if fits else float(ids.numel())
    # Families of transformers drop a mask that allows everything; our own forward keeps it.
    masked = bool(masks) and (not is_called_by_row(model) or not bool(masks[0].all()))
    context, beyond = pairs_of_call(model, width, end, masked=masked)
    return Work(float(ids.numel()), rows * context, 0.0, read, rows, rows * beyond)
