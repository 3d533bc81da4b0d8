"""The verbs that score lists: `dlm score`, `merge`; `dlm estimators` lists the ways to do it."""

from __future__ import annotations

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
    Sources,
)
from rescore.commands.syntax import list_files, parse_shard
from rescore.lms.open import describe_short, open_scorer
from returnn_bridge.files import check_outputs


def score(
    nbest: Sources,
    model: Annotated[
        str,
        typer.Option(
            help="Model folder of ours, .arpa / KenLM file, or Hugging Face folder; NAME=PATH names its score."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Result: .jsonl (all scores) or .py (the new score alone), also .gz.")],
    estimator: Estimator = "auto",
    passes: Passes = None,
    replicates: Replicates = 4,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "32",
    batch_tokens: BatchTokens = None,
    pieces: Pieces = False,
    new_only: Annotated[
        bool, typer.Option("--new-only", help="A .jsonl holds the new score alone, to be read together with others.")
    ] = False,
    shard: Annotated[str, typer.Option(help="NUMBER/COUNT, such as 2/8: score that part only, for `dlm merge`.")] = "",
    list_format: ListFormat = None,
) -> None:
    """Score every hypothesis with a language model. Interrupted, the same command goes on to the same bytes."""
    from rescore.score_file import score_file

    check_outputs([out], [*list_files(nbest), *list_files([model])])
    scorer = open_scorer(
        model,
        estimator=estimator,
        passes=passes,
        replicates=replicates,
        seed=seed,
        device=device,
        precision=precision,
        batch_tokens=batch_tokens,
        pieces=pieces,
    )
    run = score_file(nbest, scorer, out, shard=parse_shard(shard), new_only=new_only, format=list_format)
    unknown = "" if run.unknown is None else f", unknown to the model: {run.unknown}"
    print(
        f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s, "
        f"{describe_short(scorer)}{unknown}"
    )


def merge(
    parts: Annotated[list[Path], typer.Argument(help="The files of all shards of `dlm score --shard`.")],
    out: Annotated[list[Path], typer.Option(help="Result, as of `dlm score`; several forms may be given.")],
) -> None:
    """Put the parts of a sharded scoring together: the same bytes as scored in one go."""
    from rescore.score_file import merge_parts, score_target

    check_outputs(map(score_target, out), parts)
    runs = [merge_parts(parts, target) for target in out]
    for run in runs:
        print(f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s")


def estimators() -> None:
    """List the ways to measure a diffusion score, their targets and whether they are unbiased."""
    from rescore.estimators import ESTIMATORS

    for name, kind in ESTIMATORS.items():
        bias = "unbiased" if kind.unbiased else "biased"
        first = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        passes = kind.usual_passes or kind.cost
        print(f"{name:16s} target {kind.target}, {bias}, passes: {passes}. {first}")
