"""`make sync`: send the W&B runs that were kept offline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from workbench.tracking.sinks.wandb import unsent
from workbench.tracking.terminal import complain
from workbench.tracking.words import plural


def main(runs: Path) -> int:
    """Hand every unsent run to `wandb sync`; its exit code, the highest."""
    folders = unsent(runs)
    complain(f"to be sent from below {runs}: {plural(len(folders), 'W&B run')}")
    return max((subprocess.call([sys.executable, "-m", "wandb", "sync", str(folder)]) for folder in folders), default=0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
