"""References in, transcripts out.

    references = read_references("dev.ref.py.gz")              # {seq_tag: text}
    lists = attach_references(lists, references)               # an error if the utterances are not the same
    write_transcripts("best.trn", {"dev-1": "a b c"})          # for sclite

The forms of both are in rescore.nbest.reference_formats; the name of a file says which one it has.
sclite scores only the utterances that the hypothesis file has: missing ones lower the WER in silence, so the sets are
compared here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rescore.nbest import describe_difference
from rescore.nbest.reference_formats import reference_format, transcript_format
from rescore.nbest.types import NBestList
from returnn_bridge.files import PathLike, write_whole


def read_references(path: PathLike) -> dict[str, str]:
    """{seq_tag: text}, texts byte for byte, in the order of the file.

    ValueError (one line: file, line, utterance) for a malformed or empty file, a name that says no form, a tag given
    twice, an utterance without reference.
    """
    references = dict(reference_format(path).read(path))
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
    """The lists with the references of a file. ValueError as in `check_same_utterances`, and for references without a
    single word."""
    references = read_references(path)
    if not any(text.split() for text in references.values()):
        raise ValueError(f"{os.fspath(path)}: the references have no words; expected some to count errors against")
    return attach_references(lists, references)


def check_transcripts(path: PathLike, transcripts: Mapping[str, str]) -> None:
    """ValueError for what the format of the file's name can not hold, naming the utterance and the word.

    To sclite ";;" at the start of a line is a comment, braces are alternatives, "@" is no word and a word in
    parentheses one that may be left out: such words would be scored as something else, or not at all.
    """
    where, form = os.fspath(path), transcript_format(path)
    if not transcripts:
        raise ValueError(f"{where}: no transcripts to write; expected at least one")
    file = f"a {form.suffixes[0]} file"
    for tag, text in transcripts.items():
        if form.refuses_tag(tag):
            raise ValueError(
                f"{where}: utterance {tag!r} can not stand in {file}; "
                "expected no blanks or parentheses, and no ;; in front"
            )
        for position, word in enumerate(text.split()):
            if form.refuses_word(word, position):
                raise ValueError(
                    f"{where}: utterance {tag!r}: the word {word!r} can not stand in {file}, where it is syntax; "
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
