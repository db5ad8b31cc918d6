"""`workbench sample RUN "prompt"`: talk to a result."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import DefinitionError
from workbench.experiment.run_folder import RunFolder
from workbench.tracking.reader import read_run


def sample_text(
    runs: Path,
    name: str,
    prompt: str,
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    raw: bool = False,
    system: str | None = None,
) -> list[str]:
    """Completions of the prompt by the model of a run (experiment/variant/seed0) or of a model folder.

    temperature 0 takes the likeliest token. The prompt is rendered as the run's training data was: where that went
    through the chat template, as a user's turn, unless raw. system: a system turn before it, through the template.
    """
    from workbench.data.conversations import Turns
    from workbench.data.tokenise import encode_prompts
    from workbench.generation.generate import generate, row_seed
    from workbench.generation.sampling import SamplingSettings
    from workbench.models.load import load_model
    from workbench.models.tokenizer import Tokenizer

    if raw and system is not None:
        raise DefinitionError("--system: found with --raw, allowed through the chat template")
    folder, as_chat = find_model(runs, name)
    tokenizer = Tokenizer.load(folder)
    turns: Turns = (("system", system), ("user", prompt)) if system is not None else (("user", prompt),)
    asked = turns if (as_chat or system is not None) and not raw else prompt
    [ids] = encode_prompts(tokenizer, [asked], as_chat=False)
    if not ids:
        raise DefinitionError("the prompt is empty, allowed at least one token")
    [samples] = generate(
        load_model(folder),
        [ids],
        [row_seed(seed, prompt)],
        settings=SamplingSettings(temperature=temperature) if temperature else None,
        max_new_tokens=max_new_tokens,
        eos_ids=tokenizer.eos_ids,
        num_samples=num_samples,
    )
    return tokenizer.decode_batch([sample.token_ids for sample in samples])


def find_model(runs: Path, name: str) -> tuple[Path, bool]:
    """The model folder that a name means, and whether it was trained on its chat template. ModelError where a run's
    model is not as the run wrote it."""
    place = Path(name)
    if (place / "config.json").is_file():
        return place, False
    found = sorted(path.parent for path in runs.glob("*/*/seed*/model"))
    names = [str(path.relative_to(runs)) for path in found]
    matches = [path for path, key in zip(found, names, strict=True) if key == name or key.startswith(f"{name}/")]
    if len(matches) != 1:
        found_text = ", ".join(str(path.relative_to(runs)) for path in matches[:6]) or "no finished run"
        allowed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DefinitionError(f"RUN: found {found_text} for {name!r}, allowed one of {allowed or '(none is finished)'}")
    RunFolder(runs, str(matches[0].relative_to(runs))).verify_model()
    record = read_run(matches[0])
    counts = (record.provenance.get("counts") or {}).get("data") or {}
    data = record.definition.get("data") or {}
    return matches[0] / "model", bool(counts.get("chats", data.get("chat_template")))
