"""`make sync`: send the W&B runs that were kept offline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from workbench.terminal import complain
from workbench.tracking.sinks.wandb import unsent


def main(runs: Path) -> int:
    """Hand every unsent run to `wandb sync`; its exit code, the highest."""
    folders = unsent(runs)
    are = "run is" if len(folders) == 1 else "runs are"
    complain(f"{len(folders)} W&B {are} to be sent from below {runs}")
    return max((subprocess.call([sys.executable, "-m", "wandb", "sync", str(folder)]) for folder in folders), default=0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
