"""What a trainer is made with, checked before anything is done with it: what a user can mistake is told in one line."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, ParamSpec, TypeVar

import torch
from pydantic import ValidationError

from workbench.errors import DataError, DefinitionError, MethodError
from workbench.tracking.terminal import complain
from workbench.trainer.records.output_folder import OutputFolder
from workbench.trainer.registry import get_settings_class, trainer_names
from workbench.trainer.settings import TrainerSettings

P = ParamSpec("P")
T = TypeVar("T")
_SETTING_WORDS = {"lr": "learning_rate", "num_epochs": "epochs", "num_train_epochs": "epochs", "max_steps": "steps",
                  "batch_size": "batch_rows", "bf16": "precision", "fp16": "precision", "warmup": "warmup_steps",
                  "args": "settings", "config": "settings"}  # fmt: skip
"""What other libraries call a setting."""


def checked(init: Callable[P, None]) -> Callable[P, None]:
    """A trainer's constructor, with its arguments looked at first. Settings may be a dict. Raises DefinitionError."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked_init(*given: P.args, **keywords: P.kwargs) -> None:
        trainer_class = type(given[0])
        _refuse_unknown_keywords(trainer_class, keywords, list(signature.parameters)[1:])
        if len(given) == 1 and "model" not in keywords:
            raise DefinitionError(f"{trainer_class.__name__}: model is missing; write {trainer_class.__name__}(model)")
        try:
            bound = signature.bind(*given, **keywords)
        except TypeError as error:
            raise DefinitionError(
                f"{trainer_class.__name__}: {error}; allowed are model, optimizer, train_loader by place, and "
                "everything else by its keyword"
            ) from error
        arguments = bound.arguments
        for name, value in arguments.items():
            needed = value is not None or name == "model"
            if needed and name in _CHECKS and (problem := _CHECKS[name](value)):
                raise DefinitionError(f"{trainer_class.__name__}: {name} is {_described(value)}: {problem}")
        _tell_unread(trainer_class, arguments)
        if arguments.get("ref_model") is not None and arguments["ref_model"] is arguments["model"]:
            raise DefinitionError(
                "ref_model is the model itself, which would be frozen; leave ref_model out (a frozen copy of the model "
                "is made), or pass copy.deepcopy(model)"
            )
        if arguments.get("train_loader") is None:
            arguments["train_loader"] = ()
        arguments["settings"] = checked_settings(trainer_class, arguments.get("settings"))
        init(*bound.args, **bound.kwargs)

    return checked_init


def checked_settings(trainer_class: Any, settings: Any) -> TrainerSettings:
    """Settings of the trainer's own class: as they are, made of a dict, or the defaults. Raises DefinitionError."""
    wanted = trainer_class.settings_class
    if settings is None:
        return wanted()
    if isinstance(settings, wanted):
        return settings
    if isinstance(settings, Mapping):
        try:
            return wanted.model_validate(dict(settings))
        except ValidationError as error:
            raise DefinitionError([_told(wanted, problem) for problem in error.errors()]) from None
    allowed = f"allowed {wanted.__name__}(...) or a dict, such as settings={{'learning_rate': 1e-4}}"
    raise DefinitionError(f"{trainer_class.__name__}: settings is {_described(settings)}; {allowed}")


def take_in(optimizer: torch.optim.Optimizer | None, given: torch.nn.Module, model: torch.nn.Module) -> None:
    """Let an optimiser that was made for the model as it was given learn what the trainer adds to it, such as PPO's
    critic, as it learns its first group: a scheduler that was made for it goes on to fit."""
    if optimizer is not None:
        known = {id(parameter) for parameter in given.parameters()}
        known |= {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        added = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        optimizer.param_groups[0]["params"].extend(added)


def check_optimizer(
    optimizer: torch.optim.Optimizer | None,
    model: torch.nn.Module,
    scheduler: Any,
    settings: TrainerSettings,
    trainer: str,
) -> None:
    """Raises DefinitionError where an optimiser that was given is of other parameters than the model's trainable ones,
    or the scheduler is of another optimiser, or settings say otherwise than they do."""
    if optimizer is None and scheduler is not None:
        raise DefinitionError(
            f"{trainer}: scheduler without optimizer: it is of another than the trainer would make; pass its optimizer "
            "too, or leave scheduler out: settings have schedule and warmup_steps"
        )
    if optimizer is None:
        return
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held - names.keys():
        raise DefinitionError(
            f"{trainer}: {len(held - names.keys())} of the optimizer's {len(held)} parameters are not the model's, "
            "which would not learn; make the optimizer of this model's parameters(), or leave it out"
        )
    left_out = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if left_out:
        raise DefinitionError(
            f"{trainer}: the optimizer lacks {len(left_out)} trainable parameters, such as {left_out[0]}, which would "
            "not learn; freeze them by requires_grad_(False), or leave optimizer out: settings name one for all"
        )
    named = settings.model_fields_set
    rates = sorted({float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups})
    if "learning_rate" in named and settings.learning_rate not in rates:
        raise DefinitionError(
            f"{trainer}: learning_rate is {settings.learning_rate:g} in settings and {rates[0]:g} in the optimizer, "
            "whose own would count; leave one of the two out"
        )
    twice = sorted({"schedule", "warmup_steps"} & named) if scheduler is not None else []
    if twice:
        raise DefinitionError(f"{trainer}: {twice[0]} is in settings, and scheduler is given; leave one of the two out")
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise DefinitionError(
            f"{trainer}: scheduler is of another optimizer than the trainer's; make it of the one that you pass as "
            "optimizer, or leave it out: settings have schedule and warmup_steps"
        )


def check_start(trainer: str, train_loader: Any, val_loader: Any, records: OutputFolder, step: int) -> None:
    """Raises DataError or DefinitionError where train() has nothing to train on, or a folder (that it writes to) in
    which another run's records would be lost."""
    if isinstance(train_loader, Sized) and not len(train_loader):
        raise DataError(
            f"{trainer}: train_loader gives no batch; pass an iterable of batches: "
            f"{trainer}(model, optimizer, train_loader)"
        )
    if isinstance(val_loader, Iterator):
        raise DataError(
            f"{trainer}: val_loader is a generator, which can be read only once, and every evaluation reads it; pass "
            "list(val_loader), or a loader"
        )
    if step == 0 and records.holds_another_run():
        raise DefinitionError(
            f"{trainer}: {records.path} holds the records of a run, which would be lost; call trainer.resume() before "
            "train() to go on from it, or take another output_dir"
        )


def checked_metrics(found: Any, evaluator: Any) -> dict[str, float]:
    """What an evaluator gave, as plain numbers: held-out metrics, and times. Raises DefinitionError where it is no dict
    of these."""
    name = getattr(evaluator, "__name__", type(evaluator).__name__)
    if not isinstance(found, Mapping):
        raise DefinitionError(f"evaluator {name} gave {_described(found)}; allowed a dict such as {{'eval/x': 0.5}}")
    metrics = {}
    for key, value in found.items():
        if not (isinstance(key, str) and key.startswith(("eval/", "time/eval/"))):
            raise DefinitionError(f"evaluator {name} gave {key!r}; allowed names of held-out metrics, eval/...")
        try:
            metrics[key] = value if isinstance(value, int | float) else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise DefinitionError(f"evaluator {name}: {key} is {_described(value)}; allowed a number") from None
    return metrics


def given_by(hook: str, value: T, kind: type | tuple[type, ...], allowed: str) -> T:
    """What a method's hook gave. Raises MethodError where it is of another kind, such as None for want of a
    `return`."""
    if not isinstance(value, kind):
        raise MethodError(f"{hook} gave {_described(value)}; allowed {allowed}")
    return value


def source_of(trainer: type) -> str:
    """The file in which a trainer is written, and its name; its name alone where it has no file, as in a notebook."""
    try:
        path = os.path.relpath(inspect.getfile(trainer))
    except (OSError, TypeError, ValueError):
        return trainer.__name__
    return f"{path}: {trainer.__name__}"


def explained(error: BaseException) -> BaseException:
    """An id without a row in the model, or a loss without a gradient, in one line; any other error as it is."""
    line: Exception | None = None
    if isinstance(error, IndexError) and "index out of range in self" in str(error):
        line = DataError(
            "a token id has no row in the model's embeddings: ids are from 0 to the vocabulary's size less 1; the "
            "batch, or ref_model, is of another tokenizer than the model"
        )
    if isinstance(error, RuntimeError) and "does not require grad" in str(error):
        line = DefinitionError(
            "the loss has no gradient: _compute_loss must compute it from self.model's outputs, without detach() or "
            "no_grad(), and a parameter that it depends on must require one"
        )
    if line is not None:
        line.__cause__ = error
    return line or error


def _refuse_unknown_keywords(trainer_class: Any, keywords: Mapping[str, Any], known: Sequence[str]) -> None:
    fields = trainer_class.settings_class.model_fields
    for keyword in keywords:
        if keyword in known:
            continue
        told = f"{trainer_class.__name__} has no argument {keyword}"
        setting = keyword if keyword in fields else _SETTING_WORDS.get(keyword, keyword)
        if setting in fields:
            raise DefinitionError(f"{told}: it is a setting; write settings={{{setting!r}: {keywords[keyword]!r}}}")
        others = _trainers_with(keyword)
        if others:
            raise DefinitionError(f"{told}: it is a setting of {', '.join(others)}")
        near = [setting] if setting in known else difflib.get_close_matches(keyword, [*known, *fields], n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}"
        raise DefinitionError(told + hint)


def _tell_unread(trainer_class: Any, arguments: Mapping[str, Any]) -> None:
    """A script that makes every trainer in one way may pass all of them what some read."""
    # Only the class that says so itself refuses them: what is derived from it may read them.
    for name in vars(trainer_class).get("unread_arguments", ()):
        if arguments.get(name) is not None:
            complain(f"{trainer_class.__name__}: {name} is given, and nothing here reads it")


def _told(settings_class: type[TrainerSettings], problem: Any) -> str:
    """One of pydantic's problems in one line."""
    path = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        others = _trainers_with(name) if len(problem["loc"]) == 1 else []
        meant = _SETTING_WORDS.get(name, name)
        near = difflib.get_close_matches(meant, settings_class.model_fields, n=1)
        hint = f"; it is one of {', '.join(others)}" if others else f"; did you mean {near[0]}?" if near else ""
        return f"settings: {path} is no setting of {settings_class.__name__}{hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    found = f" is {problem['input']!r}" if path else ""
    return f"settings: {path}{found}: {message}" if path else f"settings: {message}"


def _trainers_with(setting: str) -> list[str]:
    return [name for name in trainer_names() if setting in get_settings_class(name).model_fields]


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    return f"a {type(value).__name__}"


# Each says what is wrong with an argument, or None.


def _module_problem(value: Any) -> str | None:
    if isinstance(value, torch.nn.Module):
        return None
    return (
        "allowed a torch.nn.Module, such as workbench.models.load.load_model(folder) or transformers' "
        "AutoModelForCausalLM.from_pretrained(...)"
    )


def _optimizer_problem(value: Any) -> str | None:
    if isinstance(value, torch.optim.LBFGS):
        return "it asks for the loss several times a step, which a trainer computes once; allowed others of torch.optim"
    if isinstance(value, torch.optim.Optimizer):
        return None
    by_name = "; settings={'optimizer': 'adamw'} names one" if isinstance(value, str) else ""
    return f"allowed a torch.optim.Optimizer, or None for the one that settings name (the loader comes third){by_name}"


def _loader_problem(value: Any) -> str | None:
    batches = "allowed an iterable of batches: a DataLoader, a list of batches, a generator"
    if isinstance(value, Mapping):
        return f"that is one batch; {batches}, such as [batch]"
    if isinstance(value, torch.Tensor | str | bytes | type):
        return batches
    if callable(value) and not isinstance(value, Iterable):
        return f"call it first; {batches}"
    return None if isinstance(value, Iterable) or hasattr(type(value), "__getitem__") else batches


def _evaluators_problem(value: Any) -> str | None:
    wanted = "allowed a list of functions of (model, step) that give metrics, such as {'eval/x': 0.5}"
    return None if isinstance(value, Sequence) and all(callable(one) for one in value) else wanted


def _scheduler_problem(value: Any) -> str | None:
    if isinstance(value, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return "it follows a metric, which a trainer does not give it; allowed schedulers that are stepped each step"
    by_name = "; settings={'schedule': 'cosine'} names one" if isinstance(value, str) else ""
    is_one = isinstance(value, torch.optim.lr_scheduler.LRScheduler)
    return None if is_one else f"allowed one of torch.optim.lr_scheduler, stepped after each step{by_name}"


def _folder_problem(value: Any) -> str | None:
    return None if isinstance(value, str | os.PathLike) else "allowed a folder's path"


_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "model": _module_problem,
    "optimizer": _optimizer_problem,
    "train_loader": _loader_problem,
    "val_loader": _loader_problem,
    "evaluators": _evaluators_problem,
    "scheduler": _scheduler_problem,
    "output_dir": _folder_problem,
    "ref_model": _module_problem,
    "reward_model": _module_problem,
}
