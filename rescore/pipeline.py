"""From lists to a table in one go: score with every LM, tune each row's scales on one set, report on another.

    result = rescore(
        tune_sources=["dev.py.gz"], tune_references="dev.ref.py.gz", test_sources=["test.py.gz"], test_references="test.ref.py.gz",
        lms={"ar": NetworkScorer("runs/ar/model", name="ar"), "4gram": NgramScorer("4gram.arpa", name="4gram")}, out="out",
    )
    print(result.table.to_markdown())

Scales never see the test set. Everything scored stays in `out` and is not scored again.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from rescore.combination.scales import TOKENS, WORDS, Scales, winners
from rescore.combination.tuning import TuneResult, tune
from rescore.lms.base import LanguageModelScorer
from rescore.nbest import read_sources
from rescore.nbest.references import attach_reference_file
from rescore.nbest.types import NBestList
from rescore.report.table import TABLE_SUFFIXES, ResultTable, check_row_name, evaluate
from rescore.score_file import Recorded, recorded, score_file
from rescore.scores import UnknownCounts
from rescore.wer import error_table

RANGES = {WORDS: (-10.0, 10.0), "prior": (-2.0, 0.0)}
LM_RANGE = (0.0, 3.0)


@dataclass(frozen=True)
class System:
    """A row: scales that are given, and scales to tune within their ranges."""

    name: str
    fixed: Mapping[str, float]
    free: Mapping[str, tuple[float, float]]

    @classmethod
    def parse(cls, text: str) -> System:
        """`NAME=SOURCE:SCALE,SOURCE,SOURCE:LOW:HIGH`: a given scale, one to tune in its usual range, one to tune in a given range."""
        name, equals, body = text.rpartition("=")
        if not equals or not name or not body:
            raise ValueError(f"row {text!r}; expected NAME=SOURCE:SCALE,SOURCE,... e.g. '+ AR=am:1,ar,words'")
        check_row_name(name)
        fixed: dict[str, float] = {}
        free: dict[str, tuple[float, float]] = {}
        for part in body.split(","):
            source, *numbers = part.strip().removeprefix(TOKENS).split(":")
            source = TOKENS + source if part.strip().startswith(TOKENS) else source
            if source in fixed or source in free:
                raise ValueError(f"row {name!r}: {source!r} is given twice; expected each source once")
            try:
                values = [float(number) for number in numbers]
            except ValueError:
                raise ValueError(f"row {name!r}: {part!r}; expected SOURCE, SOURCE:SCALE or SOURCE:LOW:HIGH") from None
            if len(values) == 1:
                fixed[source] = values[0]
            elif len(values) == 2:
                free[source] = (values[0], values[1])
            elif not values:
                free[source] = RANGES[WORDS] if source.startswith(TOKENS) else RANGES.get(source, LM_RANGE)
            else:
                raise ValueError(f"row {name!r}: {part!r}; expected SOURCE, SOURCE:SCALE or SOURCE:LOW:HIGH")
        return cls(name, fixed, free)


@dataclass(frozen=True)
class RescoreResult:
    """The table, and what led to it."""

    table: ResultTable
    tuned: Mapping[str, TuneResult]
    """By row; rows with given scales have none."""
    scales: Mapping[str, Scales]
    tune_lists: list[NBestList]
    test_lists: list[NBestList]
    notes: tuple[str, ...] = ()
    """What was there already."""


def default_systems(acoustic: str, lms: Sequence[str]) -> list[System]:
    """The acoustic score alone, with each LM, and with each pair of LMs; a word term is tuned with every LM."""
    systems = [System(f"{acoustic} only", {acoustic: 1.0}, {})]
    for size in (1, 2):
        for names in itertools.combinations(lms, size):
            free = dict.fromkeys(names, LM_RANGE) | {WORDS: RANGES[WORDS]}
            systems.append(System("+ " + " and ".join(names), {acoustic: 1.0}, free))
    return systems


def rescore(
    *,
    tune_sources: Sequence[str],
    tune_references: str | os.PathLike[str],
    test_sources: Sequence[str],
    test_references: str | os.PathLike[str],
    lms: Mapping[str, LanguageModelScorer],
    out: str | os.PathLike[str],
    systems: Sequence[System] = (),
    baseline: str = "",
    seed: int = 1,
    title: str = "WER",
    command: str = "",
) -> RescoreResult:
    """Score both sets with every LM, tune every row on the first, measure it on the second. Resumable: scores in `out` are kept.

    ValueError for what is wrong with the files, rows that name unknown sources, or a baseline that is no row.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tune_lists = attach_reference_file(read_sources(tune_sources), tune_references)
    test_lists = attach_reference_file(read_sources(test_sources), test_references)
    acoustic = next(iter(tune_lists[0].hypotheses[0].scores))
    systems = list(systems) or default_systems(acoustic, list(lms))
    baseline = baseline or systems[0].name
    _check_names(systems, baseline, list(lms), list(tune_lists[0].hypotheses[0].scores))
    known = recorded(test_sources)  # what was scored before
    notes: list[str] = []
    for name, scorer in lms.items():
        tune_run = score_file(tune_sources, scorer, folder / f"tune.{name}.jsonl")
        test_run = score_file(test_sources, scorer, folder / f"test.{name}.jsonl")
        tune_lists = _with_score_of(tune_lists, tune_run.lists, name)
        test_lists = _with_score_of(test_lists, test_run.lists, name)
        known[name] = Recorded(scorer.describe(), test_run.seconds, test_run.unknown)
        notes += [run.note().strip() for run in (tune_run, test_run) if run.was_complete]
    tune_table, test_table = error_table(tune_lists), error_table(test_lists)
    tuned: dict[str, TuneResult] = {}
    scales: dict[str, Scales] = {}
    for system in systems:
        if system.free:
            tuned[system.name] = tune(tune_lists, free=system.free, fixed=system.fixed, table=tune_table)
            scales[system.name] = tuned[system.name].scales
        else:
            scales[system.name] = Scales.from_named(system.fixed)
            winners(tune_lists, scales[system.name])  # an unknown source fails here, with the utterance
    rows = evaluate(
        test_lists,
        scales,
        baseline=baseline,
        seed=seed,
        seconds=seconds_of(scales, known),
        table=test_table,
    )
    table = ResultTable(
        title,
        rows,
        baseline=baseline,
        scales_from=f"tuned on {', '.join(map(str, tune_sources))}",
        metadata={
            "tune": list(map(str, tune_sources)),
            "test": list(map(str, test_sources)),
            "models": {name: record.facts for name, record in known.items()},
            "seed": seed,
            **({"command": command} if command else {}),
            "python": platform.python_version(),
        },
        unknown=unknown_in(known),
    )
    return RescoreResult(table, tuned, scales, tune_lists, test_lists, tuple(notes))


def output_files(folder: Path, lms: Sequence[str]) -> list[Path]:
    """What `dlm rescore` writes into its folder, scales of rows left out."""
    tables = [folder / f"wer{suffix}" for suffix in TABLE_SUFFIXES]
    return [
        *tables,
        folder / "report.html",
        *(folder / f"{part}.{lm}.jsonl" for part in ("tune", "test") for lm in lms),
    ]


def unknown_in(known: Mapping[str, Recorded]) -> dict[str, UnknownCounts]:
    """By LM, where it was recorded."""
    return {name: record.unknown for name, record in known.items() if record.unknown is not None}


def seconds_of(systems: Mapping[str, Scales], known: Mapping[str, Recorded]) -> dict[str, float]:
    """By row: the time to score the lists with its LMs. `known`: what `score_file.recorded` found; rows without a time are left out."""
    spent = {}
    for name, scales in systems.items():
        times = [known[lm].seconds for lm, scale in scales.scores.items() if scale and lm in known]
        total = sum(float("nan") if value is None else value for value in times)
        if total and isfinite(total):
            spent[name] = total
    return spent


def _check_names(systems: Sequence[System], baseline: str, lms: Sequence[str], given: Sequence[str]) -> None:
    """What can be known to be wrong before anything is scored."""
    for name in lms:
        if name == WORDS or not name.replace("-", "").replace("_", "").replace(".", "").replace("+", "").isalnum():
            raise ValueError(f"LM name {name!r}; expected letters, digits and - _ . +, and not {WORDS!r}")
        if name in given:
            raise ValueError(f"LM name {name!r} is that of a score in the lists; expected another one")
    files: dict[str, str] = {}
    for system in systems:
        if (other := files.setdefault(file_name(system.name), system.name)) != system.name:
            raise ValueError(f"rows {other!r} and {system.name!r} would have one scales file; expected other names")
        for source in (*system.fixed, *system.free):
            if source != WORDS and source.removeprefix(TOKENS) not in (*lms, *given):
                raise ValueError(
                    f"row {system.name!r}: no score is named {source!r}; expected one of {', '.join((*given, *lms, WORDS))}"
                )
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise ValueError(
            f"row {next(n for n in names if names.count(n) > 1)!r} is given twice; expected different names"
        )
    if baseline not in names:
        raise ValueError(f"the baseline {baseline!r} is not a row; expected one of {', '.join(names)}")


def file_name(name: str) -> str:
    """A row's name as a file name."""
    kept = "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")
    return "_".join(part for part in kept.split("_") if part) or "row"


def _with_score_of(lists: Sequence[NBestList], scored: Sequence[NBestList], name: str) -> list[NBestList]:
    """`lists` with the score `name` of `scored`, which holds the same utterances and texts in the same order."""
    merged = []
    for utterance, other in zip(lists, scored, strict=True):
        hypotheses = tuple(
            type(hyp)(
                hyp.text, {**hyp.scores, name: new.scores[name]}, {**hyp.details, name: new.details.get(name, {})}
            )
            for hyp, new in zip(utterance.hypotheses, other.hypotheses, strict=True)
        )
        merged.append(NBestList(utterance.seq_tag, hypotheses, utterance.reference))
    return merged
