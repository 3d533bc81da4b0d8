"""Judges ways to choose scales by repeated random splits of all lists: tune on some utterances, test on the others.

    python benchmarks/scales.py --lists am=tune.json.gz ar=tune.ar.jsonl --lists am=eval.json.gz ar=eval.ar.jsonl \\
      --refs tune.json.gz eval.json.gz --row "AR=am:1,ar,words" [--tune 137] [--splits 40] [--out figures.json]

Prints, for every row and way, the mean WER of the test parts and its standard deviation over the splits, and the mean
difference to the exact minimum of the same split with the standard error of that mean. Splits overlap, so this error is
too small by a factor that depends on them: the differences between ways are what the splits tell best.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from rescore.combination.expected_errors import least_risk
from rescore.combination.line_search import Space
from rescore.combination.posterior import tune_posterior
from rescore.combination.rows import RowSpec
from rescore.combination.scales import WORDS, Scales, combined_scores
from rescore.combination.search import resample, search
from rescore.nbest.references import read_with_references
from rescore.nbest.types import NBestList
from rescore.wer import ErrorTable, FloatArray, error_table

RESAMPLES = 50
SAMPLES = 4000
ROUND = {True: 0.5, False: 0.1}
"""Steps of round scales, for word terms and for scores."""


def ways(space: Space, row: RowSpec, seed: int) -> Iterator[tuple[str, FloatArray]]:
    """The point that each way chooses on the lists of `space`."""
    count = space.errors.shape[0]
    drawn = resample(count, RESAMPLES, seed=seed)
    points = search(space, np.concatenate([np.ones((1, count), np.int64), drawn]))
    exact, cloud = points[0], points[1:]
    counts = np.array([source == WORDS for source in row.free])
    lms = max(1, int((~counts).sum()))
    prior = np.clip(np.where(counts, 0.0, 0.6 / lms), space.low, space.high)
    steps = np.where(counts, ROUND[True], ROUND[False])
    yield "exact minimum", exact
    for size in (10, 25, RESAMPLES):
        yield f"mean of {size}", cloud[:size].mean(axis=0)
    yield f"median of {RESAMPLES}", np.median(cloud, axis=0)
    low, high = np.quantile(cloud, [0.25, 0.75], axis=0)
    inner = (cloud >= low) & (cloud <= high)
    yield f"mean of the middle half of {RESAMPLES}", (cloud * inner).sum(axis=0) / inner.sum(axis=0)
    yield f"mean of {RESAMPLES}, switched off where better", space.at_zeros(cloud.mean(axis=0))
    yield f"mean of {RESAMPLES}, rounded", np.round(cloud.mean(axis=0) / steps) * steps
    for share in (0.25, 0.5):
        yield (
            f"mean of {RESAMPLES}, {share:.0%} towards round scales",
            prior + (1 - share) * (cloud.mean(axis=0) - prior),
        )
    yield "round scales, not tuned", prior
    tried = space.low + (space.high - space.low) * np.random.default_rng(seed).random((SAMPLES, len(prior)))
    tried = np.concatenate([tried, cloud[0] + 2 * (cloud[1:] - cloud[0])])
    tried = np.clip(tried, space.low, space.high)
    errors = np.array([space.errors_at(point) for point in tried], np.float64)
    spread = cloud.std(axis=0) + 1e-3
    for strength in (0.25, 1.0):
        penalised = errors + strength * (((tried - prior) / spread) ** 2).sum(axis=1)
        yield f"errors + {strength:g} squared deviations from round scales", tried[penalised.argmin()]
    for heat in (2.0, 5.0, 10.0):
        weights = np.exp((errors[:SAMPLES].min() - errors[:SAMPLES]) / heat)
        yield f"mean over exp(-errors / {heat:g})", weights @ tried[:SAMPLES] / weights.sum()


def expected_error_ways(
    parts: Sequence[Sequence[NBestList]],
    tables: Sequence[ErrorTable],
    row: RowSpec,
    points: Mapping[str, FloatArray],
    seed: int,
) -> Iterator[tuple[str, int]]:
    """Errors on the test part of the choice by expected errors: totals of two ways, posteriors tuned in two ways."""
    count = len(parts[0])
    weights = {"the minimum": np.ones((1, count), np.int64), "a mean": resample(count, RESAMPLES, seed=seed)}
    for way in ("exact minimum", f"mean of {RESAMPLES}"):
        scales = Scales.from_named({**row.fixed, **dict(zip(row.free, points[way].tolist()))})
        totals = [combined_scores(part, scales) for part in parts]
        for how, drawn in weights.items():
            posterior = tune_posterior(parts[0], totals[0], tables[0], drawn)
            best = least_risk(parts[1], totals[1], [posterior])[0]
            yield f"{way}, expected errors, posterior by {how}", int(tables[1].errors_of(best).sum())


def judge(
    lists: Sequence[NBestList], row: RowSpec, *, tune: int, splits: int, mbr: bool
) -> Mapping[str, list[tuple[int, int]]]:
    """{way: (errors, reference words) of each split}."""
    found = defaultdict(list)
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(lists))
        parts = [[lists[index] for index in part] for part in (order[:tune], order[tune:])]
        tables = [error_table(part) for part in parts]
        spaces = [Space.build(part, row.fixed, row.free, table) for part, table in zip(parts, tables)]
        points = dict(ways(spaces[0], row, split))
        chosen = [(way, spaces[1].errors_at(point)) for way, point in points.items()]
        if mbr:
            chosen += expected_error_ways(parts, tables, row, points, split)
        for way, errors in chosen:
            found[way].append((errors, int(tables[1].reference_words.sum())))
    return found


def with_sum(utterance: NBestList, name: str, terms: str) -> NBestList:
    """The list with the sum of some of its scores as one more score."""
    hypotheses = [
        replace(hyp, scores={**hyp.scores, name: sum(map(hyp.scores.__getitem__, terms.split("+")))})
        for hyp in utterance.hypotheses
    ]
    return replace(utterance, hypotheses=tuple(hypotheses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", nargs="+", action="append", required=True, help="aligned files NAME=PATH of one set")
    parser.add_argument("--refs", nargs="+", required=True, help="reference file of each set")
    parser.add_argument("--row", action="append", required=True, help="as in `dlm rescore`")
    parser.add_argument("--tune", type=int, default=137, help="utterances to tune on; the others are the test")
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument(
        "--sum", action="append", default=[], metavar="NAME=A+B", help="a further score, A + B, whose scale both share"
    )
    parser.add_argument("--mbr", action="store_true", help="judge the choice by expected errors too")
    parser.add_argument("--out", help="JSON file for the errors and words of each split")
    options = parser.parse_args()
    lists = []
    for sources, refs in zip(options.lists, options.refs, strict=True):
        lists += read_with_references(sources, refs)
    for text in options.sum:
        lists = [with_sum(utterance, *text.split("=")) for utterance in lists]
    results = {}
    for text in options.row:
        row, start = RowSpec.parse(text), perf_counter()
        results[row.name] = found = judge(lists, row, tune=options.tune, splits=options.splits, mbr=options.mbr)
        rates = {way: np.array([100.0 * errors / words for errors, words in pairs]) for way, pairs in found.items()}
        exact = next(iter(rates.values()))
        print(f"\n{text}: {len(row.free)} free, {len(lists)} utterances, {perf_counter() - start:.0f} s")
        for way, values in rates.items():
            change = values - exact
            error = change.std(ddof=1) / np.sqrt(len(change))
            change = f"{change.mean():+.3f} ± {error:.3f}"
            print(f"{values.mean():7.2f} ± {values.std(ddof=1):.2f}  {change}  {way}", flush=True)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file)


if __name__ == "__main__":
    main()
