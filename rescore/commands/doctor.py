"""The verb `dlm doctor`, which looks for mistakes in lists, references, scales and their language model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from rescore.commands.options import ListFormat, Sources
from rescore.commands.syntax import parse_scales
from rescore.lms.options import ScoringOptions


def doctor(
    nbest: Sources,
    refs: Annotated[str, typer.Option(help="Reference file (default: the references in the lists, if any).")] = "",
    model: Annotated[
        str, typer.Option(help="Language model whose unknown words are counted: an n-gram, or a model folder of ours.")
    ] = "",
    test: Annotated[
        list[str] | None, typer.Option(help="N-best file of the test set, if NBEST is to tune on. May be repeated.")
    ] = None,
    scales: Annotated[
        list[str] | None, typer.Option(help="Scales to look at, given as for `dlm wer`. May be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of findings.")] = False,
    list_format: ListFormat = None,
) -> None:
    """Look for mistakes that make no error message but a wrong table, and say where to look and what to do.

    Exit status 1 if there is a finding of the severity "error", else 0.
    """
    from rescore.doctor import examine, read_case
    from rescore.lms.base import EstimatingScorer
    from rescore.lms.open import open_scorer

    scorer = open_scorer(model, ScoringOptions(device="cpu")) if model else None
    if scorer is not None and scorer.device and not isinstance(scorer, EstimatingScorer):
        raise ValueError(f"--model {model}: its words can not be counted; expected an n-gram or a model folder of ours")
    case = read_case(
        nbest,
        references=refs,
        tests=test or [],
        model=scorer,
        scales=dict(map(parse_scales, scales or [])),
        format=list_format,
    )
    found = examine(case)
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    else:
        for finding in found:
            print(finding)
        errors = sum(finding.severity == "error" for finding in found)
        print(f"{errors} errors, {len(found) - errors} warnings" if found else "no findings")
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)
