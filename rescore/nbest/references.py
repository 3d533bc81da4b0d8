"""References in, transcripts out.

    references = read_references("dev.ref.py.gz")              # {seq_tag: text}
    lists = attach_references(lists, references)               # an error if the utterances are not the same
    write_transcripts("best.trn", {"dev-1": "a b c"})          # for sclite

Read: .py (`{tag: text}`), .json (`{tag: text}`, or "ref" of mlm-scoring and flat N-best files), .jsonl ("ref"), .trn,
and for any other name Kaldi's `text` (tag, blank, words); all with or without .gz. Written: .trn, .ctm, .stm, .txt
(Kaldi), .py.
sclite scores only the utterances that the hypothesis file has: missing ones lower the WER in silence, so the sets are
compared here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from rescore.nbest import describe_difference
from rescore.nbest.json_forms import iterate_json_lines, load_json_dict
from rescore.nbest.returnn_py import iterate_texts
from rescore.nbest.types import NBestList
from returnn_bridge.files import PathLike, has_suffix, iterate_lines, write_whole

# CTM and STM want times and a text file has none. All utterances get the same length, whatever their number of words,
# so that the words of a CTM always lie inside the segment that the STM of another text has for the utterance.
_DUMMY_SECONDS = 1000.0


def read_references(path: PathLike) -> dict[str, str]:
    """{seq_tag: text}, texts byte for byte, in the order of the file.

    ValueError (one line: file, line, utterance) for a malformed or empty file, a tag given twice, an utterance
    without reference.
    """
    readers: tuple[tuple[str, Callable[[PathLike], Iterator[tuple[str, str]]]], ...] = (
        (".py", iterate_texts),
        (".jsonl", _iterate_json_lines),
        (".json", _iterate_json),
        (".trn", lambda path: _iterate_table(path, _parse_trn)),
        ("", lambda path: _iterate_table(path, _parse_kaldi)),
    )
    reader = next(reader for suffix, reader in readers if has_suffix(path, suffix))
    references = dict(reader(path))
    if not references:
        raise ValueError(f"{os.fspath(path)}:1: the file holds no reference; expected at least one")
    return references


def check_same_utterances(lists: Sequence[NBestList], references: Mapping[str, str]) -> None:
    """ValueError naming up to five utterances of each side if lists and references are not of the same ones."""
    tags = [utterance.seq_tag for utterance in lists]
    difference = describe_difference("the N-best lists", tags, "the references", references)
    if difference:
        raise ValueError(f"the utterances differ: {difference}; expected the same utterances")


def attach_references(lists: Sequence[NBestList], references: Mapping[str, str]) -> list[NBestList]:
    """The lists with these references in place of any they had; ValueError as in `check_same_utterances`."""
    check_same_utterances(lists, references)
    return [replace(utterance, reference=references[utterance.seq_tag]) for utterance in lists]


def attach_reference_file(lists: Sequence[NBestList], path: PathLike) -> list[NBestList]:
    """The lists with the references of a file. ValueError as in `check_same_utterances`, and for references without a single word."""
    references = read_references(path)
    if not any(text.split() for text in references.values()):
        raise ValueError(f"{os.fspath(path)}: the references have no words; expected some to count errors against")
    return attach_references(lists, references)


def transcript_suffix(path: PathLike) -> str:
    """Of transcripts to be written. ValueError for one that is none."""
    suffix = next((suffix for suffix in _FORMATS if has_suffix(path, suffix)), None)
    if suffix is None:
        raise ValueError(
            f"{os.fspath(path)}: unknown transcript format; expected a name ending in {', '.join(_FORMATS)}"
        )
    return suffix


def check_transcripts(path: PathLike, transcripts: Mapping[str, str]) -> None:
    """ValueError for what the format of the suffix can not hold, naming the utterance and the word.

    To sclite ";;" at the start of a line is a comment, braces are alternatives, "@" is no word and a word in parentheses one that may
    be left out: such words would be scored as something else, or not at all.
    """
    where, suffix = os.fspath(path), transcript_suffix(path)
    if not transcripts:
        raise ValueError(f"{where}: no transcripts to write; expected at least one")
    if suffix == ".py":
        return
    for tag, text in transcripts.items():
        if not tag or _NO_TAG[suffix].search(tag):
            raise ValueError(
                f"{where}: utterance {tag!r} can not stand in a {suffix} file; expected no blanks or parentheses, and no ;; in front"
            )
        if suffix == ".txt":
            continue
        for place, word in enumerate(text.split()):
            if _NO_WORD[suffix].fullmatch(word) or (suffix == ".trn" and place == 0 and word.startswith(";;")):
                raise ValueError(
                    f"{where}: utterance {tag!r}: the word {word!r} can not stand in a {suffix} file, where it is syntax; "
                    "expected other words, or a .txt or .py file"
                )


def write_transcripts(path: PathLike, transcripts: Mapping[str, str]) -> None:
    """Write {seq_tag: text}; the file appears whole or not at all.

    .trn, .stm and .txt have the words with single blanks. .ctm and .stm have made-up times (each utterance lasts
    1000 s, its words are spread evenly over it) and are sorted by tag: they are for scoring against each other. The
    others keep the order given; .py also keeps the texts byte for byte.
    ValueError for an unknown suffix, an empty mapping, a tag or a word that the format can not hold.
    """
    check_transcripts(path, transcripts)
    suffix = transcript_suffix(path)
    with write_whole(path) as write:
        write("{\n" if suffix == ".py" else "")
        # sclite wants the utterances of a CTM in the order of those of the STM.
        in_order = sorted(transcripts.items()) if suffix in (".ctm", ".stm") else transcripts.items()
        for tag, text in in_order:
            try:
                write(_FORMATS[suffix](tag, text))
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{os.fspath(path)}: utterance {tag!r} holds a lone surrogate ({error.reason}); expected text"
                ) from None
        write("}\n" if suffix == ".py" else "")


def _iterate_table(path: PathLike, parse: Callable[[str], tuple[str, str] | None]) -> Iterator[tuple[str, str]]:
    """(tag, text) of a file with an utterance a line; `parse` splits a line or raises what it wants; None: comment."""
    seen: set[str] = set()
    for number, line in iterate_lines(path):
        where = f"{os.fspath(path)}:{number}"
        try:
            parsed = parse(line)
        except ValueError as error:
            raise ValueError(f"{where}: got {line[:40]!r}; expected {error}") from None
        if parsed is None:
            continue
        tag, text = parsed
        if tag in seen:
            raise ValueError(f"{where}: utterance {tag!r} is given twice; expected each utterance once")
        seen.add(tag)
        yield tag, text


def _parse_kaldi(line: str) -> tuple[str, str]:
    tag, *rest = re.split("[ \t]+", line.rstrip(" \t"), maxsplit=1)
    if not tag:
        raise ValueError("an utterance id, a blank and the words")
    return tag, "".join(rest)


def _parse_trn(line: str) -> tuple[str, str] | None:
    if line.startswith(";;"):
        return None
    text, bracket, tag = line.rstrip(" \t").removesuffix(")").rpartition("(")
    if not (bracket and line.rstrip(" \t").endswith(")") and tag) or re.search(r"[)\s]", tag):
        raise ValueError("the words and the utterance id in parentheses")
    if "{" in text.split():
        raise ValueError("plain words; alternatives { a / b } are not read")
    return tag, text.strip(" \t")


def _iterate_json_lines(path: PathLike) -> Iterator[tuple[str, str]]:
    for utterance in iterate_json_lines(path):
        if utterance.reference is None:
            raise ValueError(
                f'{os.fspath(path)}: utterance {utterance.seq_tag!r} has no reference; expected a string "ref"'
            )
        yield utterance.seq_tag, utterance.reference


def _iterate_json(path: PathLike) -> Iterator[tuple[str, str]]:
    for tag, value in load_json_dict(path).items():
        text = value.get("ref") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise ValueError(
                f'{os.fspath(path)}: utterance {tag!r} has no reference; expected a text or a string "ref"'
            )
        yield tag, text


def _format_kaldi(tag: str, text: str) -> str:
    return " ".join([tag, *text.split()]) + "\n"


def _format_trn(tag: str, text: str) -> str:
    return " ".join([*text.split(), f"({tag})"]) + "\n"


def _format_ctm(tag: str, text: str) -> str:
    words = text.split()
    step = _DUMMY_SECONDS / max(1, len(words))
    return "".join(f"{tag} 1 {index * step:.3f} {step:.3f} {word} 1.0\n" for index, word in enumerate(words))


def _format_stm(tag: str, text: str) -> str:
    return " ".join([f"{tag} 1 {tag} 0.000 {_DUMMY_SECONDS:.3f} <o,F0>", *text.split()]) + "\n"


def _format_py(tag: str, text: str) -> str:
    return f"{tag!r}: {str(text)!r},\n"


_FORMATS: dict[str, Callable[[str, str], str]] = {
    ".trn": _format_trn,
    ".ctm": _format_ctm,
    ".stm": _format_stm,
    ".txt": _format_kaldi,
    ".py": _format_py,
}
_NO_TAG = {
    ".trn": re.compile(r"[\s()]"),
    ".ctm": re.compile(r"^;;|\s"),
    ".stm": re.compile(r"^;;|\s"),
    ".txt": re.compile(r"\s"),
}
_NO_WORD = {
    ".trn": re.compile(r".*[{}].*|@|\(.*\)", re.DOTALL),
    ".stm": re.compile(r".*[{}].*|@|\(.*\)", re.DOTALL),
    ".ctm": re.compile(r"@|<ALT(_BEGIN|_END)?>", re.IGNORECASE),
}
