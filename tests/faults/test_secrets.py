"""Secrets in the environment, the command line, YAML, URLs, the git diff, .netrc and the words of exceptions, under
real commands with both trackers: in no file below the runs folder, nor on the screen."""

from __future__ import annotations

import subprocess

import pandas as pd
import pytest
import yaml

from tests.commands import Command
from tests.faults.labs import START, SWEEP, make_lab

pytestmark = [pytest.mark.slow, pytest.mark.multi, pytest.mark.long]
CANARIES = {
    name: f"canary-{name}-7d1f9c"
    for name in ("variable", "argument", "question", "url", "diff", "bearer", "netrc", "printed", "raised", "proxy")
}
HUB_TOKEN = "hf_" + "Q7canaryQ7" * 3
ENVIRONMENT = {
    "MY_API_TOKEN": CANARIES["variable"],
    "OTHER_SECRET_KEY": CANARIES["raised"],
    "PRINTED_PASSWORD": CANARIES["printed"],
    "HF_TOKEN": HUB_TOKEN,
    "WANDB_API_KEY": "c0ffee1dea" * 4,
    "HTTPS_PROXY": f"http://me:{CANARIES['proxy']}@127.0.0.1:9",
}
REWARD = """
import os, sys

print("the password is", os.environ["PRINTED_PASSWORD"])
print("connecting to", os.environ["HTTPS_PROXY"], file=sys.stderr)


def reward(prompts, completions, **_):
    if os.environ.get("RAISE"):
        raise ValueError("401: " + os.environ["OTHER_SECRET_KEY"] + " was refused")
    return [float(len(text)) for text in completions]
"""


@pytest.fixture
def lab(tmp_path):
    """In a repository with a change that was not committed, under a home with credentials."""
    lab = make_lab(tmp_path / "lab")
    (lab / ".gitignore").write_text("runs/\n")
    (lab / "client.py").write_text("token = None\n")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=lab, check=True)
    (lab / "client.py").write_text(
        f"api_key = '{CANARIES['diff']}'\nurl = 'https://me:{CANARIES['url']}@host/x?token={CANARIES['bearer']}'\n"
        f"headers = 'Bearer {CANARIES['bearer']}'\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai login user password {CANARIES['netrc']}\n")
    netrc.chmod(0o600)
    (lab / "reward.py").write_text(REWARD)
    question = f"Is {CANARIES['variable']} kept? https://me:{CANARIES['url']}@host/?api_key={CANARIES['question']}"
    sweep = SWEEP | {"question": question}
    rewards = [{"file": "reward.py"}]
    sweep["arms"] = SWEEP["arms"] | {
        "grpo": SWEEP["arms"]["grpo"]
        | {"hyperparameters": SWEEP["arms"]["grpo"]["hyperparameters"] | {"rewards": rewards}}
    }
    (lab / "experiments/sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    (lab / "experiments/start.yaml").write_text(yaml.safe_dump(START | {"question": question}, sort_keys=False))
    return lab


def test_secrets_from_everywhere_are_in_no_file_and_on_no_screen(lab, tmp_path):
    environment = ENVIRONMENT | {"HOME": str(tmp_path / "home")}
    told = f"question=https://me:{CANARIES['argument']}@host/?password={CANARIES['argument']}"
    said = []
    for arguments, expected in (
        (("run", "sweep", "--allow-reward-code"), 0),
        (("run", "sweep", "--allow-reward-code", "--set", told), 0),
        (("plan", "sweep"), 0),
        (("compare", "start", "sweep"), 0),
        (("export", "sweep", "--out", "runs/tables"), 0),
        (("data", "start"), 0),
    ):
        code, output = Command(lab, *arguments, **environment).end()
        assert code == expected, output
        said.append(output)
    code, output = Command(lab, "run", "sweep", "--fresh", "--allow-reward-code", **environment, RAISE="1").end()
    assert code == 6, output
    assert_absent(lab, [*said, output])
    log = (lab / "runs/sweep/grpo/seed0/log.txt").read_text()
    assert "the password is ***" in log
    assert "401: *** was refused" in log


def assert_absent(lab, said):
    secrets = [*CANARIES.values(), HUB_TOKEN, ENVIRONMENT["WANDB_API_KEY"]]
    files = [path for path in (lab / "runs").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files} | {path.name for path in files}
    assert {".wandb", ".replay", ".parquet", ".csv", "index.html", "log.txt", "provenance.json", "plan.json"} <= kinds
    for path in files:
        assert [secret for secret in secrets if secret in str(path)] == [], "nor in a name"
        held = path.read_bytes()
        if path.suffix == ".parquet":  # whose columns are compressed
            held += pd.read_parquet(path).to_csv().encode()
        assert [secret for secret in secrets if secret.encode() in held] == [], path
    for text in said:
        assert [secret for secret in secrets if secret in text] == [], text
