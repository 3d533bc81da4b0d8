"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Sources = Annotated[
    list[str],
    typer.Argument(
        help="N-best file, or several aligned files as NAME=PATH: .py, .jsonl, .json, each also .gz "
        "(for others see --format)."
    ),
]
ListFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of all N-best files that are read: returnn-py, json-lines, mlm-scoring or flat-json "
        "(default: chosen by the suffix, and for .json by the beginning of the file).",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the random masks and noise of the scores, and of the bootstrap.")]
Estimator = Annotated[
    str,
    typer.Option(
        help="Estimator for the scores of a diffusion model; `dlm estimators` lists them. "
        "auto: strided for a model trained on light masking, else control."
    ),
]
Passes = Annotated[
    int | None,
    typer.Option(
        help="Number of network passes per hypothesis (default: depends on the estimator, see `dlm estimators`)."
    ),
]
Replicates = Annotated[
    int,
    typer.Option(
        help="Number of independent repetitions that the passes are divided into; they give the standard error."
    ),
]
Device = Annotated[str, typer.Option(help="Device that the network runs on: cpu, cuda, cuda:1 ...")]
Precision = Annotated[str, typer.Option(help="Precision of the network: '32' or 'bf16'.")]
BatchTokens = Annotated[
    int | None, typer.Option(help="Maximum number of tokens in one forward pass (default: 2048 on a CPU, else 32768).")
]
Pieces = Annotated[
    bool,
    typer.Option(
        "--pieces", help="The texts of the hypotheses are space-separated SentencePiece pieces instead of words."
    ),
]
Resamples = Annotated[
    int,
    typer.Option(
        help="Number of bootstrap resamples of the tuning utterances. The scales are the mean of those with the fewest "
        "errors on each resample; with 0, those with the fewest errors on the utterances as they are."
    ),
]
