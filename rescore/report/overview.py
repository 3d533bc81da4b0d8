"""The WER tables of several sets side by side, with one column per set.

    overview = read_overview(["dev-other=dev-other.json", "test-other=test-other.json"], tuned_on="dev-other")
    print(overview.to_markdown()); overview.save("overview.csv")

The tables are .json files of `ResultTable.save` and must have the same rows. Each WER is followed by its change against
the baseline of its table, if there is one. The other columns are not shown.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rescore.report.escaping import escape_latex, escape_markdown, latex_comment
from rescore.report.table import table_suffix
from returnn_bridge.files import PathLike, quoted, read_json, write_text

_TUNED = "*"


@dataclass(frozen=True)
class Overview:
    """WER in percent by row and set."""

    title: str
    """Heading of the table."""
    tables: Mapping[str, Mapping[str, Any]]
    """The tables, as read from JSON, by set."""
    tuned_on: str = ""
    """The set that the scales were tuned on, whose WER is therefore too low."""

    @property
    def rows(self) -> list[str]:
        """The names of the rows, which are equal in all tables."""
        return [row["system"] for row in next(iter(self.tables.values()))["rows"]]

    def wer_percent(self, name: str) -> list[float | None]:
        """WER in percent of one row for each set."""
        return [_row(table, name)["wer_percent"] for table in self.tables.values()]

    def footnotes(self) -> list[str]:
        """Footnotes that explain the numbers."""
        words = ", ".join(f"{name} {table['rows'][0]['reference_words']:,}" for name, table in self.tables.items())
        notes = [f"WER: all word errors over all reference words ({words})."]
        first = next(iter(self.tables.values()))
        if first.get("baseline"):
            notes.append(
                f"Brackets: points of WER against “{first['baseline']}”; bold where the 95 % interval of a "
                "paired bootstrap excludes 0."
            )
        if self.tuned_on:
            notes.append(f"{_TUNED} The scales were tuned on {self.tuned_on}: its column is a fit, the others are not.")
        return notes

    def to_markdown(self) -> str:
        """A pipe table with footnotes."""
        body = []
        for name in self.rows:
            cells = []
            for table in self.tables.values():
                row = _row(table, name)
                text = _number(row["wer_percent"])
                change = row.get("change_difference")
                if change is not None:
                    certain = row["change_low"] * row["change_high"] > 0
                    text += f" (**{change:+.2f}**)" if certain else f" ({change:+.2f})"
                cells.append(text)
            body.append("| " + " | ".join([escape_markdown(name), *cells]) + " |")
        head = "| " + " | ".join(["system", *self._columns(escape_markdown, _TUNED)]) + " |"
        rule = "|---|" + "---:|" * len(self.tables)
        notes = [f"- {escape_markdown(note)}" for note in self.footnotes()]
        return "\n".join([f"### {escape_markdown(self.title)}", "", head, rule, *body, "", *notes, ""])

    def to_csv(self) -> str:
        """One line per row, with all digits."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["system", *self.tables])
        for name in self.rows:
            writer.writerow([name, *("" if value is None else value for value in self.wer_percent(name))])
        return stream.getvalue()

    def to_latex(self) -> str:
        """A `tabular` for the booktabs package."""
        rows = [" & ".join([escape_latex(name), *map(_number, self.wer_percent(name))]) + r" \\" for name in self.rows]
        head = " & ".join(["system", *self._columns(escape_latex, escape_latex(_TUNED))]) + r" \\"
        comments = [latex_comment(note) for note in [self.title, *self.footnotes()]]
        start = [rf"\begin{{tabular}}{{l{'r' * len(self.tables)}}}", r"\toprule", head, r"\midrule"]
        return "\n".join([*comments, *start, *rows, r"\bottomrule", r"\end{tabular}", ""])

    def to_json(self) -> str:
        """The complete tables by set."""
        content = {"title": self.title, "tuned_on": self.tuned_on or None, "tables": dict(self.tables)}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def save(self, path: PathLike) -> None:
        """Write the overview atomically, in the format of the suffix (.md, .csv, .json, .tex)."""
        writers = {".md": self.to_markdown, ".csv": self.to_csv, ".json": self.to_json, ".tex": self.to_latex}
        write_text(path, writers[table_suffix(path)]())

    def _columns(self, escape: Callable[[str], str], mark: str) -> list[str]:
        return [escape(name) + (mark if name == self.tuned_on else "") for name in self.tables]


def read_overview(tables: Sequence[str], *, title: str = "WER %", tuned_on: str = "") -> Overview:
    """Read tables given as SET=FILE. ValueError for a file that is not a table, a set given twice, or rows that
    differ."""
    found: dict[str, Mapping[str, Any]] = {}
    paths: dict[str, str] = {}
    for item in tables:
        name, equals, path = item.partition("=")
        if not equals or not name or not path:
            raise ValueError(f"table {item!r}; expected SET=FILE, such as test-other=wer.json")
        if name in found:
            raise ValueError(f"table {item!r}: set {name!r} is given twice; expected each set once")
        found[name], paths[name] = _read_table(path), path
    first = next(iter(found))
    for name, table in found.items():
        for what, got, expected in (
            ("rows", _names(table), _names(found[first])),
            ("baseline", table.get("baseline"), found[first].get("baseline")),
        ):
            if got != expected:
                raise ValueError(
                    f"{paths[name]}: {name} has the {what} {quoted(got)}; "
                    f"expected those of {first} ({paths[first]}): {quoted(expected)}"
                )
    if tuned_on and tuned_on not in found:
        raise ValueError(f"tuned on {tuned_on!r}; expected one of the sets {', '.join(found)}")
    return Overview(title, found, tuned_on)


def _names(table: Mapping[str, Any]) -> list[str]:
    return [row["system"] for row in table["rows"]]


def _read_table(path: str) -> Mapping[str, Any]:
    table = read_json(path, "a table that `dlm wer` or `dlm rescore` wrote as .json")
    rows = table.get("rows") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not rows or not all(map(_is_row, rows)):
        raise ValueError(f"{path}: no table of results; expected a .json that `dlm wer` or `dlm rescore` wrote")
    names = _names(table)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: two rows are named {quoted(twice[0])}; expected different names")
    return table


def _is_row(row: object) -> bool:
    """Whether a value has the fields of a row that are printed, with the right types."""
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("system"), str)
        or type(row.get("reference_words")) is not int
    ):
        return False
    changes = [row.get(f"change_{name}") for name in ("difference", "low", "high")]
    complete = all(value is None for value in changes) or None not in changes
    numbers = [value for value in (row.get("wer_percent", ""), *changes) if value is not None]
    return complete and all(isinstance(value, float | int) for value in numbers)


def _row(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(row for row in table["rows"] if row["system"] == name)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
