"""The table of results, with one row for each set of scales, as Markdown, CSV, JSON or LaTeX.

    rows = evaluate(test_lists, {"first pass": first, "+ masked LM": tuned.scales}, baseline="first pass", seed=1)
    table = ResultTable("test", rows, baseline="first pass", scales_from="tuned on dev", metadata={"seed": 1})
    print(table.to_markdown()); table.save("results.csv")

The WER is that of the corpus. Numbers that need an explanation (bound or exact, the meaning of the standard error, the
origin of the scales) have footnotes, which appear only if the table holds such numbers.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from math import nan, sqrt
from typing import Any

from rescore.combination.rows import ORACLE, check_row_name
from rescore.combination.scales import Scales, winners
from rescore.nbest.types import NBestList
from rescore.report.escaping import escape_latex, escape_markdown, latex_comment
from rescore.scores import Target, UnknownCounts
from rescore.wer import BootstrapResult, ErrorCounts, ErrorTable, IntArray, error_table, paired_bootstrap, wer_interval
from returnn_bridge.files import PathLike, write_text

TABLE_SUFFIXES = (".md", ".csv", ".json", ".tex")
BOUND_MARK, OTHER_MARK = "†", "‡"


@dataclass(frozen=True, slots=True)
class Row:
    """The results of one set of scales on one set of lists. Numbers that do not exist are None."""

    name: str
    """Name that is printed."""
    errors: ErrorCounts
    """Word errors of its winners."""
    scales: Scales | None = None
    """Scales of the row; None for the oracle, which does not use scales."""
    wer_standard_error: float | None = None
    """Standard error of the WER over the choice of utterances (bootstrap), in percentage points."""
    change: BootstrapResult | None = None
    """Change against the baseline of the table."""
    targets: tuple[Target, ...] = ()
    """Targets of the LM scores, as far as they are recorded in the lists."""
    score_standard_error: float | None = None
    """Standard error in nats of the unscaled sum of the LM scores of a hypothesis, from the estimation; mean over
    hypotheses."""
    passes_per_hypothesis: float | None = None
    """Network passes for the LM scores of a hypothesis; mean over hypotheses."""
    seconds: float | None = None
    """Time to score the lists with the LMs of this row."""


def evaluate(
    lists: Sequence[NBestList],
    rows: Mapping[str, Scales],
    *,
    baseline: str,
    seed: int,
    seconds: Mapping[str, float] | None = None,
    groups: Sequence[Hashable] | None = None,
    table: ErrorTable | None = None,
) -> list[Row]:
    """Measure the rows. The result has them in order, followed by the oracle.

    `rows`: scales by name. `baseline`: the row that changes are measured against. `seconds`: time by row, measured by
    the caller. `groups`: the speaker of each utterance, for the block bootstrap. `table`: the error table of the lists,
    if it has been computed. Standard errors, passes and targets are taken from the details of the scores
    (`standard_error`, `num_passes`, `target`). With one utterance, or one group, there is nothing to draw from, so the
    rows have neither standard errors nor changes. ValueError for a row with the name of the oracle, and for references
    without words.
    """
    for name in rows:
        check_row_name(name)
    if baseline not in rows:
        raise ValueError(f"the baseline {baseline!r} is not among the rows; expected one of {', '.join(rows)}")
    seconds = seconds or {}
    unknown = [name for name in seconds if name not in rows]
    if unknown:
        raise ValueError(f"seconds given for {unknown[0]!r}; expected one of the rows {', '.join(rows)}")
    table = error_table(lists) if table is None else table
    if not table.reference_words.sum():
        raise ValueError("the references have no words; expected some to count errors against")
    best = {name: winners(lists, scales) for name, scales in rows.items()}
    before = table.errors_of(best[baseline])

    several = len(set(table.seq_tags if groups is None else groups)) > 1

    def change(after: IntArray) -> BootstrapResult | None:
        if not several:
            return None
        return paired_bootstrap(before, after, table.reference_words, seed=seed, groups=groups)

    def deviation(errors: IntArray) -> float | None:
        if not several:
            return None
        return wer_interval(errors, table.reference_words, seed=seed, groups=groups).standard_error

    measured = []
    for name, scales in rows.items():
        errors = table.errors_of(best[name])
        measured.append(
            Row(
                name,
                table.corpus(best[name]),
                scales,
                deviation(errors),
                None if name == baseline else change(errors),
                seconds=seconds.get(name),
                **_measured(lists, [source for source, scale in scales.scores.items() if scale]),
            )
        )
    errors = table.errors_of(table.oracle_winners())
    measured.append(Row(ORACLE, table.oracle(), None, deviation(errors), change(errors)))
    return measured


def _measured(lists: Sequence[NBestList], sources: Sequence[str]) -> dict[str, Any]:
    """The fields targets, score_standard_error and passes_per_hypothesis of a row, from the details of its sources."""
    targets: dict[Target, None] = {}
    errors, passes = [], []
    for utterance in lists:
        for hypothesis in utterance.hypotheses:
            details = [hypothesis.details[source] for source in sources if source in hypothesis.details]
            targets |= dict.fromkeys(Target(detail["target"]) for detail in details if "target" in detail)
            squares = [_number(detail["standard_error"]) ** 2 for detail in details if "standard_error" in detail]
            counts = [_number(detail["num_passes"]) for detail in details if "num_passes" in detail]
            errors += [sqrt(sum(squares))] if squares else []
            passes += [sum(counts)] if counts else []
    return {
        "targets": tuple(targets),
        "score_standard_error": sum(errors) / len(errors) if errors else None,
        "passes_per_hypothesis": sum(passes) / len(passes) if passes else None,
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else nan


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows on the same lists, with the information that is needed to understand and reproduce them."""

    title: str
    """Heading of the table."""
    rows: Sequence[Row]
    """Rows in the order in which they are printed."""
    baseline: str = ""
    """The row that changes are measured against."""
    scales_from: str = "as given"
    """Origin of the scales, such as "tuned on dev"."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Information to reproduce the table (files, seed, command, versions), as values for JSON."""
    unknown: Mapping[str, UnknownCounts] = field(default_factory=dict)
    """Unknown words or tokens of these lists by LM, if they were recorded."""
    never: Mapping[str, int] = field(default_factory=dict)
    """Number of hypotheses with a score of -inf by source (`never_chosen`)."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError(f"the table {self.title!r} has no rows; expected at least one")
        names = [row.name for row in self.rows]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the table {self.title!r} has two rows named {twice[0]!r}; expected different names")
        if self.baseline and self.baseline not in names:
            raise ValueError(f"the baseline {self.baseline!r} is not in the table; expected one of {', '.join(names)}")
        if any(row.change for row in self.rows) and not self.baseline:
            raise ValueError("rows hold changes, and no baseline is named; expected the name of its row")
        words = {row.errors.reference_words for row in self.rows}
        if len(words) > 1:
            raise ValueError(f"the rows have {sorted(words)} reference words; expected the same lists in all rows")

    def cells(self) -> tuple[list[Column], list[list[str]]]:
        """The columns that are not empty, and the text of their cells by row."""
        columns = [column for column in _columns(self.baseline) if any(column.text(row) for row in self.rows)]
        return columns, [[column.text(row) for column in columns] for row in self.rows]

    def footnotes(self) -> list[str]:
        """Footnotes of one or two sentences that explain the numbers."""
        rows, words = self.rows, self.rows[0].errors.reference_words
        notes = [f"WER: all word errors (S, D, I) over all {words:,} reference words."]
        if any(row.wer_standard_error is not None for row in rows):
            notes.append("±: standard error of the WER, in points, from the choice of utterances (bootstrap).")
        if any(row.change for row in rows):
            notes.append(
                f"Change: points of WER against “{self.baseline}”, with the 95 % interval of a paired bootstrap. "
                "The interval is about the choice of utterances; it does not cover the choice of scales or of the "
                "training run."
            )
        if any(row.scales for row in rows):
            notes.append(f"Scales: {self.scales_from}.")
        if any(row.scales and row.scales.posterior is not None for row in rows):
            notes.append(
                "A row with a posterior picks the hypothesis with the fewest expected word errors (minimum Bayes risk)."
            )
        targets = dict.fromkeys(target for row in rows for target in row.targets)
        if any(target.is_bound for target in targets):
            notes.append(f"{BOUND_MARK} An LM score is an estimate of a lower bound on the log-probability.")
        if others := [target for target in targets if target.is_other]:
            notes.append(
                f"{OTHER_MARK} An LM score is no log-probability and no bound of one, but: {', '.join(others)}."
            )
        if any(row.score_standard_error for row in rows):
            notes.append(
                "LM s.e.: standard error of a hypothesis's LM score (nats, before its scale) from the random masks or "
                "noise of its estimation, mean over hypotheses."
            )
        if any(row.passes_per_hypothesis for row in rows):
            notes.append("Passes: evaluations of the network for each hypothesis, mean over hypotheses.")
        if any(row.seconds is not None for row in rows):
            notes.append("Time: scoring these lists with the LMs of the row, as measured in this run.")
        if any(row.scales is None for row in rows):
            notes.append(
                "A row without scales picks by the reference: no ranking of these lists can do better than the oracle."
            )
        if self.unknown:
            notes.append(
                f"Unknown to the LMs: {'; '.join(f'{name}, {value}' for name, value in self.unknown.items())}."
            )
        if self.never:
            counts = ", ".join(f"{count:,} of {name}" for name, count in self.never.items())
            notes.append(f"Scores of -inf: {counts}. Rows that use the source never choose these hypotheses.")
        return [*notes, *(f"Warning: {warning}." for warning in self.warnings())]

    def warnings(self) -> list[str]:
        """A line for each row that uses an LM which does not know most of the words."""
        return [
            f"row “{row.name}”: {name} does not know most words of these lists ({self.unknown[name]}), "
            "so its score says little but how many there are; expected lists in the case of its training text"
            for row in self.rows
            for name, scale in (row.scales.scores if row.scales else {}).items()
            if scale and name in self.unknown and self.unknown[name].most
        ]

    def to_markdown(self) -> str:
        """A pipe table with title and footnotes; numbers are right-aligned."""
        columns, cells = self.cells()
        texts = [[escape_markdown(cell) for cell in row] for row in [[column.title for column in columns], *cells]]
        widths = [max(map(len, column)) for column in zip(*texts)]
        lines = [
            "| " + " | ".join(_pad(cell, width, column) for cell, width, column in zip(row, widths, columns)) + " |"
            for row in texts
        ]
        rule = ["-" * (width + 1) + (":" if column.is_number else "-") for width, column in zip(widths, columns)]
        lines.insert(1, "|" + "|".join(rule) + "|")
        notes = [f"- {escape_markdown(note)}" for note in self.footnotes()]
        return "\n".join([f"### {escape_markdown(self.title)}", "", *lines, "", *notes, ""])

    def to_latex(self) -> str:
        """A `tabular` for the booktabs package, with footnotes as comments."""
        columns, cells = self.cells()
        head, *body = (
            " & ".join(escape_latex(cell) for cell in row) + r" \\"
            for row in [[column.title for column in columns], *cells]
        )
        comments = [latex_comment(note) for note in [self.title, *self.footnotes()]]
        layout = "".join("r" if column.is_number else "l" for column in columns)
        start = [rf"\begin{{tabular}}{{{layout}}}", r"\toprule", head, r"\midrule"]
        return "\n".join([*comments, *start, *body, r"\bottomrule", r"\end{tabular}", ""])

    def to_csv(self) -> str:
        """One line per row, with all digits of all numbers, and empty fields for missing ones."""
        stream = io.StringIO()
        records = [_record(row) for row in self.rows]
        for record in records:
            record["scales"] = "" if record["scales"] is None else json.dumps(record["scales"])
        writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return stream.getvalue()

    def to_json(self) -> str:
        """Title, rows, footnotes and metadata, with all digits of all numbers."""
        content = {
            "title": self.title,
            "baseline": self.baseline or None,
            "scales_from": self.scales_from,
            "rows": [_record(row) for row in self.rows],
            "footnotes": self.footnotes(),
            "unknown": {name: asdict(value) for name, value in self.unknown.items()},
            **({"never_chosen": dict(self.never)} if self.never else {}),
            "metadata": dict(self.metadata),
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: PathLike) -> None:
        """Write the table atomically, in the format of the suffix (.md, .csv, .json, .tex)."""
        writers = {".md": self.to_markdown, ".csv": self.to_csv, ".json": self.to_json, ".tex": self.to_latex}
        write_text(path, writers[table_suffix(path)]())


def table_suffix(path: PathLike) -> str:
    """The suffix of a table to be written. ValueError for an unknown one."""
    suffix = os.path.splitext(os.fspath(path))[1]
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(
            f"{os.fspath(path)}: unknown table format; expected a name ending in {', '.join(TABLE_SUFFIXES)}"
        )
    return suffix


class ColumnKind(Enum):
    """The kind of a column, because some outputs format kinds differently."""

    NAME = "name"
    TEXT = "text"
    NUMBER = "number"
    ERROR_RATE = "error rate"
    """The WER; the lowest value is the best."""
    CHANGE = "change"
    """The change of the WER against the baseline, with its interval."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the printed table."""

    title: str
    """Heading of the column."""
    text: Callable[[Row], str]
    """Returns the cell of a row; "" if the row has no such number."""
    kind: ColumnKind = ColumnKind.NUMBER
    """What its cells are."""

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers, which are right-aligned."""
        return self.kind not in (ColumnKind.NAME, ColumnKind.TEXT)


def format_scales(scales: Scales) -> str:
    """The scales as text, such as "am 1, masked 0.62, words -0.5"."""
    posterior = {} if scales.posterior is None else {"posterior": scales.posterior}
    return ", ".join(f"{name} {value:.3g}" for name, value in {**scales.named(), **posterior}.items())


def _columns(baseline: str) -> list[Column]:
    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    def change(row: Row) -> str:
        found = row.change
        return f"{found.difference_percent:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" if found else ""

    return [
        Column("system", lambda row: row.name + _marks(row), ColumnKind.NAME),
        Column("WER %", lambda row: number(row.errors.wer_percent, 2), ColumnKind.ERROR_RATE),
        Column("±", lambda row: number(row.wer_standard_error, 2)),
        Column("S", lambda row: str(row.errors.substitutions)),
        Column("D", lambda row: str(row.errors.deletions)),
        Column("I", lambda row: str(row.errors.insertions)),
        Column(f"change vs {baseline} [95 %]", change, ColumnKind.CHANGE),
        Column("scales", lambda row: format_scales(row.scales) if row.scales else "", ColumnKind.TEXT),
        Column("LM s.e.", lambda row: number(row.score_standard_error, 2)),
        Column("passes", lambda row: number(row.passes_per_hypothesis, 1).removesuffix(".0")),
        Column("time", lambda row: "" if row.seconds is None else _format_seconds(row.seconds)),
    ]


def _marks(row: Row) -> str:
    bound = f" {BOUND_MARK}" if any(target.is_bound for target in row.targets) else ""
    return bound + (f" {OTHER_MARK}" if any(target.is_other for target in row.targets) else "")


def _format_seconds(seconds: float) -> str:
    if seconds < 100.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60.0:.1f} min" if seconds < 6000.0 else f"{seconds / 3600.0:.1f} h"


def _record(row: Row) -> dict[str, Any]:
    """The row as a flat dict, except that the scales are a nested dict."""
    change = asdict(row.change) if row.change else dict.fromkeys(BootstrapResult.__slots__)
    return {
        "system": row.name,
        "wer_percent": row.errors.wer_percent,
        "wer_standard_error": row.wer_standard_error,
        **asdict(row.errors),
        **{f"change_{name.removesuffix('_percent')}": value for name, value in change.items()},
        "scales": row.scales.to_json() if row.scales else None,
        "targets": list(row.targets),
        "score_standard_error": row.score_standard_error,
        "passes_per_hypothesis": row.passes_per_hypothesis,
        "seconds": row.seconds,
    }


def _pad(cell: str, width: int, column: Column) -> str:
    return cell.rjust(width) if column.is_number else cell.ljust(width)
