"""The verbs that make tables: `dlm wer` for one set of lists, `dlm overview` for several sets side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rescore.commands.options import ListFormat, Sources, Speakers
from rescore.commands.syntax import list_files, parse_scales, scales_file
from rescore.lms.options import Seed
from returnn_bridge.files import check_outputs, named


def wer(
    nbest: Sources,
    refs: Annotated[
        Path, typer.Option(help="Reference file: .py, Kaldi's text or .txt, .trn, .stm, .ctm, .json or .jsonl.")
    ],
    scales: Annotated[
        list[str] | None,
        typer.Option(
            help="Scales of one row of the table: FILE or NAME=FILE of `dlm tune`, or NAME=SOURCE:SCALE,SOURCE:SCALE "
            "(default: only the row of the first hypotheses as listed). May be repeated."
        ),
    ] = None,
    mbr: Annotated[
        float | None,
        typer.Option(
            help="Choose in the rows of --scales the hypothesis with the fewest expected word errors (minimum "
            "Bayes risk), under a posterior with this scale of the totals; `dlm tune --mbr` tunes it "
            "and writes it to its file."
        ),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="File to write the table to as well: .md, .csv, .json or .tex. May be repeated."),
    ] = None,
    transcripts: Annotated[
        list[Path] | None,
        typer.Option(
            help="File to write the winners of the last row to: .trn, .ctm, .stm, .txt or .py. May be repeated."
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Row that the changes are measured against (default: the first).")] = "",
    title: Annotated[str, typer.Option(help="Title of the table.")] = "WER",
    seed: Seed = 1,
    list_format: ListFormat = None,
    speakers: Speakers = "",
) -> None:
    """Print a table of word error rates with S/D/I, the oracle and paired bootstrap intervals against the baseline."""
    from rescore.combination.rows import FIRST, check_row_name
    from rescore.combination.scales import Scales, best_texts
    from rescore.nbest import check_no_lists
    from rescore.nbest.reference_formats import transcript_format
    from rescore.nbest.references import check_transcripts, read_with_references, write_transcripts
    from rescore.nbest.types import never_chosen
    from rescore.pipeline import seconds_of, unknown_in
    from rescore.report.table import ResultTable, evaluate, table_suffix
    from rescore.score_file import recorded
    from rescore.speakers import speakers_of

    if mbr is not None and not scales:
        raise ValueError(f"--mbr {mbr:g} without --scales; expected the scales of the totals")
    for path in out or []:
        table_suffix(path)
    for path in transcripts or []:
        transcript_format(path)
    outputs = [*(out or []), *(transcripts or [])]
    check_outputs(outputs, [*list_files(nbest), refs, *filter(None, map(scales_file, scales or []))])
    check_no_lists(outputs)
    lists = read_with_references(nbest, refs, format=list_format)
    rows = {FIRST: Scales({})}
    for item in scales or []:
        name, row_scales = parse_scales(item)
        check_row_name(name)
        if name in rows:
            raise ValueError(f"--scales {item}: the name {name!r} has another row; expected different names")
        rows[name] = row_scales if mbr is None else replace(row_scales, posterior=mbr)
    known = recorded(nbest, format=list_format)
    groups = speakers_of([utterance.seq_tag for utterance in lists], speakers) if speakers else None
    seconds = seconds_of(rows, known)
    with named(", ".join(nbest)):
        measured = evaluate(lists, rows, baseline=baseline or FIRST, seed=seed, seconds=seconds, groups=groups)
    table = ResultTable(
        title,
        measured,
        baseline=baseline or FIRST,
        scales_from="as given",
        metadata={
            "nbest": nbest,
            "refs": str(refs),
            "seed": seed,
            **({"speakers": speakers} if speakers else {}),
            "models": {name: record.facts for name, record in known.items()},
        },
        unknown=unknown_in(known),
        speakers=len(set(groups)) if groups else None,
        never=never_chosen(lists),
    )
    best = best_texts(lists, list(rows.values())[-1])
    for path in transcripts or []:
        check_transcripts(path, best)
    for path in out or []:
        table.save(path)
    for path in transcripts or []:
        write_transcripts(path, best)
    print(table.to_markdown())


def overview(
    tables: Annotated[
        list[str],
        typer.Argument(help="WER tables in .json with the same rows, each as SET=FILE. Each set becomes a column."),
    ],
    out: Annotated[list[Path], typer.Option(help="File to write: .md, .csv, .json or .tex. May be repeated.")],
    title: Annotated[str, typer.Option(help="Title of the table.")] = "WER %",
    tuned_on: Annotated[
        str, typer.Option(help="Name of the set that the scales were tuned on; its column is marked.")
    ] = "",
) -> None:
    """Put the WER tables of several sets side by side."""
    from rescore.nbest import check_no_lists
    from rescore.report.overview import read_overview
    from rescore.report.table import table_suffix

    for path in out:
        table_suffix(path)
    check_outputs(out, [item.partition("=")[2] for item in tables])
    check_no_lists(out)
    found = read_overview(tables, title=title, tuned_on=tuned_on)
    for path in out:
        found.save(path)
    print(found.to_markdown())
