"""No error is told without a word."""

from __future__ import annotations

import pytest

from workbench import errors
from workbench.errors import StorageError, WorkbenchError, describe_error

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WorkbenchError)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.Interrupted])
@pytest.mark.parametrize("text", ["", " \n"])
def test_an_error_that_was_given_no_words_has_some(kind, text):
    assert str(kind(text)).startswith(kind.__name__)
    assert str(kind("why")) == "why"


def test_an_error_without_words_names_what_it_came_from():
    def fail() -> None:
        try:
            raise KeyError("rows")
        except KeyError as error:
            raise StorageError("") from error

    with pytest.raises(StorageError, match="StorageError after 'rows'"):
        fail()


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(28, "No space left on device", "x"), "No space left on device"), (OSError("torn"), "torn"),
     (OSError(), "OSError"), (AssertionError(), "AssertionError"), (ValueError("a\nb"), "a")],
)  # fmt: skip
def test_what_an_error_says_is_one_line_and_never_nothing(error, told):
    assert describe_error(error) == told
