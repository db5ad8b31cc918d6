"""The models and the reward code that a definition names by their place: refused before anything is made, also where a
run that comes before is not finished. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from workbench.errors import DefinitionError, WorkbenchError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.running.reward_code import reward_lists
from workbench.models.named import check_named, tokens_of
from workbench.models.settings import ModelSettings
from workbench.rewards.classifier import find_classifier
from workbench.rewards.own_code import find_file


def refuse_misnamed(spec: RunSpec, specs: Mapping[str, RunSpec]) -> None:
    """Raises WorkbenchError, with the line of the definition, where a model, a reward model or a reward's file is not
    there or is none, and where a teacher is known to have other tokens. specs: those that it may begin from, by key."""
    for field, settings in (("model", spec.model), ("teacher", spec.teacher)):
        if isinstance(settings, ModelSettings):
            with _at(spec, field, f"{field}: "):
                check_named(settings)
    for field, rewards in reward_lists(spec):
        for entry in rewards:
            with _at(spec, field):
                if entry.model is not None:
                    find_classifier(entry.model, entry.label)
                if entry.file is not None:
                    find_file(entry.file)
    own, teachers = (_tokens(model, specs) for model in (spec.start or spec.model, spec.teacher))
    if own is not None and teachers is not None:
        refuse_other_tokens(spec, own, teachers)


def refuse_other_tokens(
    spec: RunSpec, own: tuple[str, Mapping[str, int]], teachers: tuple[str, Mapping[str, int]]
) -> None:
    """Raises DefinitionError where the teacher's tokens are not the student's. Both: what messages call the model, and
    its ids by token."""
    if own[1] != teachers[1]:
        raise DefinitionError(
            f"{spec.origins.get('teacher', spec.key)}: teacher: found {teachers[0]}, whose {len(teachers[1]):,} tokens "
            f"are not the {len(own[1]):,} of {own[0]}; allowed a teacher with the student's vocabulary"
        )


def _tokens(model: str | ModelSettings | None, specs: Mapping[str, RunSpec]) -> tuple[str, Mapping[str, int]] | None:
    """The name of a model, or of the run that makes it, and its ids by token, where they can be known."""
    name = model if isinstance(model, str) else None
    while isinstance(model, str):
        if model not in specs:
            return None
        model = specs[model].start or specs[model].model
    tokens = tokens_of(model) if model is not None else None
    if model is None or tokens is None:
        return None
    return name or model.path or f"preset {model.preset}", tokens


@contextmanager
def _at(spec: RunSpec, field: str, before: str = "") -> Iterator[None]:
    """What is refused within is told with the line of the definition."""
    try:
        yield
    except WorkbenchError as error:
        place = spec.origins.get(f"{field}.path") or spec.origins.get(field.partition("[")[0]) or spec.key
        raise type(error)(f"{place}: {before}{error}") from error
