"""What whoever runs a command allows of what is otherwise refused: a value that is passed to what asks for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Permissions:
    """What was allowed; by default nothing."""

    reward_code: bool = False
    """Python files that are rewards may run, with the rights of whoever runs the command."""
    inexact: bool = False
    """A run may resume under other code, libraries or threads; it is then marked."""

    @classmethod
    def of_environment(cls) -> Permissions:
        """What the variables WORKBENCH_REWARD_CODE and WORKBENCH_INEXACT allow, each by being 1."""
        return cls(**{field.name: os.environ.get(f"WORKBENCH_{field.name.upper()}") == "1" for field in fields(cls)})


NOTHING = Permissions()
"""What is allowed where nobody said anything."""
