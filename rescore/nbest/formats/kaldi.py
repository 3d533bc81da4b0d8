"""Kaldi's N-best lists: a folder with text archives that are keyed by `utterance-N`, N from 1.

    lists/words_text    dev-1-1 he hoped there would be stew
    lists/acwt          dev-1-1 5120.7
    lists/lmwt          dev-1-1 34.12

`lattice-to-nbest` and `nbest-to-linear` write such archives (as in steps/rnnlmrescore.sh). They hold costs, negated
log-probabilities: `acwt` is the score am, `lmwt` is lm, and `lmwt.NAME` or `acwt.NAME` is NAME. Acoustic costs are
unscaled, so the usual scale of `am` is about 1/12. The words are texts, not the numbers of a words.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from rescore.nbest.formats.base import Format
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import JsonObject, PathLike, iterate_lines, whole_folder, write_text

WORDS = "words_text"
_USUAL = {"acwt": "am", "lmwt": "lm"}
_COSTS = re.compile(r"(?:acwt|lmwt)(?:\.(.+))?")
_KEY = re.compile(r"(.+)-([1-9][0-9]*)")


class KaldiArchives(Format):
    """A folder of Kaldi archives: `words_text`, and one of costs for each score."""

    name, suffixes = "kaldi-nbest", ()
    writes = many_scores = True

    def recognizes_folder(self, folder: Path) -> bool:
        return _file(folder, WORDS) is not None

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        folder = Path(path)
        words = _file(folder, WORDS)
        if words is None:
            raise FileNotFoundError(f"{folder}: no {WORDS}; expected a folder of Kaldi's N-best archives")
        costs = {_score_of(file): _costs(file) for file in sorted(folder.iterdir()) if _score_of(file)}
        if name is not None:
            if len(costs) != 1:
                raise ValueError(f"{folder}: has the scores {', '.join(costs)}; expected exactly one to name {name!r}")
            costs = {name: costs.popitem()[1]}
        lists: dict[str, dict[int, Hypothesis]] = {}
        keys = set()
        for number, line in iterate_lines(words):
            key, _, text = line.partition(" ")
            where = f"{words}:{number}"
            match = _KEY.fullmatch(key)
            if match is None:
                raise ValueError(f"{where}: got {line[:40]!r}; expected utterance-N, N from 1, and the words")
            ranks = lists.setdefault(match.group(1), {})
            rank = int(match.group(2))
            if rank in ranks:
                raise ValueError(f"{where}: {key!r} is given twice; expected each hypothesis once")
            for score, values in costs.items():
                if key not in values:
                    raise ValueError(f"{where}: {key!r} has no {score} cost; expected one for each hypothesis")
            keys.add(key)
            ranks[rank] = Hypothesis(text, {score: 0.0 - values[key] for score, values in costs.items()})
        for score, values in costs.items():
            if more := next((key for key in values if key not in keys), None):
                raise ValueError(
                    f"{folder}: {more!r} has a {score} cost and no words; expected both for each hypothesis"
                )
        if not lists:
            raise ValueError(f"{words}: the file holds no utterance; expected at least one")
        for tag, ranks in lists.items():
            yield NBestList(tag, tuple(ranks[rank] for rank in sorted(ranks)))

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: JsonObject) -> None:
        files: dict[str, list[str]] = {WORDS: []}
        for utterance in lists:
            if re.search(r"\s", utterance.seq_tag):
                raise ValueError(
                    f"{path}: utterance {utterance.seq_tag!r} has a blank; expected none in Kaldi's archives"
                )
            for rank, hypothesis in enumerate(utterance.hypotheses, 1):
                key = f"{utterance.seq_tag}-{rank}"
                if "\n" in hypothesis.text or "\r" in hypothesis.text:
                    raise ValueError(
                        f"{path}: hypothesis {rank} of {utterance.seq_tag!r} has a line break; expected none"
                    )
                files[WORDS].append(f"{key} {hypothesis.text}\n")
                for source, value in hypothesis.scores.items():
                    files.setdefault(_file_of(source), []).append(f"{key} {0.0 - value!r}\n")
        with whole_folder(
            path, replaces=lambda folder: all(_score_of(file) or file.name == WORDS for file in folder.iterdir())
        ) as folder:
            for name, lines in files.items():
                write_text(folder / name, "".join(lines))


def _file(folder: Path, name: str) -> Path | None:
    return next((place for place in (folder / name, folder / f"{name}.gz") if place.is_file()), None)


def _score_of(file: Path) -> str:
    """The score whose costs a file has; "" for another file."""
    name = file.name.removesuffix(".gz")
    match = _COSTS.fullmatch(name)
    return "" if match is None else match.group(1) or _USUAL[name]


def _file_of(score: str) -> str:
    usual = {value: key for key, value in _USUAL.items()}
    return usual.get(score, f"lmwt.{score}")


def _costs(file: Path) -> dict[str, float]:
    values: dict[str, float] = {}
    for number, line in iterate_lines(file):
        key, _, text = line.strip().partition(" ")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not isfinite(value) or key in values:
            raise ValueError(f"{file}:{number}: got {line[:40]!r}; expected a new utterance-N and a finite cost")
        values[key] = value
    return values
