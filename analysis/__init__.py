"""Run folders to tables, tables to claims, claims to a report. Reads what runs wrote and nothing else."""

from analysis.compare import ComparisonResult, compare
from analysis.load import Loaded, load_runs

__all__ = ["ComparisonResult", "Loaded", "compare", "load_runs"]
