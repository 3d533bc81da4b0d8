"""The verb `dlm tune`, which chooses the scales with the fewest word errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rescore.commands.options import RESAMPLES, ListFormat, Resamples, Sources, Speakers
from rescore.commands.syntax import list_files
from returnn_bridge.files import check_outputs, named


def tune(
    nbest: Sources,
    refs: Annotated[
        Path, typer.Option(help="Reference file: .py, Kaldi's text or .txt, .trn, .stm, .ctm, .json or .jsonl.")
    ],
    out: Annotated[Path, typer.Option(help="JSON file to write the scales to.")],
    free: Annotated[
        list[str] | None,
        typer.Option(
            help="Scale to tune: SOURCE or SOURCE:LOW:HIGH (default: words, and all sources but the first). "
            "The default range is -10 ... 10 for words and tokens:SOURCE, -2 ... 0 for a score named prior, "
            "and 0 ... 3 for all others."
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None, typer.Option(help="Scale that is not tuned: SOURCE:SCALE (default: the first source with 1).")
    ] = None,
    row: Annotated[
        str,
        typer.Option(
            help="All scales in one option, instead of --free and --fixed: SOURCE:SCALE,SOURCE,... as in `dlm rescore`."
        ),
    ] = "",
    resamples: Resamples = RESAMPLES,
    mbr: Annotated[
        bool,
        typer.Option(
            "--mbr",
            help="Tune the scale of a posterior as well, with which the hypothesis with the fewest expected word "
            "errors is chosen (minimum Bayes risk) instead of the one with the highest total.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 1,
    list_format: ListFormat = None,
    speakers: Speakers = "",
) -> None:
    """Choose the scales by exact line searches for the fewest word errors on resamples of the utterances, averaged."""
    from rescore.combination import tuning
    from rescore.combination.rows import RowSpec
    from rescore.combination.scales import WORDS
    from rescore.nbest import check_no_lists
    from rescore.nbest.references import read_with_references
    from rescore.nbest.types import never_chosen
    from rescore.report.table import format_scales
    from rescore.speakers import speakers_of

    if row and (free or fixed):
        raise ValueError(f"--row {row} and --free or --fixed; expected one of the two ways to say it")
    check_outputs([out], [*list_files(nbest), refs])
    check_no_lists([out])
    lists = read_with_references(nbest, refs, format=list_format)
    names = list(lists[0].hypotheses[0].scores)
    given = RowSpec.from_terms("fixed", ",".join(fixed).split(",")).fixed if fixed else {names[0]: 1.0}
    terms = ",".join(free).split(",") if free else [name for name in [*names, WORDS] if name not in given]
    chosen = RowSpec.from_terms("free", terms).free
    if len(given) < len(fixed or []):
        raise ValueError(f"--fixed {' '.join(fixed or [])}; expected SOURCE:SCALE, each source once")
    if len(chosen) < len(free or []):
        raise ValueError(f"--free {' '.join(free or [])}; expected SOURCE or SOURCE:LOW:HIGH, each source once")
    spec = RowSpec.from_terms("tuned", row.split(",")) if row else RowSpec("tuned", given, chosen)
    groups = speakers_of([utterance.seq_tag for utterance in lists], speakers) if speakers else None
    with named(", ".join(nbest)):
        result = tuning.tune(
            lists,
            free=spec.free,
            fixed=spec.fixed,
            resamples=resamples,
            seed=seed,
            groups=groups,
            expected_errors=mbr,
        )
    result.scales.save(out)
    print(f"{out}: WER {result.wer_percent:.2f} % on {len(lists)} utterances with {format_scales(result.scales)}")
    for name, count in never_chosen(lists).items():
        print(f"{count} hypotheses have {name} score -inf and are never chosen")
    for note in spec.notes():
        print(note)
    for warning in result.warnings:
        print(f"warning: {warning}")
