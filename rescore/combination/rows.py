"""The rows of a table before tuning: the sources that a row combines, each with a fixed scale or a range to tune it in.

    row = RowSpec.parse("+ AR=am:1,ar,words:-2:2")
    row.fixed, row.free                                  # {"am": 1.0}, {"ar": (0.0, 3.0), "words": (-2.0, 2.0)}
    RowSpec.from_terms("+ AR", ["am:1", "ar"])           # the same row from a list of terms

A source without numbers is tuned in its default range: see `usual_range`.
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
"""Name of the oracle row, which every table has."""

FIRST = "first in list"
"""Name of the row that keeps the recogniser's order: with no scale at all, the first hypothesis wins."""


@dataclass(frozen=True)
class RowSpec:
    """A row: its name, its fixed scales, and the scales to tune with their ranges."""

    name: str
    fixed: Mapping[str, float]
    """Fixed scale of each source, as in `Scales.named`."""
    free: Mapping[str, Range]
    """Range (lowest, highest) of each source to tune."""

    @classmethod
    def parse(cls, text: str) -> RowSpec:
        """Parse `NAME=TERM,TERM,...`, with the terms of `from_terms`. ValueError for anything else."""
        name, equals, body = text.rpartition("=")
        if not equals or not name or not body:
            raise ValueError(f"row {text!r}; expected NAME=SOURCE:SCALE,SOURCE,... e.g. '+ AR=am:1,ar,words'")
        check_row_name(name)
        return cls.from_terms(name, body.split(","))

    @classmethod
    def from_terms(cls, name: str, terms: Sequence[str]) -> RowSpec:
        """The row with these terms. SOURCE:SCALE is fixed, SOURCE is tuned in its default range, SOURCE:LOW:HIGH in
        that range. ValueError for other terms, and for a source given twice."""
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
        """A note for each choice that follows only from the name of a source."""
        if self.free.get(PRIOR) != PRIOR_RANGE:
            return []
        low, high = PRIOR_RANGE
        return [
            f"row {self.name!r}: the scale of {PRIOR!r} is tuned within {low:g} ... {high:g}, as that of a score "
            f"that is divided out; {PRIOR}:LOW:HIGH in the row sets another range"
        ]


def usual_range(source: str) -> Range:
    """The default range of a scale: -10 ... 10 nats for words and tokens, -2 ... 0 for a score named "prior", else
    0 ... 3."""
    if source == WORDS or source.startswith(TOKENS):
        return COUNT_RANGE
    return PRIOR_RANGE if source == PRIOR else LM_RANGE


def with_first(rows: Sequence[RowSpec]) -> list[RowSpec]:
    """The rows, preceded by the row `FIRST` unless one of them has its name."""
    return [*([] if any(row.name == FIRST for row in rows) else [RowSpec(FIRST, {}, {})]), *rows]


def default_rows(given: Sequence[str], lms: Sequence[str]) -> list[RowSpec]:
    """Rows of the first score of the lists alone, of all their scores, and of these with each LM and each pair of LMs.

    `given`: the scores that the lists have, the acoustic one first. An LM is added to all of them, because a gain over
    the acoustic score alone says nothing about a recogniser that has used the others already. All scales but the
    acoustic one are tuned, with a word term.
    """
    if not given:
        raise ValueError("the lists have no scores; expected lists with a score of the recogniser, or rows of your own")
    acoustic, *others = given
    rows = [RowSpec(f"{acoustic} only", {acoustic: 1.0}, {})]

    def add(name: str, sources: Sequence[str]) -> None:
        free = {source: usual_range(source) for source in (*sources, WORDS)}
        rows.append(RowSpec(name, {acoustic: 1.0}, free))

    if others:
        add("all given scores", others)
    for size in (1, 2):
        for names in itertools.combinations(lms, size):
            add("+ " + " and ".join(names), (*others, *names))
    return rows


def unused_scores(rows: Sequence[RowSpec], names: Sequence[str]) -> list[str]:
    """The scores among `names` that no row uses, not even by their number of tokens."""
    used = {source.removeprefix(TOKENS) for row in rows for source in (*row.fixed, *row.free)}
    return [name for name in names if name not in used]


def check_row_name(name: str) -> None:
    """ValueError for the name of the oracle row, because the table would have two rows of that name."""
    if name == ORACLE:
        raise ValueError(
            f"a row is named {name!r}; expected another name (NAME=...): every table has a row {name!r} of its own"
        )


def check_rows(rows: Sequence[RowSpec], baseline: str, lms: Sequence[str], given: Sequence[str]) -> None:
    """ValueError for wrong names of LMs, rows, sources or the baseline, before anything is scored.

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
    """The name of a row as a file name."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
    return "_".join(part for part in kept.split("_") if part) or "row"


def _parse_term(name: str, term: str) -> tuple[str, list[float]]:
    """(source, list of zero, one or two numbers) of a term; the source may be `tokens:SOURCE`."""
    prefix = TOKENS if term.strip().startswith(TOKENS) else ""
    source, *numbers = term.strip().removeprefix(prefix).split(":")
    try:
        if len(numbers) <= 2:
            return prefix + source, [float(number) for number in numbers]
    except ValueError:
        pass
    raise ValueError(f"row {name!r}: {term!r}; expected SOURCE, SOURCE:SCALE or SOURCE:LOW:HIGH")
