"""The verbs that make lists of lists: `dlm convert` to another format, `dlm combine` to one combined score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rescore.commands.options import ListFormat, Sources
from rescore.commands.syntax import list_files, parse_scales, scales_file
from returnn_bridge.files import check_outputs


def convert(
    source: Annotated[str, typer.Argument(help="N-best file to convert, as PATH or NAME=PATH.")],
    target: Annotated[Path, typer.Argument(help="File to write: .py, .jsonl or .json (mlm-scoring), each also .gz.")],
    score: Annotated[
        str | None,
        typer.Option(help="Name of the score to write, for formats that hold a single score (default: the only one)."),
    ] = None,
    list_format: ListFormat = None,
    to_format: Annotated[
        str | None,
        typer.Option(
            help="Format of the file to write: returnn-py, json-lines or mlm-scoring (default: by the suffix)."
        ),
    ] = None,
) -> None:
    """Convert an N-best file to another format. Utterances, order, texts and all digits of the scores are kept.

    Scores that are nan or infinite can only be converted from .py to .py.
    """
    from rescore.nbest import iterate_nbest, split_source, write_nbest
    from rescore.nbest.formats import format_to_write

    name, path = split_source(source)
    check_outputs([target], [path])
    odd = format_to_write(target, to_format).non_finite
    lists = iterate_nbest(path, name=name, allow_non_finite=odd, format=list_format)
    write_nbest(target, lists, score=score, allow_non_finite=odd, format=to_format)
    print(f"{target}: written")


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
