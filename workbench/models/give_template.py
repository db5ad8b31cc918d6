"""A model's folder with another chat template than it had."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from workbench.errors import ModelError
from workbench.models.chat_templates import KNOWN, template_text
from workbench.models.folder import adapter_base, is_adapter, write_base
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer, read_json

TEMPLATE_FILE = "chat_template.jinja"
REPLACED_FILE = "replaced_chat_template.jinja"
"""The file that keeps, in a folder that was given a template, the template that its model had. Nothing reads it."""
REPLACED = "the model's own chat template is replaced by the one given"


def give_template(source: Path, folder: Path, given: str) -> None:
    """Write source's model to `folder` with the template; the weights are links to source's. Raises ModelError."""
    text = template_text(given)
    tokenizer = Tokenizer.load(source)
    _check_tokens(source, tokenizer, given)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix == ".safetensors":
            inside = source.resolve().parent == folder.resolve().parent  # both may be moved together
            link = os.path.join("..", source.name, path.name) if inside else str(path.resolve())
            (folder / path.name).symlink_to(link)
        elif path.is_file() and path.name != REPLACED_FILE:
            shutil.copyfile(path, folder / path.name)
    if is_adapter(folder):
        write_base(folder, adapter_base(source))
    (folder / TEMPLATE_FILE).write_text(text, encoding="utf-8", newline="")
    if tokenizer.chat_template is not None and tokenizer.chat_template != text:
        (folder / REPLACED_FILE).write_text(tokenizer.chat_template, encoding="utf-8", newline="")
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file)
    if config.pop("chat_template", None) is not None:
        config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def replaces_template(folder: Path) -> bool:
    """Whether a folder was given another template than its model had."""
    return os.path.exists(folder / REPLACED_FILE)


def _check_tokens(source: Path, tokenizer: Tokenizer, given: str) -> None:
    """Raises ModelError where turns would be marked by other ids here than there, or by text that is meant to be a
    token."""
    known = KNOWN.get(given)
    if known is None:
        return
    lacking = [token for token in known.tokens if not tokenizer.has_token(token)]
    if lacking:
        raise ModelError(_lacking(str(source), given, lacking))
    for role, without in (("eos", False), ("bos", tokenizer.bos_id is None)):
        if f"{role}_token" in known.text and not tokenizer.names(role) and not without:
            raise ModelError(
                f"{source}: model.chat_template {given} writes the {role}_token, which its tokenizer_config.json does "
                "not name; name it there, or take another template"
            )


def _lacking(source: str, given: str, tokens: list[str]) -> str:
    return (
        f"{source}: model.chat_template {given} needs the token {tokens[0]}, which its tokenizer lacks; add "
        f"model.add_tokens: {json.dumps(tokens)}, or take zephyr, whose turns are plain text"
    )


def template_problem(settings: ModelSettings | None) -> str | None:
    """What of the template would stop a run, as far as it can be told before its model is made."""
    if settings is None or settings.chat_template is None:
        return None
    given = settings.chat_template
    try:
        template_text(given)
        folder = Path(settings.path).expanduser() if settings.path is not None else None
        if settings.preset is not None and given in KNOWN:
            lacking = [token for token in KNOWN[given].tokens if token not in settings.add_tokens]
            return _lacking(f"preset {settings.preset}", given, lacking) if lacking else None
        if folder is not None and os.path.exists(folder / "tokenizer.json"):
            _check_tokens(folder, Tokenizer.load(folder).with_special_tokens(settings.add_tokens), given)
    except ModelError as error:
        return str(error)
    return None
