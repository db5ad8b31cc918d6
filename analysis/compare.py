"""Runs compared from Python: what the report's tables and answer say, as DataFrames and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.load import Loaded
from workbench.errors import DefinitionError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.study import Study


@dataclass(frozen=True)
class ComparisonResult:
    """What may be said of some runs by one measure."""

    study: Study
    measure: str
    results: pd.DataFrame
    """A row a setting: variant, group, mean, low, high (95 %), finished_seeds, values of every seed, start."""
    tests: pd.DataFrame
    """A row for every two settings of a group: difference (first less second), low, high, t, df, p_welch, p_holm,
    p_permutation and the least that it could be."""
    answer: str
    refusals: list[str]
    """What is not compared with what, and why."""
    unfinished: list[str]
    """The runs that did not finish."""

    def write(self, folder: Path | str) -> Path:
        """The whole report, written to folder; returns its page."""
        from analysis.report.pages import write

        return write(self.study, Path(folder))

    def __str__(self) -> str:
        shown = self.results[["variant", "mean", "low", "high", "finished_seeds"]].to_string(index=False)
        return "\n".join([self.answer, *self.unfinished, *self.refusals, "", f"{self.measure}:", shown])


def compare(
    runs: Loaded | str | Path | Sequence[str], measure: str | None = None, *, root: Path | str = "runs"
) -> ComparisonResult:
    """Compare loaded runs, or experiments of the folder root by name, by a held-out measure (default: what decides).

    Raises DefinitionError where there are no runs, or where no run has the measure.
    """
    from dataclasses import replace

    import pandas as pd

    from analysis.inference import claims, comparability, harms, leaks, searched
    from analysis.inference.left_out import unfinished
    from analysis.measures import OUTCOMES
    from analysis.report.sections import comparisons, results
    from analysis.study import open_studies, open_study, study_of

    if isinstance(runs, Loaded):
        study = study_of(runs)
    else:
        names = [str(runs)] if isinstance(runs, str | Path) else list(dict.fromkeys(runs))
        if not names:
            raise DefinitionError("compare: name at least one experiment")
        folders = [Path(root) / name for name in names]
        study = open_study(folders[0]) if len(folders) == 1 else open_studies(folders)
    able = {outcome.column: outcome for outcome in (*OUTCOMES, *study.of_samples) if study.has(outcome.column)}
    if measure is not None and measure not in able:
        raise DefinitionError(
            f"compare: no run has {measure}; allowed {', '.join(able) or 'none: nothing was measured'}"
        )
    if measure is not None:
        study = replace(study, deciding=able[measure])
    column = study.deciding.column if study.deciding else ""
    rows = pd.DataFrame([row for row in results.table(study).plain if row["measure"] == column])
    pairs = claims.compare_all(study, study.deciding) if study.deciding else []
    tests = comparisons.table(pairs, study.deciding).plain if pairs and study.deciding else []
    answer = searched.qualified(study, claims.answer(study))
    answer = harms.qualified(study, leaks.qualified(study, answer))
    return ComparisonResult(
        study,
        column,
        rows.drop(columns=["measure", "unit"], errors="ignore"),
        pd.DataFrame(list(tests)),
        f"{answer.result} {answer.certainty}",
        comparability.refusals(study),
        unfinished(study),
    )
