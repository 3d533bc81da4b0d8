"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Sources = Annotated[
    list[str],
    typer.Argument(
        help="N-best file, or several aligned ones as NAME=PATH (.py, .jsonl, .json, each also .gz; else see --format)."
    ),
]
ListFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of all N-best files that are read, where their suffixes do not tell: returnn-py, json-lines, "
        "mlm-scoring or flat-json (default: by the suffix, and within .json by a look into the file).",
    ),
]
Seed = Annotated[int, typer.Option(help="Of masks and bootstrap.")]
Estimator = Annotated[
    str,
    typer.Option(
        help="How a diffusion model is scored, see `dlm estimators`. auto: strided for a model trained on light masking, else control."
    ),
]
Passes = Annotated[
    int | None,
    typer.Option(help="Network passes per hypothesis (default: that of the estimator, see `dlm estimators`)."),
]
Replicates = Annotated[
    int, typer.Option(help="Independent repetitions within the passes; the standard error comes from them.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Precision = Annotated[str, typer.Option(help="Of the network: '32' or 'bf16'.")]
BatchTokens = Annotated[
    int | None, typer.Option(help="Most tokens of one forward pass (default: 2048 on a CPU, else 32768).")
]
Pieces = Annotated[bool, typer.Option("--pieces", help="Texts are space-separated SentencePiece pieces, not words.")]
