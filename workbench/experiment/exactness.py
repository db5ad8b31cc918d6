"""Whether a resume may go on to other bits: only where whoever runs it says so, and then the run is marked."""

from __future__ import annotations

import os

VARIABLE = "WORKBENCH_INEXACT"


def allow_inexact() -> None:
    """Let this process, and those it starts, resume under other libraries or threads."""
    os.environ[VARIABLE] = "1"


def inexact_allowed() -> bool:
    """Whether that was asked for."""
    return os.environ.get(VARIABLE) == "1"
