"""The verbs for lists: `dlm convert` to another format, `dlm combine` to one score, and the list of `dlm formats`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rescore.commands.options import ListFormat, Sources
from rescore.commands.syntax import list_files, parse_scales, scales_file
from rescore.nbest.types import NBestList
from returnn_bridge.files import check_outputs


def convert(
    source: Annotated[str, typer.Argument(help="N-best file to convert, as PATH or NAME=PATH.")],
    target: Annotated[Path, typer.Argument(help="File or folder to write; its suffix says the format.")],
    score: Annotated[
        str | None,
        typer.Option(help="Name of the score to write, for formats that hold a single score (default: the only one)."),
    ] = None,
    list_format: ListFormat = None,
    to_format: Annotated[
        str | None,
        typer.Option(help="Format of the file to write, of those that `dlm formats` lists (default: by the suffix)."),
    ] = None,
) -> None:
    """Convert an N-best file to another format. Utterances, order, texts and all digits of the scores are kept.

    What the new format can not hold (references, details of scores) is named. Scores that are nan or +inf can only
    be converted from .py to .py.
    """
    from rescore.nbest import iterate_nbest, split_source, write_nbest
    from rescore.nbest.formats import format_to_write

    name, path = split_source(source)
    check_outputs([target], [path])
    form = format_to_write(target, to_format)
    lists = iterate_nbest(path, name=name, allow_non_finite=form.non_finite, format=list_format)
    lost: dict[str, None] = {}

    def watched() -> Iterator[NBestList]:
        for utterance in lists:
            if utterance.reference is not None and not form.references:
                lost["references"] = None
            if not form.details and any(hypothesis.details for hypothesis in utterance.hypotheses):
                lost["details of the scores"] = None
            yield utterance

    write_nbest(target, watched(), score=score, allow_non_finite=form.non_finite, format=to_format)
    print(f"{target}: written" + (f"; without {' and '.join(lost)}, which {form.name} does not hold" if lost else ""))


def combine(
    nbest: Sources,
    out: Annotated[
        Path, typer.Option(help="File to write: .py (the combined score) or .jsonl (all scores), each also .gz.")
    ],
    scales: Annotated[
        str, typer.Option(help="Scales to combine with: a file of `dlm tune`, or SOURCE:SCALE,SOURCE:SCALE.")
    ],
    name: Annotated[str, typer.Option(help="Name of the combined score.")] = "combined",
    list_format: ListFormat = None,
) -> None:
    """Write all hypotheses with the weighted sum of their scores, in their order."""
    from rescore.combination.scales import with_combined_score
    from rescore.nbest import read_sources, write_nbest
    from rescore.nbest.formats import format_to_write

    check_outputs([out], [*list_files(nbest), *filter(None, [scales_file(scales)])])
    chosen_score = None if format_to_write(out, None).many_scores else name
    item = scales if scales_file(scales) else f"{name}={scales}"
    _, chosen = parse_scales(item)
    lists = read_sources(nbest, format=list_format)
    write_nbest(out, with_combined_score(lists, chosen, name), score=chosen_score)
    print(f"{out}: {len(lists)} utterances")


def formats() -> None:
    """List the formats of N-best lists and of references: suffixes, whether they are written, and what they hold."""
    from rescore.nbest.formats import FORMATS
    from rescore.nbest.reference_formats import REFERENCE_FORMATS
    from rescore.nbest.transcripts import TranscriptFormat

    print("N-best lists:")
    for name, form in FORMATS.items():
        held = ["scores by name" if form.many_scores else "one score", *(["references"] if form.references else [])]
        use = "read, written" if form.writes else "read"
        print(f"{name:12s} {', '.join(form.suffixes) or '-':6s} {use:14s} {', '.join(held)}. {first_line(form)}")
    print("\nreferences and transcripts:")
    for name, texts in REFERENCE_FORMATS.items():
        known = ", ".join((*texts.suffixes, *texts.file_names))
        use = "read, written" if isinstance(texts, TranscriptFormat) else "read"
        print(f"{name:12s} {known:6s} {use:14s} {first_line(texts)}")


def first_line(entry: object) -> str:
    """The first paragraph of an object's documentation, as one line."""
    return " ".join((entry.__doc__ or "").split("\n\n")[0].split())
