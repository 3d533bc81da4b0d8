"""The verb `dlm tune`: scales with the fewest word errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rescore.commands.options import ListFormat, Sources
from rescore.commands.syntax import list_files
from returnn_bridge.files import check_outputs


def tune(
    nbest: Sources,
    refs: Annotated[Path, typer.Option(help="References: .py, Kaldi's text or .txt, .trn, .stm, .ctm, .json, .jsonl.")],
    out: Annotated[Path, typer.Option(help="Scales as JSON.")],
    free: Annotated[
        list[str] | None,
        typer.Option(
            help="SOURCE or SOURCE:LOW:HIGH to tune (default: all but the first, and words). Without a range: "
            "0 ... 3, words and tokens:SOURCE -10 ... 10, a score named prior -2 ... 0."
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None, typer.Option(help="SOURCE:SCALE that stays (default: the first source with 1).")
    ] = None,
    row: Annotated[str, typer.Option(help="All in one instead: SOURCE:SCALE,SOURCE,... as in `dlm rescore`.")] = "",
    list_format: ListFormat = None,
) -> None:
    """Choose the scales with the fewest word errors: exact line searches, no grid step to miss a minimum."""
    from rescore.combination import tuning
    from rescore.combination.rows import RowSpec
    from rescore.combination.scales import WORDS
    from rescore.nbest import check_no_lists, read_sources
    from rescore.nbest.references import attach_reference_file
    from rescore.report.table import format_scales

    if row and (free or fixed):
        raise ValueError(f"--row {row} and --free or --fixed; expected one of the two ways to say it")
    check_outputs([out], [*list_files(nbest), refs])
    check_no_lists([out])
    lists = attach_reference_file(read_sources(nbest, format=list_format), refs)
    names = list(lists[0].hypotheses[0].scores)
    given = RowSpec.from_terms("fixed", ",".join(fixed).split(",")).fixed if fixed else {names[0]: 1.0}
    terms = ",".join(free).split(",") if free else [name for name in [*names, WORDS] if name not in given]
    chosen = RowSpec.from_terms("free", terms).free
    if len(given) < len(fixed or []):
        raise ValueError(f"--fixed {' '.join(fixed or [])}; expected SOURCE:SCALE, each source once")
    if len(chosen) < len(free or []):
        raise ValueError(f"--free {' '.join(free or [])}; expected SOURCE or SOURCE:LOW:HIGH, each source once")
    spec = RowSpec.from_terms("tuned", row.split(",")) if row else RowSpec("tuned", given, chosen)
    result = tuning.tune(lists, free=spec.free, fixed=spec.fixed)
    result.scales.save(out)
    print(f"{out}: WER {result.wer_percent:.2f} % on {len(lists)} utterances with {format_scales(result.scales)}")
    for note in spec.notes():
        print(note)
    for warning in result.warnings:
        print(f"warning: {warning}")
