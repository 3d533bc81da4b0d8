"""The verb `dlm race`, which finds the winner of each utterance with a fraction of the network passes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.options import say_device
from rescore.commands.options import ListFormat, Sources
from rescore.lms.options import ScoringOptions

LADDER = "strided:2,strided:3"


def race(
    nbest: Sources,
    model: Annotated[str, typer.Option(help="Model folder of a diffusion LM. NAME=PATH sets the name of its score.")],
    out: Annotated[Path, typer.Option(help="Score file to write: .jsonl or .jsonl.gz.")],
    scales: Annotated[
        Path | None,
        typer.Option(
            help="Scales file of `dlm tune`, needed with --calibrate. It must hold a scale for the new score."
        ),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            help="N-best lists, as PATH or NAME=PATH, on which the prediction of full scores from cheap ones is fitted."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file of an earlier race (OUT.race.json), instead of --calibrate.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Probability that the winner of an utterance is the same as with full scoring.")
    ] = 0.95,
    ladder: Annotated[
        str, typer.Option(help="Cheaper measurements to run first, in this order: ESTIMATOR:PASSES,...")
    ] = LADDER,
    scoring: ScoringOptions = ScoringOptions(),
    list_format: ListFormat = None,
) -> None:
    """Find the winners with few network passes. Hypotheses that are unlikely to win are dropped after each
    measurement."""
    from rescore.combination.scales import Scales
    from rescore.lms.open import open_scorer
    from rescore.nbest import split_source
    from rescore.racing.race import Race
    from rescore.racing.scorer import RaceCost, RacingScorer, build_stages, learn_race
    from rescore.score_file import score_file
    from returnn_bridge.files import check_outputs, has_suffix

    if not has_suffix(out, ".jsonl"):
        raise ValueError(
            f"{out}: expected a name ending in .jsonl or .jsonl.gz, which can say what was measured and what predicted"
        )
    if (calibration is None) == (calibrate is None) or (calibrate is None) != (scales is None):
        raise ValueError("a race needs either --calibrate with --scales or --calibration")
    learned = out.with_name(f"{out.name}.race.json")
    inputs = [split_source(source)[1] for source in (*nbest, *(calibrate or []), model)]
    check_outputs([out, *([learned] if calibrate else [])], [*inputs, *filter(None, (scales, calibration))])
    opened = open_scorer(model, scoring)
    say_device(opened.device)
    scorer, stages = build_stages(opened, ladder, replicates=scoring.replicates)
    if calibration is not None:
        how = Race.load(calibration)
        if (how.name, how.confidence) != (scorer.name, confidence):
            raise ValueError(
                f"{calibration}: for the score {how.name!r} at confidence {how.confidence}; "
                f"expected {scorer.name!r} at {confidence}"
            )
    else:
        assert scales is not None and calibrate is not None, "checked above"
        folder = out.with_name(f"{out.name}.calibration")
        how = learn_race(
            calibrate, scorer, stages, Scales.load(scales), confidence=confidence, folder=folder, format=list_format
        )
    run = score_file(nbest, RacingScorer(scorer, stages, how), out, format=list_format)
    if calibrate is not None:
        how.save(
            learned
        )  # after the scoring, because that refuses an `out` of another race, whose calibration must be kept
    cost = RaceCost.of(run.lists, scorer.name)
    print(
        f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s\n"
        f"passes a hypothesis: {cost.passes / run.hypotheses:.2f} asked for, {run.passes / run.hypotheses:.2f} run; "
        f"measured in full: {1 - cost.dropped / run.hypotheses:.1%}\n"
        f"winners that full scoring would change, expected at most: {cost.changed_winners:.1f} of {len(run.lists)}"
    )
