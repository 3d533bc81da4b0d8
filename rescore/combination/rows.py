"""The rows of a table before they are tuned: which sources a row adds up, with scales that are given or with ranges to tune them in.

    row = RowSpec.parse("+ AR=am:1,ar,words:-2:2")
    row.fixed, row.free                                  # {"am": 1.0}, {"ar": (0.0, 3.0), "words": (-2.0, 2.0)}
    RowSpec.from_terms("+ AR", ["am:1", "ar"])           # the same from its terms

A source without numbers is tuned in its usual range: see `usual_range`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rescore.combination.line_search import Range
from rescore.combination.scales import TOKENS, WORDS

LM_RANGE: Range = (0.0, 3.0)
COUNT_RANGE: Range = (-10.0, 10.0)
PRIOR, PRIOR_RANGE = "prior", (-2.0, 0.0)

ORACLE = "oracle"
"""The name of the row that every table has anyway."""


@dataclass(frozen=True)
class RowSpec:
    """A row: its name, the scales that are given, and the scales to tune within their ranges."""

    name: str
    fixed: Mapping[str, float]
    """By source, as in `Scales.named`."""
    free: Mapping[str, Range]
    """By source: (lowest, highest)."""

    @classmethod
    def parse(cls, text: str) -> RowSpec:
        """`NAME=TERM,TERM,...`, with the terms of `from_terms`. ValueError for anything else."""
        name, equals, body = text.rpartition("=")
        if not equals or not name or not body:
            raise ValueError(f"row {text!r}; expected NAME=SOURCE:SCALE,SOURCE,... e.g. '+ AR=am:1,ar,words'")
        check_row_name(name)
        return cls.from_terms(name, body.split(","))

    @classmethod
    def from_terms(cls, name: str, terms: Sequence[str]) -> RowSpec:
        """SOURCE:SCALE is given, SOURCE tuned in its usual range, SOURCE:LOW:HIGH in a range of its own; each source once."""
        fixed: dict[str, float] = {}
        free: dict[str, Range] = {}
        for term in terms:
            source, numbers = _parse_term(name, term)
            if source in fixed or source in free:
                raise ValueError(f"row {name!r}: {source!r} is given twice; expected each source once")
            match numbers:
                case [scale]:
                    fixed[source] = scale
                case [low, high]:
                    free[source] = (low, high)
                case _:
                    free[source] = usual_range(source)
        return cls(name, fixed, free)

    def notes(self) -> list[str]:
        """What happens to the row by the name of a source alone."""
        if self.free.get(PRIOR) != PRIOR_RANGE:
            return []
        low, high = PRIOR_RANGE
        return [
            f"row {self.name!r}: the scale of {PRIOR!r} is tuned within {low:g} ... {high:g}, as that of a score that is "
            f"divided out; {PRIOR}:LOW:HIGH in the row sets another range"
        ]


def usual_range(source: str) -> Range:
    """Where a scale is tuned if no range is given: counts -10 ... 10 nats each, a score named "prior" -2 ... 0, others 0 ... 3."""
    if source == WORDS or source.startswith(TOKENS):
        return COUNT_RANGE
    return PRIOR_RANGE if source == PRIOR else LM_RANGE


def default_rows(acoustic: str, lms: Sequence[str]) -> list[RowSpec]:
    """The acoustic score alone, with each LM, and with each pair of LMs; a word term is tuned with every LM."""
    rows = [RowSpec(f"{acoustic} only", {acoustic: 1.0}, {})]
    for size in (1, 2):
        for names in itertools.combinations(lms, size):
            free = dict.fromkeys(names, LM_RANGE) | {WORDS: COUNT_RANGE}
            rows.append(RowSpec("+ " + " and ".join(names), {acoustic: 1.0}, free))
    return rows


def check_row_name(name: str) -> None:
    """ValueError for a name that a row of the table has anyway: a second row of it would pass for the first."""
    if name == ORACLE:
        raise ValueError(
            f"a row is named {name!r}; expected another name (NAME=...): every table has a row {name!r} of its own"
        )


def check_rows(rows: Sequence[RowSpec], baseline: str, lms: Sequence[str], given: Sequence[str]) -> None:
    """ValueError for what can be known to be wrong before anything is scored: names of LMs, rows, sources, the baseline.

    `given`: the names of the scores that the lists have.
    """
    for name in lms:
        if name == WORDS or not name.replace("-", "").replace("_", "").replace(".", "").replace("+", "").isalnum():
            raise ValueError(f"LM name {name!r}; expected letters, digits and - _ . +, and not {WORDS!r}")
        if name in given:
            raise ValueError(f"LM name {name!r} is that of a score in the lists; expected another one")
    files: dict[str, str] = {}
    for row in rows:
        if (other := files.setdefault(file_name(row.name), row.name)) != row.name:
            raise ValueError(f"rows {other!r} and {row.name!r} would have one scales file; expected other names")
        for source in (*row.fixed, *row.free):
            if source != WORDS and source.removeprefix(TOKENS) not in (*lms, *given):
                known = ", ".join((*given, *lms, WORDS))
                raise ValueError(f"row {row.name!r}: no score is named {source!r}; expected one of {known}")
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"row {twice!r} is given twice; expected different names")
    if baseline not in names:
        raise ValueError(f"the baseline {baseline!r} is not a row; expected one of {', '.join(names)}")


def file_name(name: str) -> str:
    """A row's name as a file name."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
    return "_".join(part for part in kept.split("_") if part) or "row"


def _parse_term(name: str, term: str) -> tuple[str, list[float]]:
    """(source, no, one or two numbers); a source may be `tokens:SOURCE`."""
    prefix = TOKENS if term.strip().startswith(TOKENS) else ""
    source, *numbers = term.strip().removeprefix(prefix).split(":")
    try:
        if len(numbers) <= 2:
            return prefix + source, [float(number) for number in numbers]
    except ValueError:
        pass
    raise ValueError(f"row {name!r}: {term!r}; expected SOURCE, SOURCE:SCALE or SOURCE:LOW:HIGH")
