"""The verb `dlm rescore`, which scores lists with language models, tunes scales and writes a table and a report."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.options import say_device
from rescore.commands.options import RESAMPLES, ListFormat, Resamples, Speakers
from rescore.commands.syntax import list_files, parse_passes
from rescore.lms.open import open_scorer
from rescore.lms.options import ScoringOptions
from returnn_bridge.files import check_outputs, lock


def rescore(
    tune: Annotated[
        list[str],
        typer.Option(
            help="N-best file to tune the scales on, as PATH, or NAME=PATH for each of several aligned files."
        ),
    ],
    tune_refs: Annotated[Path, typer.Option(help="Reference file of the lists of --tune.")],
    test: Annotated[list[str], typer.Option(help="N-best file to report on, given as for --tune.")],
    test_refs: Annotated[Path, typer.Option(help="Reference file of the lists of --test.")],
    out: Annotated[Path, typer.Option(help="Folder to write scores, scales, tables and the report to.")],
    lm: Annotated[
        list[str] | None,
        typer.Option(help="Language model to score with: NAME=PATH, or NAME=PATH@ESTIMATOR[:PASSES]. May be repeated."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            help="Row of the table: NAME=SOURCE:SCALE,SOURCE,SOURCE:LOW:HIGH,... (default: the first score of the "
            "lists alone, all their scores, and these with each LM and each pair of LMs; the row 'first in list', the "
            "recogniser's order, is always there). A source without a scale is tuned between LOW and HIGH. The "
            "default range is -10 ... 10 for words and tokens:SOURCE, -2 ... 0 for a score named prior, and 0 ... 3 "
            "for all others."
        ),
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Row that the changes are measured against (default: 'first in list').")
    ] = "",
    title: Annotated[str, typer.Option(help="Title of the table and the report.")] = "WER",
    resamples: Resamples = RESAMPLES,
    mbr: Annotated[
        bool,
        typer.Option(
            "--mbr",
            help="In rows with tuned scales, choose the hypothesis with the fewest expected word errors (minimum Bayes "
            "risk) under a posterior, whose scale is tuned too, instead of the one with the highest total.",
        ),
    ] = False,
    scoring: ScoringOptions = ScoringOptions(),
    list_format: ListFormat = None,
    speakers: Speakers = "",
) -> None:
    """Score N-best lists with language models, tune the scales, and write a WER table and an HTML report."""
    from rescore import pipeline
    from rescore.combination.rows import RowSpec, file_name
    from rescore.nbest import split_source
    from rescore.report.page import write_report
    from rescore.report.table import TABLE_SUFFIXES

    rows = [RowSpec.parse(text) for text in row or []]
    scorers, paths = {}, {}
    inputs: list[str | Path] = [*list_files([*tune, *test]), tune_refs, test_refs]
    for item in lm or []:
        path, at, how = ("", "", "") if os.path.exists(split_source(item)[1]) else item.rpartition("@")
        estimator, _, count = how.partition(":")
        inputs += list_files([path if at else item])
        scorer = (
            open_scorer(path, replace(scoring, estimator=estimator, passes=parse_passes(item, count)))
            if at
            else open_scorer(item, scoring, chosen=False)
        )
        if scorer.name in scorers:
            raise ValueError(f"--lm {item}: a second score {scorer.name!r}; expected NAME=PATH with different names")
        scorers[scorer.name] = scorer
        paths[scorer.name] = split_source(path if at else item)[1]
    say_device(*(scorer.device for scorer in scorers.values()))
    check_outputs(pipeline.output_files(out, list(scorers)), inputs)
    with lock(out / "report.html"):  # because two runs at once would mix files of different tables in one folder
        result = pipeline.rescore(
            tune_sources=tune,
            tune_references=tune_refs,
            test_sources=test,
            test_references=test_refs,
            lms=scorers,
            out=out,
            rows=rows,
            baseline=baseline,
            seed=scoring.seed,
            title=title,
            resamples=resamples,
            expected_errors=mbr,
            command=shlex.join(["dlm", *sys.argv[1:]]),
            format=list_format,
            speakers=speakers,
            model_paths=paths,
        )
        (out / "scales").mkdir(exist_ok=True)
        for name, scales in result.scales.items():
            if scales.scores:  # the recogniser's order has none
                scales.save(out / "scales" / f"{file_name(name)}.json")
        for suffix in TABLE_SUFFIXES:
            result.table.save(out / f"wer{suffix}")
        write_report(out / "report.html", result)
    for note in result.notes:
        print(note)
    print(result.table.to_markdown())
    for name, tuned in result.tuned.items():
        for warning in tuned.warnings:
            print(f"warning: row {name!r}: {warning}")
    print(f"\nreport: {out / 'report.html'}")
