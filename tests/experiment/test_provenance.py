"""What a run records of its origin, and what it never does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from workbench.experiment.running.provenance import code_state, current_commit, hardware, package_versions
from workbench.redaction import redact


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", ".")
    git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-m", "first")
    return tmp_path


def test_a_clean_tree_is_its_commit(repository):
    state = code_state(repository)
    assert (state["dirty"], state["untracked"]) == (False, {})
    assert state["commit"] == current_commit(repository)
    assert "diff" not in state


def test_a_dirty_tree_keeps_its_diff_and_the_hash_of_what_git_does_not_know(repository):
    (repository / "a.py").write_text("x = 2\n")
    (repository / "b.py").write_text("")
    state = code_state(repository)
    assert state["dirty"] is True
    assert "-x = 1\n+x = 2\n" in state["diff"]
    assert state["untracked"] == {"b.py": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}


def test_no_repository_is_no_error(tmp_path):
    assert code_state(tmp_path / "nowhere") == {"commit": None, "dirty": None}


def test_versions_and_machine_are_named():
    assert package_versions()["torch"].startswith("2.")
    assert {"cpu", "cores", "memory_bytes", "gpu"} == hardware().keys()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass1234@host/x", "https://***@host/x"),
        ("token=abcdef012345 x", "token=*** x"),
        ("use hf_abcdefghijklmnopqrstuv", "use ***"),
        ("learning_rate=0.001 key=value", "learning_rate=0.001 key=value"),
        ("beta=0.1 max_tokens=512", "beta=0.1 max_tokens=512"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_settings_are_not(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api_key = 'abcdef12'", "api_key = '***'"),
        ('{"WANDB_API_KEY": "abcdef12"}', '{"WANDB_API_KEY": "***"}'),
        ("+password: hunter22", "+password: ***"),
        ("client_secret=abcdef12", "client_secret=***"),
        ("+    token = 'abcdef12345'", "+    token = '***'"),
        ('DB_PASSWD="abcdef12"', 'DB_PASSWD="***"'),
        ("eos_token = '<|endoftext|>'", "eos_token = '<|endoftext|>'"),
        ("max_new_tokens: 1024", "max_new_tokens: 1024"),
        ("token = tokens[index]", "token = tokens[index]"),
        ("pad_token_id=12345678", "pad_token_id=12345678"),
        ("secret: 3", "secret: 3"),
    ],
)
def test_what_a_diff_assigns_to_a_secret_name_is_hidden(text, shown):
    assert redact(text, ()) == shown


def test_the_value_of_a_secret_variable_is_hidden_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    assert redact({"a": ["see correct horse battery!"]}) == {"a": ["see ***!"]}
