"""The verbs that score lists, `dlm score`, `dlm prior` and `dlm merge`, and the list of `dlm estimators`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.options import say_device
from rescore.commands.options import ListFormat, Sources
from rescore.commands.syntax import list_files, parse_shard
from rescore.lms.open import describe_short, open_scorer
from rescore.lms.options import ScoringOptions
from returnn_bridge.files import check_outputs


def score(
    nbest: Sources,
    model: Annotated[
        str,
        typer.Option(
            help="Model folder of this package, ARPA or KenLM file, Hugging Face folder, or RETURNN LM (.yaml). "
            "NAME=PATH sets the name of its score."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Score file to write: .jsonl (all scores) or .py (only the new score), each also .gz.")
    ],
    scoring: ScoringOptions = ScoringOptions(),
    new_only: Annotated[
        bool,
        typer.Option(
            "--new-only",
            help="Write only the new score into a .jsonl file, which can then be read together with other score files.",
        ),
    ] = False,
    shard: Annotated[
        str,
        typer.Option(help="Score only one part of the lists: NUMBER/COUNT, such as 2/8. `dlm merge` joins the parts."),
    ] = "",
    list_format: ListFormat = None,
) -> None:
    """Score every hypothesis with a language model. After an interruption, the same command resumes.

    The result has the same bytes as that of an uninterrupted run.
    """
    from rescore.score_file import score_file

    check_outputs([out], [*list_files(nbest), *list_files([model])])
    scorer = open_scorer(model, scoring)
    say_device(scorer.device)
    run = score_file(nbest, scorer, out, shard=parse_shard(shard), new_only=new_only, format=list_format)
    unknown = "" if run.unknown is None else f", unknown to the model: {run.unknown}"
    print(
        f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s, "
        f"{describe_short(scorer)}{unknown}"
    )


def prior(
    nbest: Sources,
    prior: Annotated[
        Path, typer.Option(help="Text file with the log-prior of each piece, in the order of the vocabulary.")
    ],
    vocab: Annotated[Path, typer.Option(help="SentencePiece .model file of the recogniser's labels.")],
    out: Annotated[
        Path, typer.Option(help="Score file to write: .jsonl (all scores) or .py (only the new score), each also .gz.")
    ],
    name: Annotated[str, typer.Option(help="Name of the score.")] = "prior",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="The file has probabilities instead of their logarithms.")
    ] = False,
    pieces: Annotated[bool, typer.Option("--pieces", help="The texts are space-separated pieces.")] = False,
    list_format: ListFormat = None,
) -> None:
    """Score every hypothesis with the prior of the recogniser's labels, to be combined with a negative scale."""
    from rescore.lms.label_prior import LabelPriorScorer
    from rescore.score_file import score_file

    check_outputs([out], [*list_files(nbest), prior, vocab])
    scorer = LabelPriorScorer(prior, vocab, name=name, probabilities=probabilities, pieces=pieces)
    run = score_file(nbest, scorer, out, new_only=True, format=list_format)
    print(f"{run.note()}{run.out}: {len(run.lists)} utterances, unknown to the vocabulary: {run.unknown}")


def merge(
    parts: Annotated[
        list[Path], typer.Argument(help="Score files of all shards of `dlm score --shard`, in any order.")
    ],
    out: Annotated[list[Path], typer.Option(help="Score file to write, as for `dlm score`. May be repeated.")],
) -> None:
    """Join the score files of all shards. The result has the same bytes as that of a run without shards."""
    from rescore.score_file import merge_parts, score_target

    check_outputs(map(score_target, out), parts)
    runs = [merge_parts(parts, target) for target in out]
    for run in runs:
        print(f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s")


def estimators() -> None:
    """List the estimators for scores of diffusion models, with their targets, bias and numbers of passes."""
    from rescore.estimators import ESTIMATORS

    for name, kind in ESTIMATORS.items():
        bias = "unbiased" if kind.unbiased else "biased"
        first = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        passes = kind.usual_passes or kind.cost
        print(f"{name:16s} target {kind.target}, {bias}, passes: {passes}. {first}")
