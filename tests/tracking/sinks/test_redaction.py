"""Secrets by value, by name and in URLs; and what only looks like one."""

from __future__ import annotations

import pytest

from workbench.redaction import redact, secret_values


def test_secrets_are_found_by_the_names_of_their_variables() -> None:
    environment = {"WANDB_API_KEY": "k" * 40, "HF_TOKEN": "hf_abcdefgh", "TOKENIZERS_PARALLELISM": "whatever1"}
    assert secret_values(environment | {"SSH_KEY": "1", "HOME": "/home/me/and/more"}) == ("k" * 40, "hf_abcdefgh")


@pytest.mark.parametrize("name", ["api_key", "password", "token", "hf_token", "client_secret", "auth_token"])
def test_what_a_secret_name_holds_is_hidden(name: str) -> None:
    assert redact({"deep": [{name: "anything"}]}, ()) == {"deep": [{name: "***"}]}


@pytest.mark.parametrize(
    "name", ["num_tokens", "max_new_tokens", "pad_token", "trained_tokens", "tokens", "key_frames"]
)
def test_settings_about_tokens_are_not_secrets(name: str) -> None:
    assert redact({name: 5}, ()) == {name: 5}


def test_user_and_password_leave_urls_and_numbers_stay() -> None:
    plain = {"url": "https://me:pw@host/x", "mail": "me@host", "beta": 0.1, "on": True, "none": None}
    assert redact(plain, ()) == plain | {"url": "https://***@host/x"}
