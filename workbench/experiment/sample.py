"""`workbench sample RUN "prompt"`: talk to a result."""

from __future__ import annotations

import difflib
from pathlib import Path

from workbench.errors import DefinitionError
from workbench.experiment.running.run_folder import RunFolder
from workbench.models.positions import model_positions
from workbench.tracking.reader import read_run

NEW_TOKENS = 128
MAX_NEAR = 5
"""Names of runs in a message."""


def sample_text(
    runs: Path,
    name: str,
    prompt: str,
    *,
    num_samples: int,
    max_new_tokens: int | None,
    temperature: float,
    seed: int,
    raw: bool = False,
    system: str | None = None,
) -> list[str]:
    """Completions of the prompt by the model of a run (experiment/variant/seed0) or of a model folder.

    max_new_tokens: None takes NEW_TOKENS, or as many as the model has positions for. temperature 0 takes the likeliest
    token. The prompt is rendered as the run's training data was: where that went through the chat template, as a user's
    turn, unless raw. system: a system turn before it, through the template.
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
        max_new_tokens=max_new_tokens or _fitting(folder, len(ids)),
        eos_ids=tokenizer.eos_ids,
        num_samples=num_samples,
    )
    return tokenizer.decode_batch([sample.completion_ids for sample in samples])


def _fitting(folder: Path, num_prompt_tokens: int) -> int:
    """Tokens of a completion that nobody has said the length of."""
    positions = model_positions(folder)
    return NEW_TOKENS if positions is None else max(1, min(NEW_TOKENS, positions.most - num_prompt_tokens))


def find_model(runs: Path, name: str) -> tuple[Path, bool]:
    """The model folder that a name means, and whether it was trained on its chat template. Raises ModelError where a
    run's model is not as the run wrote it."""
    place = Path(name)
    if (place / "config.json").is_file():
        return place, False
    found = sorted(path.parent for path in runs.glob("*/*/seed*/model"))
    names = [str(path.relative_to(runs)) for path in found]
    matches = [path for path, key in zip(found, names, strict=True) if key == name or key.startswith(f"{name}/")]
    if len(matches) != 1:
        several = [str(path.relative_to(runs)) for path in matches]
        near = several or difflib.get_close_matches(name, names, n=MAX_NEAR, cutoff=0.4) or names
        allowed = f"one of {', '.join(near[:MAX_NEAR])}" if near else "a run that is finished: there is none"
        more = f" ({len(names)} runs are finished)" if len(names) > len(near[:MAX_NEAR]) else ""
        found_text = (
            f"{name!r}, which is {len(several)} finished runs" if several else f"{name!r}, which is no finished run"
        )
        raise DefinitionError(f"RUN: found {found_text}, allowed {allowed}{more}")
    RunFolder(runs, str(matches[0].relative_to(runs))).verify_model()
    record = read_run(matches[0])
    counts = record.provenance.get("counts") or {}
    chats = [found.get("chats") for name, found in counts.items() if name == "data" or name.startswith("data/")]
    data = record.definition.get("data") or {}
    return matches[0] / "model", any(chats) if chats else bool(data.get("chat_template"))
