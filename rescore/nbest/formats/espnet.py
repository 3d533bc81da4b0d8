"""ESPnet2's decoding folders: `logdir/output.J/Nbest_recog/{text,score}` with one line per utterance.

    decode/logdir/output.1/1best_recog/text     1089-134686-0000 HE HOPED THERE WOULD BE STEW
    decode/logdir/output.1/1best_recog/score    1089-134686-0000 tensor(-5.1234)

The folder given is the decoding folder, its logdir, or one of the output folders. The single score is ESPnet's combined
one. Utterances may have fewer hypotheses than others. The merged text of the decoding folder has 1-best texts only and
is not read. Source: espnet2/bin/asr_inference.py of github.com/espnet/espnet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from rescore.nbest.formats.base import Format
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import PathLike, iterate_lines

_RANK = re.compile(r"([1-9][0-9]*)best_recog")
_SCORE = re.compile(r"(?:tensor\()?\s*(-?[0-9.]+(?:e[-+]?[0-9]+)?|-?inf|nan)\s*(?:,.*)?\)?", re.IGNORECASE)


class EspnetFolder(Format):
    """`output.*/Nbest_recog/{text,score}` below a folder of ESPnet2."""

    name, suffixes = "espnet", ()

    def recognizes_folder(self, folder: Path) -> bool:
        return bool(_outputs(folder))

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        outputs = _outputs(Path(path))
        if not outputs:
            raise FileNotFoundError(f"{path}: no logdir/output.*/1best_recog; expected a decoding folder of ESPnet2")
        seen: dict[str, Path] = {}
        for output in outputs:
            lists: dict[str, list[Hypothesis]] = {}
            for rank, folder in sorted(_ranks(output).items()):
                scores = dict(_lines(folder / "score"))
                for tag, text in _lines(folder / "text"):
                    match = _SCORE.fullmatch(scores.get(tag, "").strip())
                    value = float(match.group(1)) if match else float("nan")
                    if not isfinite(value):
                        got = scores.get(tag, "no score")
                        raise ValueError(f"{folder / 'score'}: {tag!r} has {got[:40]!r}; expected a finite number")
                    entries = lists.setdefault(tag, [])
                    if len(entries) != rank - 1:
                        raise ValueError(
                            f"{folder / 'text'}: {tag!r} has rank {rank} and {len(entries)} better hypotheses; "
                            f"expected {rank - 1}"
                        )
                    entries.append(Hypothesis(text, {name or "am": value}))
            for tag, entries in lists.items():
                if seen.setdefault(tag, output) != output:
                    raise ValueError(f"{output}: utterance {tag!r} is in {seen[tag]} too; expected each utterance once")
                yield NBestList(tag, tuple(entries))
        if not seen:
            raise ValueError(f"{path}: the folder holds no utterance; expected at least one")


def _outputs(folder: Path) -> list[Path]:
    """The folders with 1best_recog in and below a folder, in the order of their numbers."""
    places = [folder, *folder.glob("output.*"), *folder.glob("logdir/output.*")]
    found = [place for place in places if (place / "1best_recog" / "text").is_file()]
    return sorted(found, key=lambda place: (len(place.suffix), place.suffix))


def _ranks(output: Path) -> dict[int, Path]:
    matches = {_RANK.fullmatch(entry.name): entry for entry in output.iterdir()}
    return {int(match.group(1)): entry for match, entry in matches.items() if match}


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """(utterance, the rest of the line), each utterance once."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; expected the one that ESPnet2 writes")
    seen = set()
    for number, line in iterate_lines(file):
        tag, _, rest = line.partition(" ")
        if not tag or tag in seen:
            raise ValueError(f"{file}:{number}: got {line[:40]!r}; expected a new utterance, a blank and its value")
        seen.add(tag)
        yield tag, rest
