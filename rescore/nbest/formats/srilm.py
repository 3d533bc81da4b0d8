"""SRILM's N-best lists in their third form: a folder with a file per utterance, and a hypothesis per line.

    lists/dev-1.gz      -1523.2 -31.7 4 he hoped for stew

The fields are acoustic score, language model score, number of words, and the words. Scores are logarithms to base 10;
they are read as nats, with the names am and lm. The name of the file without .gz is that of the utterance. A folder
does not tell its format, so `--format srilm` has to. Source: the manual page nbest-format(5) of SRILM.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from rescore.nbest.formats.base import Format
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import JsonObject, PathLike, iterate_lines, whole_folder, write_text

_LINE = re.compile(r"(\S+)[ \t]+(\S+)[ \t]+([0-9]+)(?:[ \t]+(.*))?")
NATS = math.log(10)


class SrilmFolder(Format):
    """A folder with one file per utterance: `ascore lscore nwords words`, log10."""

    name, suffixes = "srilm", ()
    writes = many_scores = True

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        folder = Path(path)
        if name is not None:
            raise ValueError(f"{folder}: has the scores am and lm; expected PATH instead of {name}=PATH")
        files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
        if not files:
            raise FileNotFoundError(f"{folder}: no files; expected a folder with an N-best list per utterance")
        for file in files:
            entries = tuple(_hypothesis(line, f"{file}:{number}") for number, line in iterate_lines(file))
            if not entries:
                raise ValueError(f"{file}:1: the file is empty; expected at least one hypothesis")
            yield NBestList(file.name.removesuffix(".gz"), entries)

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: JsonObject) -> None:
        with whole_folder(path) as folder:
            for utterance in lists:
                if "/" in utterance.seq_tag or utterance.seq_tag.startswith(".") or utterance.seq_tag.endswith(".gz"):
                    raise ValueError(f"{path}: utterance {utterance.seq_tag!r}; expected a name that a file can have")
                lines = []
                for rank, hypothesis in enumerate(utterance.hypotheses, 1):
                    if set(hypothesis.scores) != {"am", "lm"} or re.search(r"[\n\r]", hypothesis.text):
                        raise ValueError(
                            f"{path}: hypothesis {rank} of {utterance.seq_tag!r} has the scores "
                            f"{', '.join(hypothesis.scores)}; expected am and lm, and a text of one line"
                        )
                    am, lm = (hypothesis.scores[name] / NATS for name in ("am", "lm"))
                    lines.append(f"{am!r} {lm!r} {len(hypothesis.text.split())} {hypothesis.text}".rstrip(" ") + "\n")
                write_text(folder / utterance.seq_tag, "".join(lines))


def _hypothesis(line: str, where: str) -> Hypothesis:
    match = _LINE.fullmatch(line)
    try:
        numbers = [float(match.group(index)) * NATS for index in (1, 2)] if match else []
    except ValueError:
        numbers = []
    text = (match.group(4) or "") if match else ""
    if match is None or not numbers or not all(map(math.isfinite, numbers)) or len(text.split()) != int(match.group(3)):
        raise ValueError(f"{where}: got {line[:40]!r}; expected two scores, the number of words, and as many words")
    return Hypothesis(text, {"am": numbers[0], "lm": numbers[1]})
