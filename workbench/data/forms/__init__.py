"""The forms of training data, by name."""

from workbench.data.formats import Format
from workbench.data.forms.base import DataForm
from workbench.data.forms.pairs import PAIRS, PAIRS_WITH_MARGINS
from workbench.data.forms.prompts import PROMPTS
from workbench.data.forms.rows import ROWS
from workbench.data.forms.text import TEXT
from workbench.data.forms.unpaired import UNPAIRED
from workbench.errors import DefinitionError

FORMS = {form.name: form for form in (ROWS, TEXT, PAIRS, PAIRS_WITH_MARGINS, PROMPTS, UNPAIRED)}

__all__ = [
    "FORMS",
    "PAIRS",
    "PAIRS_WITH_MARGINS",
    "PROMPTS",
    "ROWS",
    "TEXT",
    "UNPAIRED",
    "DataForm",
    "form_named",
    "form_of",
]


def form_named(name: str, where: str) -> DataForm:
    """The form of that name. DefinitionError tells what is allowed. where: who names it."""
    if name not in FORMS:
        raise DefinitionError(f"{where}: data_form is {name!r}, allowed {', '.join(FORMS)}, or a DataForm itself")
    return FORMS[name]


def form_of(rows: Format) -> DataForm:
    """The first form that rows of a file format serve."""
    return next(form for form in FORMS.values() if rows in form.wanted.formats)
