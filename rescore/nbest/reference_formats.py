"""The formats of references and transcripts, with one text per utterance: their file names, readers and writers.

    REFERENCE_FORMATS["stm"].read("dev.stm")              # (utterance, text), ...
    reference_format("dev/text").name                     # "kaldi"
    REFERENCE_FORMATS.add(Mine.name, Mine())              # adds a `ReferenceFormat` that you define

A new format needs `name`, `suffixes` and `read`; a format that can be written is a `TranscriptFormat`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rescore.nbest.formats.hypotheses import load_json_dict
from rescore.nbest.formats.json_lines import iterate_json_lines
from rescore.nbest.formats.returnn_py import iterate_texts
from rescore.nbest.transcripts import Ctm, KaldiText, ReferenceFormat, Stm, Text, TranscriptFormat, Trn
from returnn_bridge.files import PathLike, quoted
from returnn_bridge.registry import Registry


class PyTexts(TranscriptFormat):
    """RETURNN's Python literal `{utterance: text}`, the only transcript format that keeps all texts byte for byte."""

    name, suffixes = "py", (".py",)
    opening, closing = "{\n", "}\n"

    def read(self, path: PathLike) -> Iterator[Text]:
        return iterate_texts(path)

    def entry(self, tag: str, text: str) -> str:
        return f"{tag!r}: {str(text)!r},\n"

    def refuses_tag(self, tag: str) -> bool:
        return False


class JsonTexts(ReferenceFormat):
    """JSON, `{utterance: text}`, or the "ref" of N-best lists as mlm-scoring or flat JSON."""

    name, suffixes = "json", (".json",)

    def read(self, path: PathLike) -> Iterator[Text]:
        for tag, value in load_json_dict(path).items():
            text = value.get("ref") if isinstance(value, dict) else value
            if not isinstance(text, str):
                raise ValueError(
                    f'{os.fspath(path)}: utterance {quoted(tag)} has no reference; expected a text or a string "ref"'
                )
            yield tag, text


class JsonLinesReferences(ReferenceFormat):
    """The "ref" of N-best lists as JSON lines."""

    name, suffixes = "jsonl", (".jsonl",)

    def read(self, path: PathLike) -> Iterator[Text]:
        for utterance in iterate_json_lines(path):
            if utterance.reference is None:
                raise ValueError(
                    f"{os.fspath(path)}: utterance {quoted(utterance.seq_tag)} has no reference; "
                    'expected a string "ref"'
                )
            yield utterance.seq_tag, utterance.reference


REFERENCE_FORMATS: Registry[ReferenceFormat] = Registry(
    "reference format",
    {entry.name: entry for entry in (Trn(), Ctm(), Stm(), KaldiText(), PyTexts(), JsonTexts(), JsonLinesReferences())},
)


def reference_format(path: PathLike) -> ReferenceFormat:
    """The format of a reference file, from its name. ValueError for an unknown name, because formats can not be told
    apart by their lines."""
    fitting = [entry for entry in REFERENCE_FORMATS.values() if entry.fits(path)]
    if not fitting:
        known = ", ".join(_describe(entry) for entry in REFERENCE_FORMATS.values())
        raise ValueError(f"{os.fspath(path)}: unknown reference format; expected {known}, with or without .gz")
    return fitting[0]


def transcript_format(path: PathLike) -> TranscriptFormat:
    """The format of a transcript file to be written, from its name. ValueError for an unknown name."""
    written = [entry for entry in REFERENCE_FORMATS.values() if isinstance(entry, TranscriptFormat)]
    fitting = [entry for entry in written if entry.fits(path)]
    if not fitting:
        suffixes = ", ".join(suffix for entry in written for suffix in entry.suffixes)
        raise ValueError(f"{os.fspath(path)}: unknown transcript format; expected a name ending in {suffixes}")
    return fitting[0]


def _describe(entry: ReferenceFormat) -> str:
    return f"{' or '.join([*entry.suffixes, *map(repr, entry.file_names)])} ({entry.name})"
