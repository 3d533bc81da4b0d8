"""The options for scoring with a language model, declared once for the verbs, the jobs and `open_scorer`.

    scorer = open_scorer("masked=runs/masked/model", ScoringOptions(estimator="control", passes=17, device="cuda"))

The text in an annotation is both the documentation of a field and the help of its option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

Seed = Annotated[int, "Seed of the random masks and noise of the scores, and of the bootstrap."]
Device = Annotated[str, "Device that the network runs on: auto (a GPU if there is one), cpu, cuda, cuda:1 ..."]
BatchTokens = Annotated[
    int | None, "Maximum number of tokens in one forward pass (default: 2048 on a CPU, else 32768)."
]


@dataclass(frozen=True)
class ScoringOptions:
    """How a language model is opened and run."""

    estimator: Annotated[
        str,
        "Estimator for the scores of a diffusion model; `dlm estimators` lists them. "
        "auto: strided for a model trained on light masking, else control.",
    ] = "auto"
    passes: Annotated[
        int | None, "Number of network passes per hypothesis (default: depends on the estimator, see `dlm estimators`)."
    ] = None
    replicates: Annotated[
        int, "Number of independent repetitions that the passes are divided into; they give the standard error."
    ] = 4
    seed: Seed = 1
    device: Device = "auto"
    precision: Annotated[str, "Precision of the network: '32' or 'bf16'."] = "32"
    batch_tokens: BatchTokens = None
    pieces: Annotated[
        bool, "The texts of the hypotheses are space-separated SentencePiece pieces instead of words."
    ] = False
