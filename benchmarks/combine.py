"""Measures error table, scale search and bootstrap on synthetic N-best lists.

    python benchmarks/combine.py [--utterances 600] [--hypotheses 100] [--repeats 3]

Prints the shortest time of the repeats in seconds, on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np

from rescore.combination.scales import Scales, winners
from rescore.combination.tuning import tune
from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import error_table, paired_bootstrap

T = TypeVar("T")


def make_lists(utterances: int, hypotheses: int, seed: int = 0) -> list[NBestList]:
    """References of 10 to 30 words out of 10,000; up to a third of the words of a hypothesis changed; noisy scores."""
    generator = np.random.default_rng(seed)
    lists = []
    for number in range(utterances):
        reference = generator.integers(0, 10_000, generator.integers(10, 31))
        entries = []
        for _ in range(hypotheses):
            changed = generator.random(len(reference)) < generator.uniform(0.0, 0.33)
            words = np.where(changed, generator.integers(0, 10_000, len(reference)), reference)
            words = words[generator.random(len(words)) > 0.02]
            quality = -float(changed.sum())
            noise = generator.normal(scale=3.0, size=3)
            scores = dict(zip(("am", "masked", "ngram"), (quality + noise).tolist()))
            entries.append(Hypothesis(" ".join(f"w{word}" for word in words), scores))
        lists.append(NBestList(f"utterance-{number}", tuple(entries), " ".join(f"w{word}" for word in reference)))
    return lists


def timed(name: str, repeats: int, function: Callable[[], T]) -> T:
    """Run a function several times, print the shortest time and return the last result."""
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        result = function()
        seconds.append(perf_counter() - start)
    print(f"{min(seconds):8.3f} s  {name}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=600)
    parser.add_argument("--hypotheses", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lists = make_lists(options.utterances, options.hypotheses)
    print(f"{options.utterances} utterances, {options.hypotheses} hypotheses each")
    table = timed("error table, all hypotheses", options.repeats, lambda: error_table(lists))
    first = timed("winners for one setting", options.repeats, lambda: winners(lists, Scales({"am": 1.0})))
    timed("S, D, I of all winners", options.repeats, lambda: table.corpus(first))
    ranges = {"masked": (0.0, 3.0), "words": (-3.0, 3.0), "ngram": (0.0, 3.0)}
    for count, kind in ((1, "exact line search"), (2, "257 + 257 exact lines"), (3, "from eight starts")):
        free = dict(list(ranges.items())[:count])
        search = partial(tune, lists, free=free, table=table)
        result = timed(f"tune {count} scale(s), {kind}", options.repeats, search)
        print(f"{'':12}{result.wer_percent:.2f} % with {result.scales.named()}")
    before, after = table.errors_of(first), table.errors_of(winners(lists, result.scales))
    change = timed(
        "paired bootstrap, 10,000 samples",
        options.repeats,
        lambda: paired_bootstrap(before, after, table.reference_words, seed=1),
    )
    print(f"{'':12}{change}")


if __name__ == "__main__":
    main()
