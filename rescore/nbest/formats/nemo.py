"""NeMo's beams: `text TAB score` on every line, the same number of lines for each utterance, no names.

    he hoped there would be stew    -4.21
    he hope there would be stew     -6.03

Names and references come from the manifest that was decoded, whose order the utterances have. It is expected beside the
list: `beams.manifest.json` for `beams.tsv`, or `manifest.json`. Its lines have `audio_filepath`, whose name without
folder and suffix names the utterance, and `text`. Quotes and words such as `null` are words. Source:
scripts/asr_language_modeling/neural_rescorer of github.com/NVIDIA/NeMo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.hypotheses import shorten
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import PathLike, iterate_lines, parse_json


class NemoBeams(Format):
    """`text TAB score`, a fixed number of hypotheses per utterance, beside a manifest."""

    name, suffixes = "nemo", (".tsv",)
    references = True

    def recognizes(self, head: str) -> bool:
        return head.partition("\n")[0].count("\t") == 1

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        where, manifest = os.fspath(path), _manifest_of(Path(path))
        utterances = list(_utterances(manifest))
        beams = [_hypothesis(line, f"{where}:{number}", name or "am") for number, line in iterate_lines(path)]
        size, rest = divmod(len(beams), max(1, len(utterances)))
        if rest or not size:
            raise ValueError(
                f"{where}: {len(beams)} lines for the {len(utterances)} utterances of {manifest}; "
                "expected the same number of lines for each"
            )
        for index, (tag, reference) in enumerate(utterances):
            yield NBestList(tag, tuple(beams[index * size : (index + 1) * size]), reference)


def _manifest_of(path: Path) -> Path:
    stem = path.name.removesuffix(".gz").removesuffix(".tsv")
    places = [path.with_name(f"{stem}.manifest.json"), path.with_name("manifest.json")]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{path}: no {places[0].name} or {places[1].name} beside it; expected NeMo's manifest")


def _utterances(manifest: Path) -> Iterator[tuple[str, str | None]]:
    """(name, reference) of each line of a manifest."""
    seen: dict[str, int] = {}
    for number, line in iterate_lines(manifest):
        entry = parse_json(line, manifest, number)
        audio = entry.get("audio_filepath") if isinstance(entry, dict) else None
        reference = entry.get("text") if isinstance(entry, dict) else None
        if not isinstance(audio, str) or not (reference is None or isinstance(reference, str)):
            raise ValueError(
                f"{manifest}:{number}: got {shorten(entry)}; expected an object with audio_filepath and text"
            )
        tag = Path(audio).stem
        if seen.setdefault(tag, number) != number:
            raise ValueError(
                f"{manifest}:{number}: {tag!r} is named as in line {seen[tag]}; expected different file names"
            )
        yield tag, reference


def _hypothesis(line: str, where: str, score: str) -> Hypothesis:
    text, _, number = line.rpartition("\t")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if "\t" not in line or not isfinite(value):
        raise ValueError(f"{where}: got {line[:40]!r}; expected a text, a tab and a finite score")
    return Hypothesis(text, {score: value})
