"""The result of a rescoring: the table and the data that it was made from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rescore.combination.scales import Scales, winners
from rescore.combination.tuning import TuneResult
from rescore.nbest.types import NBestList
from rescore.report.table import ResultTable
from rescore.wer import ErrorTable, IntArray, error_table


@dataclass(frozen=True)
class RescoreResult:
    """The table, and the scales and lists that it was made from."""

    table: ResultTable
    """WER of all rows on the lists to test on."""
    tuned: Mapping[str, TuneResult]
    """Result of the tuning of each row; rows with fixed scales have none."""
    scales: Mapping[str, Scales]
    """Scales of each row, tuned or fixed."""
    tune_lists: list[NBestList]
    test_lists: list[NBestList]
    """Lists to tune and to test on, with the scores of all LMs."""
    notes: tuple[str, ...] = ()
    """Notes for the user: results that existed already, and choices that follow from the names of sources."""
    seed: int = 1
    """Seed of the bootstrap."""
    groups: Sequence[Hashable] | None = None
    """Speaker of each utterance to test on, for the block bootstrap; None: utterances are drawn one by one."""

    @cached_property
    def errors(self) -> ErrorTable:
        """Word errors of every hypothesis to test on."""
        return error_table(self.test_lists)

    @cached_property
    def winners(self) -> dict[str, IntArray]:
        """[utterances] by row: the index of its winner in each list to test on."""
        return {row: winners(self.test_lists, scales) for row, scales in self.scales.items()}
