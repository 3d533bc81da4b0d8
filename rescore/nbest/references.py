"""Read references and write transcripts.

    references = read_references("dev.ref.py.gz")              # {seq_tag: text}
    lists = attach_references(lists, references)               # ValueError if the utterances differ
    write_transcripts("best.trn", {"dev-1": "a b c"})          # for sclite

The formats are in rescore.nbest.reference_formats and are chosen by the file name. sclite scores only the utterances in
the hypothesis file, so that missing ones would silently change the WER. Therefore the utterances are compared here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rescore.nbest import describe_difference, read_sources
from rescore.nbest.reference_formats import reference_format, transcript_format
from rescore.nbest.types import NBestList
from rescore.subwords import check_same_units
from returnn_bridge.files import PathLike, named, quoted, write_whole


def read_references(path: PathLike) -> dict[str, str]:
    """{seq_tag: text} in the order of the file, with unchanged texts.

    ValueError (one line: file, line, utterance) for a malformed or empty file, a file name of no known format, a tag
    given twice, or an utterance without reference.
    """
    references = dict(reference_format(path).read(path))
    if not references:
        raise ValueError(f"{os.fspath(path)}:1: the file holds no reference; expected at least one")
    return references


def check_same_utterances(
    lists: Sequence[NBestList],
    references: Mapping[str, str],
    names: tuple[str, str] = ("the N-best lists", "the references"),
) -> None:
    """ValueError naming up to five utterances of each side if lists and references have different utterances.

    `names`: how the message calls the two, such as their files.
    """
    tags = [utterance.seq_tag for utterance in lists]
    difference = describe_difference(names[0], tags, names[1], references)
    if difference:
        both = " and ".join(names)
        raise ValueError(f"{both}: the utterances differ: {difference}; expected the same utterances")


def attach_references(lists: Sequence[NBestList], references: Mapping[str, str]) -> list[NBestList]:
    """The lists with these references, which replace earlier ones. ValueError as in `check_same_utterances`."""
    check_same_utterances(lists, references)
    return [replace(utterance, reference=references[utterance.seq_tag]) for utterance in lists]


def read_with_references(sources: Sequence[str], path: PathLike, *, format: str | None = None) -> list[NBestList]:
    """The lists of these files (`read_sources`) with the references of another file.

    ValueError as in `read_sources` and `read_references`, if they have different utterances, if one has subword pieces
    and the other words, and if no reference has a word.
    """
    lists, references = read_sources(sources, format=format), read_references(path)
    if not any(text.split() for text in references.values()):
        raise ValueError(f"{os.fspath(path)}: the references have no words; expected some to count errors against")
    files = ", ".join(map(str, sources))
    check_same_utterances(lists, references, (files, os.fspath(path)))
    lists = attach_references(lists, references)
    with named(f"{files} and {os.fspath(path)}"):
        check_same_units(lists)
    return lists


def check_transcripts(path: PathLike, transcripts: Mapping[str, str]) -> None:
    """ValueError naming utterance and word for text that the format of the file can not hold.

    sclite reads ";;" at the start of a line as a comment, braces as alternatives, "@" as no word, and a word in
    parentheses as optional, so that such words would be scored wrongly.
    """
    where, form = os.fspath(path), transcript_format(path)
    if not transcripts:
        raise ValueError(f"{where}: no transcripts to write; expected at least one")
    file = f"a {form.suffixes[0]} file"
    for tag, text in transcripts.items():
        if form.refuses_tag(tag):
            raise ValueError(
                f"{where}: utterance {quoted(tag)} can not stand in {file}; "
                "expected no blanks or parentheses, and no ;; in front"
            )
        for position, word in enumerate(text.split()):
            if form.refuses_word(word, position):
                raise ValueError(
                    f"{where}: utterance {quoted(tag)}: the word {quoted(word)} can not stand in {file}, "
                    "where it is syntax; expected other words, or a .txt or .py file"
                )


def write_transcripts(path: PathLike, transcripts: Mapping[str, str]) -> None:
    """Write {seq_tag: text}, atomically.

    .trn, .stm and .txt separate words by single blanks. .ctm and .stm have artificial times (each utterance lasts 1000
    s with evenly spaced words) and are sorted by tag, so they can be scored against each other. The other formats keep
    the given order; .py also keeps the texts byte for byte. ValueError for an unknown suffix, an empty mapping, a tag
    or a word that the format can not hold.
    """
    check_transcripts(path, transcripts)
    form = transcript_format(path)
    with write_whole(path) as write:
        write(form.opening)
        for tag, text in sorted(transcripts.items()) if form.sorted_by_tag else transcripts.items():
            try:
                write(form.entry(tag, text))
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{os.fspath(path)}: utterance {tag!r} holds a lone surrogate ({error.reason}); expected text"
                ) from None
        write(form.closing)
