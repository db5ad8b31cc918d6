"""Text that is learned token by token, as in pretraining."""

from __future__ import annotations

from workbench.data.formats import Example
from workbench.data.forms.base import DataForm
from workbench.data.forms.rows import Rows


class PlainText(Rows):
    """Rows like SFT's, of which every token is learned; what is too long is divided."""

    name = "text"
    sources = DataForm.sources
    sources_text = DataForm.sources_text
    every_token = True

    def longest_text(self, example: Example) -> int:
        """What max_tokens divides is never too long for it."""
        return 0


TEXT = PlainText()
