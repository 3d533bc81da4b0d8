"""The verb `dlm race`: each utterance's winner at a fraction of the passes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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

LADDER = "strided:2,strided:3"


def race(
    nbest: Sources,
    model: Annotated[str, typer.Option(help="Model folder of a diffusion LM; NAME=PATH names its score.")],
    out: Annotated[Path, typer.Option(help="Result: .jsonl, also .gz.")],
    scales: Annotated[
        Path | None, typer.Option(help="Scales as `dlm tune` wrote them, for --calibrate; they name the new score.")
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(help="Lists to learn from what a cheap score tells of the full one, as PATH or NAME=PATH."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Instead: what an earlier race learned (OUT.race.json).")
    ] = None,
    confidence: Annotated[float, typer.Option(help="That an utterance's winner is the one of full scoring.")] = 0.95,
    ladder: Annotated[str, typer.Option(help="Cheaper measurements, in order: ESTIMATOR:PASSES,...")] = LADDER,
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
    """Find the winners with few passes: hypotheses that can not win any more are dropped after each step of a ladder."""
    from rescore.lms.open import open_scorer
    from rescore.nbest import split_source
    from rescore.racing.race import Race, RacingScorer
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
    scorer = open_scorer(
        model,
        estimator=estimator,
        passes=passes,
        replicates=replicates,
        pieces=pieces,
        seed=seed,
        device=device,
        precision=precision,
        batch_tokens=batch_tokens,
    )
    if getattr(scorer, "estimator", None) is None or scorer.model.family.exact:
        raise ValueError(f"{model}: scores a text in one pass; a race is for diffusion models")
    stages = [scorer.with_estimator(how) for how in parse_ladder(ladder, replicates)]
    kind = "masks" if scorer.model.family.scoring == "masks" else "noise"
    for how_measured in [scorer.estimator, *(stage.estimator for stage in stages)]:
        if how_measured.measures != kind or how_measured.name == "one-pass":
            raise ValueError(
                f"{model}: {how_measured.name} is no step of a race for this model; expected --estimator and --ladder of "
                f"{'masks, such as strided' if kind == 'masks' else 'draws, such as --estimator draws --ladder draws:2,draws:4'}"
            )
    if calibration is not None:
        how = Race.load(calibration)
        if (how.name, how.confidence) != (scorer.name, confidence):
            raise ValueError(
                f"{calibration}: for the score {how.name!r} at confidence {how.confidence}; expected {scorer.name!r} at {confidence}"
            )
    else:
        assert scales is not None and calibrate is not None, "checked above"
        how = learn(calibrate, scorer, stages, scales, confidence, out, list_format)
    racer = RacingScorer(scorer, stages, how)
    run = score_file(nbest, racer, out, format=list_format)
    if calibrate is not None:
        how.save(learned)  # behind the scoring, which refuses an `out` of another race: what belongs to that one stays
    details: list[Mapping[str, Any]] = [h.details[scorer.name] for utterance in run.lists for h in utterance.hypotheses]
    doubt = sum(detail.get("win_probability", 0.0) for detail in details)
    spent = sum(detail["num_passes"] for detail in details)
    dropped = sum("win_probability" in detail for detail in details)
    print(
        f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s\n"
        f"passes a hypothesis: {spent / run.hypotheses:.2f} asked for, {run.passes / run.hypotheses:.2f} run; "
        f"measured in full: {1 - dropped / run.hypotheses:.1%}\n"
        f"winners that full scoring would change, expected at most: {doubt:.1f} of {len(run.lists)}"
    )


def learn(
    calibrate: list[str],
    scorer: Any,
    stages: list[Any],
    scales: Path,
    confidence: float,
    out: Path,
    list_format: str | None = None,
) -> Any:
    """A race fitted on lists that are scored in full and at every stage; what is scored stays in OUT.calibration/."""
    from rescore.combination.scales import Scales
    from rescore.nbest import read_sources
    from rescore.racing.race import calibrate as fit
    from rescore.score_file import recorded, score_file

    folder = out.with_name(f"{out.name}.calibration")
    lists = read_sources(calibrate, format=list_format)
    if scorer.name in lists[0].hypotheses[0].scores:
        made = recorded(calibrate, format=list_format).get(scorer.name)
        if made is None or made.facts != scorer.describe():
            raise ValueError(
                f"the calibration lists have a score {scorer.name!r} that was not made with these settings; expected one that was, or none"
            )
    else:
        lists = score_file(calibrate, scorer, folder / "full.jsonl", format=list_format).lists
    found = []
    for place, stage in enumerate(stages):
        stage.name = f"{scorer.name}-{place + 1}"
        stage_file = folder / f"{place + 1}.jsonl"
        scored = score_file(calibrate, stage, stage_file, new_only=True, format=list_format).lists
        found.append([[hypothesis.scores[stage.name] for hypothesis in utterance.hypotheses] for utterance in scored])
    tokens = [scorer.encode([hypothesis.text for hypothesis in utterance.hypotheses]) for utterance in lists]
    return fit(lists, scorer.name, found, tokens, Scales.load(scales), confidence=confidence)


def parse_ladder(text: str, replicates: int) -> list[Any]:
    """Estimators of ESTIMATOR:PASSES,ESTIMATOR:PASSES ...; none for an empty text."""
    from rescore.estimators import build_estimator

    found = []
    for part in filter(None, text.split(",")):
        name, colon, passes = part.rpartition(":")
        if not colon or not passes.isdigit():
            raise ValueError(f"--ladder {part!r}; expected ESTIMATOR:PASSES, such as strided:2")
        found.append(build_estimator(name, passes=int(passes), replicates=replicates))
    return found
