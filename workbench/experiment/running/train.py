"""One planned run, trained in this process, or in the processes of a job: what every launcher starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import DefinitionError
from workbench.experiment.running import processes
from workbench.experiment.running.planned_run import planned_key, read_planned
from workbench.experiment.running.prepared import PreparedRun
from workbench.experiment.running.provenance import collect_provenance
from workbench.experiment.running.run_folder import RunFolder
from workbench.permissions import Permissions


def warm_up() -> None:
    """Load what training a run needs, once, for all processes that are forked to train one."""
    import workbench.experiment.running.run
    import workbench.experiment.running.score_again  # noqa: F401

    processes.warm_up()


def train_run(prepared: PreparedRun, runs: Path, provenance: Mapping[str, Any], permissions: Permissions) -> None:
    """Train the run to its end, or score it again where that is what was planned. Raises WorkbenchError, which its
    status tells too."""
    # Only here, so that the command that names a run wrongly does not load torch first.
    from workbench.experiment.running.run import execute
    from workbench.experiment.running.score_again import score_again
    from workbench.trainer.machine.distributed import is_distributed

    if not prepared.scores_again:
        execute(prepared, runs, provenance, permissions)
    elif is_distributed():
        raise DefinitionError(f"{prepared.spec.key}: is scored again, not trained, which one process does by itself")
    else:
        score_again(prepared, runs, provenance)


def train_named(named: str, runs: Path, permissions: Permissions) -> tuple[str, str]:
    """`workbench train`: train the planned run of that name in this process, one of its job where torchrun started it;
    returns its key, and how it stands."""
    prepared = read_planned(runs, key := planned_key(runs, named))
    processes.set_environment()
    processes.work_alone(prepared.spec.threads)
    train_run(prepared, runs, collect_provenance(Path.cwd()), permissions)
    return key, RunFolder(runs, key).status()["state"]
