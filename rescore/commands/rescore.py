"""The verb `dlm rescore`: lists and language models in, a table and a report out."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from rescore.commands.options import (
    BatchTokens,
    Device,
    Estimator,
    ListFormat,
    Passes,
    Pieces,
    Precision,
    Replicates,
    Seed,
)
from rescore.commands.syntax import list_files, parse_passes
from rescore.lms.open import open_scorer
from returnn_bridge.files import check_outputs, lock


def rescore(
    tune: Annotated[
        list[str], typer.Option(help="N-best lists to tune scales on; several aligned files as NAME=PATH.")
    ],
    tune_refs: Annotated[Path, typer.Option(help="Their references.")],
    test: Annotated[list[str], typer.Option(help="N-best lists to report on.")],
    test_refs: Annotated[Path, typer.Option(help="Their references.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, scales, tables and the report.")],
    lm: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of a language model, with @ESTIMATOR[:PASSES] after it if wanted."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            help="A row of the table: NAME=SOURCE:SCALE,SOURCE,SOURCE:LOW:HIGH,... (default: each LM and each pair). A source "
            "without a scale is tuned, within 0 ... 3, words and tokens:SOURCE -10 ... 10, a score named prior -2 ... 0."
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Row that the changes are measured against (default: the first).")] = "",
    title: Annotated[str, typer.Option(help="Of the table.")] = "WER",
    estimator: Estimator = "auto",
    passes: Passes = None,
    replicates: Replicates = 4,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "32",
    batch_tokens: BatchTokens = None,
    pieces: Pieces = False,
    list_format: ListFormat = None,
) -> None:
    """Score, tune and report in one go: lists and language models in, a WER table and an HTML report out."""
    from rescore import pipeline
    from rescore.combination.rows import RowSpec, file_name
    from rescore.nbest import split_source
    from rescore.report.page import write_report
    from rescore.report.table import TABLE_SUFFIXES

    rows = [RowSpec.parse(text) for text in row or []]
    scorers = {}
    inputs: list[str | Path] = [*list_files([*tune, *test]), tune_refs, test_refs]
    for item in lm or []:
        path, at, how = ("", "", "") if os.path.exists(split_source(item)[1]) else item.rpartition("@")
        own_estimator, _, count = how.partition(":")
        inputs += list_files([path if at else item])
        scorer = open_scorer(
            path if at else item,
            estimator=own_estimator if at else estimator,
            passes=parse_passes(item, count) if at else passes,
            replicates=replicates,
            seed=seed,
            device=device,
            precision=precision,
            batch_tokens=batch_tokens,
            pieces=pieces,
            chosen=bool(at),
        )
        if scorer.name in scorers:
            raise ValueError(f"--lm {item}: the name {scorer.name!r} is taken; expected NAME=PATH with different names")
        scorers[scorer.name] = scorer
    check_outputs(pipeline.output_files(out, list(scorers)), inputs)
    with lock(out / "report.html"):  # the files of two runs in one folder would belong to different tables
        result = pipeline.rescore(
            tune_sources=tune,
            tune_references=tune_refs,
            test_sources=test,
            test_references=test_refs,
            lms=scorers,
            out=out,
            rows=rows,
            baseline=baseline,
            seed=seed,
            title=title,
            command=shlex.join(["dlm", *sys.argv[1:]]),
            format=list_format,
        )
        (out / "scales").mkdir(exist_ok=True)
        for name, scales in result.scales.items():
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
