"""The registry of N-best file formats, and the choice of the format of a file.

    FORMATS["json-lines"].read("scores.jsonl", name=None)
    format_of_file("dev.json.gz").name                      # by suffix, or by content if formats share a suffix
    format_of_file("dev.hyps", "returnn-py")                # by name, with any suffix
    format_to_write("scores.jsonl")

Each format is a file in this folder and an entry of `FORMATS`; `base.Format` defines the interface.
"""

from __future__ import annotations

import os
from pathlib import Path

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.espnet import EspnetFolder
from rescore.nbest.formats.flat_json import FlatJson
from rescore.nbest.formats.hyporadise import HyPoradise
from rescore.nbest.formats.json_lines import JsonLines
from rescore.nbest.formats.kaldi import KaldiArchives
from rescore.nbest.formats.mlm_scoring import MlmScoring
from rescore.nbest.formats.nemo import NemoBeams
from rescore.nbest.formats.one_best import OneBest
from rescore.nbest.formats.returnn_py import ReturnnPy
from rescore.nbest.formats.srilm import SrilmFolder
from rescore.nbest.formats.table import Table, TabTable
from rescore.nbest.transcripts import Ctm, KaldiText, Stm, Trn
from returnn_bridge.files import PathLike, has_suffix, iterate_chunks
from returnn_bridge.registry import Registry

_ENTRIES: tuple[Format, ...] = (
    ReturnnPy(),
    JsonLines(),
    MlmScoring(),
    FlatJson(),
    HyPoradise(),
    Table(),
    NemoBeams(),
    TabTable(),
    KaldiArchives(),
    EspnetFolder(),
    SrilmFolder(),
    *map(OneBest, (Trn(), Ctm(), Stm())),
    OneBest(KaldiText(), by_suffix=False),  # any text is named .txt
)
FORMATS: Registry[Format] = Registry("N-best format", {entry.name: entry for entry in _ENTRIES})


def format_of_file(path: PathLike, name: str | None = None) -> Format:
    """The format of a file to be read: the one of that name, else by suffix, and for a shared suffix by the content.

    Formats that were added later take precedence, so that an added format may share a suffix with an existing one.
    ValueError for an unknown name or suffix, and for a file that no format of its suffix recognizes.
    """
    if name is not None:
        return FORMATS[name]
    if os.path.isdir(path):
        if recognized := [entry for entry in FORMATS.values() if entry.recognizes_folder(Path(path))]:
            return recognized[-1]
        raise ValueError(
            f"{os.fspath(path)}: a folder of no known format; expected archives of Kaldi, a decoding folder of ESPnet, "
            "or the --format srilm"
        )
    fitting = [entry for entry in FORMATS.values() if has_suffix(path, *entry.suffixes)]
    if not fitting:
        raise ValueError(f"{os.fspath(path)}: unknown N-best format; expected {_describe(list(FORMATS.values()))}")
    if len(fitting) == 1:
        return fitting[0]
    head = next(iterate_chunks(path), "")
    for entry in reversed(fitting):
        if entry.recognizes(head):
            return entry
    names = ", ".join(entry.name for entry in fitting)
    raise ValueError(f"{os.fspath(path)}: does not look like any of {names}; expected one of them, or its --format")


def format_to_write(path: PathLike, name: str | None = None) -> Format:
    """The format of a file to be written: the one of that name, else the first one of its suffix that can be written.
    ValueError if there is none."""
    written = [entry for entry in FORMATS.values() if entry.writes]
    if name is not None and FORMATS[name] not in written:
        names = ", ".join(entry.name for entry in written)
        raise ValueError(f"{os.fspath(path)}: the format {name} is read, not written; expected one of {names}")
    fitting = [entry for entry in written if entry.name == name or (name is None and has_suffix(path, *entry.suffixes))]
    if not fitting:
        raise ValueError(f"{os.fspath(path)}: unknown N-best format; expected {_describe(written)}")
    return fitting[0]


def _describe(entries: list[Format]) -> str:
    known = ", ".join(f"{' or '.join(entry.suffixes)} ({entry.name})" for entry in entries if entry.suffixes)
    return f"a name ending in {known}, with or without .gz, or the format by its name"
