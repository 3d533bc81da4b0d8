"""Functions that the verbs of diffusion_lm take from this package: mode `rescore` of a configuration tree, and the
perplexity of samples under another LM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from diffusion_lm.commands.services import Services


def rescore_mode(
    hypothesis_file: str, output: Path, model_folder: str, *, estimator: str, passes: int, seed: int, device: str
) -> None:
    """Mode `rescore` of an MDLM configuration: score a RETURNN N-best file and write the result in its format."""
    from rescore.lms.open import describe_short, open_scorer
    from rescore.lms.options import ScoringOptions
    from rescore.nbest import iterate_nbest
    from rescore.score_file import score_file

    # RETURNN writes the labels of the recogniser, which may be pieces or words.
    pieces = any(
        "▁" in hypothesis.text for utterance in iterate_nbest(hypothesis_file) for hypothesis in utterance.hypotheses
    )
    scoring = ScoringOptions(estimator=estimator, passes=passes, replicates=1, seed=seed, device=device, pieces=pieces)
    scorer = open_scorer(model_folder, scoring, chosen=False)
    run = score_file([hypothesis_file], scorer, output)
    print(
        f"{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s, "
        f"{describe_short(scorer)}"
    )


def judge_mode(model: str, *, device: str) -> Callable[[Sequence[str]], str]:
    """A function that measures the generative perplexity of samples under the given model; prints its limit first."""
    from rescore.lms.generative_perplexity import open_judge

    judge = open_judge(model, device=device)
    if judge.limit:
        print(judge.limit)
    return judge


SERVICES = Services(rescore=rescore_mode, open_judge=judge_mode)
