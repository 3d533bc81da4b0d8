"""The complete rescoring: score two sets with every LM, tune the scales of each row on one set, report on the other.

    result = rescore(
        tune_sources=["dev.py.gz"], tune_references="dev.ref.py.gz",
        test_sources=["test.py.gz"], test_references="test.ref.py.gz",
        lms={"ar": NetworkScorer("runs/ar/model", name="ar"), "4gram": NgramScorer("4gram.arpa", name="4gram")},
        out="out",
    )
    print(result.table.to_markdown())

The test set is never used to choose scales. Scores are kept in `out` and are not computed again.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from rescore.combination.rows import RowSpec, check_rows, default_rows, unused_scores, with_first
from rescore.combination.scales import Scales, winners
from rescore.combination.tuning import TuneResult, tune
from rescore.lms.base import LanguageModelScorer
from rescore.nbest.references import read_with_references
from rescore.nbest.types import NBestList, never_chosen
from rescore.report.result import RescoreResult
from rescore.report.table import TABLE_SUFFIXES, ResultTable, evaluate
from rescore.score_file import Recorded, recorded, score_file
from rescore.scores import UnknownCounts
from rescore.speakers import speakers_of
from rescore.wer import error_table
from returnn_bridge.files import named


def rescore(
    *,
    tune_sources: Sequence[str],
    tune_references: str | os.PathLike[str],
    test_sources: Sequence[str],
    test_references: str | os.PathLike[str],
    lms: Mapping[str, LanguageModelScorer],
    out: str | os.PathLike[str],
    rows: Sequence[RowSpec] = (),
    baseline: str = "",
    seed: int = 1,
    title: str = "WER",
    resamples: int = 0,
    expected_errors: bool = False,
    command: str = "",
    format: str | None = None,
    speakers: str = "",
    model_paths: Mapping[str, str] | None = None,
) -> RescoreResult:
    """Score both sets with every LM, tune every row on the first set and measure it on the second.

    An interrupted run can be resumed, because scores in `out` are kept. `rows`: default: those of `default_rows`. The
    row `FIRST` of the recogniser's order is always there, and is the default baseline. `format`: the format of all
    lists; None: chosen by their suffixes. `resamples`, `expected_errors`: see `tune`; `seed` is that of the resamples
    too. `speakers`: a pattern for `speakers_of`, so that both bootstraps draw speakers. `model_paths`: the path of each
    LM, to be recorded. ValueError for malformed files, rows with unknown sources, or a baseline that is not a row.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    tune_lists = read_with_references(tune_sources, tune_references, format=format)
    test_lists = read_with_references(test_sources, test_references, format=format)
    groups, tune_groups = (
        speakers_of([utterance.seq_tag for utterance in lists], speakers) if speakers else None
        for lists in (test_lists, tune_lists)
    )
    given = list(tune_lists[0].hypotheses[0].scores)
    rows = with_first(rows or default_rows(given, list(lms)))
    baseline = baseline or rows[0].name
    check_rows(rows, baseline, list(lms), given)
    known = recorded(test_sources, format=format)  # scores that the lists already hold
    paths = model_paths or {}
    notes = [note for row in rows for note in row.notes()]
    notes += [f"note: no row uses the score {name!r}" for name in unused_scores(rows, (*given, *lms))]
    if remark := _tuned_on(tune_lists, test_lists):
        notes.append(f"warning: {remark}")
    for name, scorer in lms.items():
        tune_run = score_file(tune_sources, scorer, folder / f"tune.{name}.jsonl", format=format)
        test_run = score_file(test_sources, scorer, folder / f"test.{name}.jsonl", format=format)
        tune_lists = _with_score_of(tune_lists, tune_run.lists, name)
        test_lists = _with_score_of(test_lists, test_run.lists, name)
        known[name] = Recorded(scorer.describe(), test_run.seconds, test_run.unknown)
        notes += [run.note().strip() for run in (tune_run, test_run) if run.was_complete]
    tune_table, test_table = error_table(tune_lists), error_table(test_lists)
    tuned: dict[str, TuneResult] = {}
    scales: dict[str, Scales] = {}
    with named(", ".join(tune_sources)):
        for row in rows:
            if row.free:
                tuned[row.name] = tune(
                    tune_lists,
                    free=row.free,
                    fixed=row.fixed,
                    table=tune_table,
                    resamples=resamples,
                    seed=seed,
                    groups=tune_groups,
                    expected_errors=expected_errors,
                )
                scales[row.name] = tuned[row.name].scales
            else:
                scales[row.name] = Scales.from_named(row.fixed)
                winners(tune_lists, scales[row.name])  # an unknown source fails here, with the utterance
    with named(", ".join(test_sources)):
        measured = evaluate(
            test_lists,
            scales,
            baseline=baseline,
            seed=seed,
            seconds=seconds_of(scales, known),
            groups=groups,
            table=test_table,
        )
    averaged = f"means over {resamples} bootstrap resamples" if resamples else ""
    table = ResultTable(
        title,
        measured,
        baseline=baseline,
        scales_from="; ".join(filter(None, [f"tuned on {', '.join(map(str, tune_sources))}", averaged, remark])),
        metadata={
            "tune": list(map(str, tune_sources)),
            "tune_refs": str(tune_references),
            "test": list(map(str, test_sources)),
            "test_refs": str(test_references),
            "models": {
                name: {**({"path": paths[name]} if name in paths else {}), **record.facts}
                for name, record in known.items()
            },
            "seed": seed,
            **({"command": command} if command else {}),
            **({"speakers": speakers} if speakers else {}),
            "versions": {
                "dlm": version("diffusion-lm-rescoring"),
                "torch": version("torch"),
                "python": platform.python_version(),
            },
        },
        unknown=unknown_in(known),
        speakers=len(set(groups)) if groups else None,
        never=never_chosen(test_lists),
    )
    return RescoreResult(table, tuned, scales, tune_lists, test_lists, tuple(notes), seed)


def _tuned_on(tune_lists: Sequence[NBestList], test_lists: Sequence[NBestList]) -> str:
    """A remark if scales are tuned on utterances of the test set (those of the same name and reference), else ""."""
    tuned = {(utterance.seq_tag, utterance.reference) for utterance in tune_lists}
    both = sum((utterance.seq_tag, utterance.reference) in tuned for utterance in test_lists)
    if not both:
        return ""
    return (
        f"{both} of the {len(test_lists)} utterances of this table are also in the tuning set, so the WER of tuned "
        "rows is better here than on other speech"
    )


def output_files(folder: Path, lms: Sequence[str]) -> list[Path]:
    """The files that `dlm rescore` writes into its folder, without the scales of the rows."""
    tables = [folder / f"wer{suffix}" for suffix in TABLE_SUFFIXES]
    return [
        *tables,
        folder / "report.html",
        *(folder / f"{part}.{lm}.jsonl" for part in ("tune", "test") for lm in lms),
    ]


def unknown_in(known: Mapping[str, Recorded]) -> dict[str, UnknownCounts]:
    """Counts of unknown words or tokens by LM, for the LMs for which they were recorded."""
    return {name: record.unknown for name, record in known.items() if record.unknown is not None}


def seconds_of(rows: Mapping[str, Scales], known: Mapping[str, Recorded]) -> dict[str, float]:
    """The seconds it took to score the lists with the LMs of each row; rows without a known time are left out.

    `known`: the result of `score_file.recorded`.
    """
    spent = {}
    for name, scales in rows.items():
        times = [known[lm].seconds for lm, scale in scales.scores.items() if scale and lm in known]
        total = sum(float("nan") if value is None else value for value in times)
        if total and isfinite(total):
            spent[name] = total
    return spent


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
