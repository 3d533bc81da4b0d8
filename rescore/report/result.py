"""The result of a rescoring: the table, and what led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rescore.combination.scales import Scales
from rescore.combination.tuning import TuneResult
from rescore.nbest.types import NBestList
from rescore.report.table import ResultTable


@dataclass(frozen=True)
class RescoreResult:
    """The table, and what led to it."""

    table: ResultTable
    tuned: Mapping[str, TuneResult]
    """By row; rows with given scales have none."""
    scales: Mapping[str, Scales]
    """By row, tuned or given."""
    tune_lists: list[NBestList]
    test_lists: list[NBestList]
    """Both with the scores of all LMs."""
    notes: tuple[str, ...] = ()
    """What was there already, and what follows from names alone."""
