"""How fast N-best lists are read: 600 x 100 hypotheses, against the stated limits and against `ast.literal_eval`.

    python benchmarks/nbest.py

Makes the files itself (random words, fixed seed) in a temporary folder. Each time is the best of three, on one core.
"""

from __future__ import annotations

import ast
import gzip
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rapidfuzz.distance import Levenshtein

sys.path.insert(0, str(Path(__file__).parents[1]))

from rescore.nbest import Hypothesis, NBestList, read_nbest, write_nbest

NUM_UTTERANCES, NUM_HYPOTHESES = 600, 100


def make_lists() -> list[NBestList]:
    """Lists as a beam search leaves them: variants of one sentence of 10 to 30 words that differ in some words."""
    source = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz'"
    words = ["".join(source.choices(letters, k=source.randint(2, 9))) for _ in range(5000)]
    lists = []
    for index in range(NUM_UTTERANCES):
        reference = source.choices(words, k=source.randint(10, 30))
        hypotheses = []
        for _ in range(NUM_HYPOTHESES):
            variant = [word if source.random() > 0.1 else source.choice(words) for word in reference]
            hypotheses.append(Hypothesis(" ".join(variant), {"am": -source.expovariate(0.01)}))
        lists.append(NBestList(f"dev-other/{index}/{index}", tuple(hypotheses), " ".join(reference)))
    return lists


def best_time(function: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def edit_distances(lists: list[NBestList]) -> int:
    total = 0
    for utterance in lists:
        reference = (utterance.reference or "").split()
        for hypothesis in utterance.hypotheses:
            total += Levenshtein.distance(reference, hypothesis.text.split())
    return total


def literal_eval(path: str) -> object:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return ast.literal_eval(file.read())


def main() -> int:
    lists = make_lists()
    with tempfile.TemporaryDirectory() as folder:
        py, jsonl = os.path.join(folder, "hyps.py.gz"), os.path.join(folder, "hyps.jsonl")
        write_nbest(py, lists, score="am")
        write_nbest(jsonl, lists)
        assert read_nbest(jsonl) == lists, "the JSON lines do not give back what was written"
        with gzip.open(py) as file:
            megabytes = len(file.read()) / 1e6
        rows = [
            ("read .py.gz", best_time(lambda: read_nbest(py)), 1.5),
            ("read .jsonl", best_time(lambda: read_nbest(jsonl)), 0.3),
            ("edit distances", best_time(lambda: edit_distances(lists)), 0.3),
            ("write .jsonl", best_time(lambda: write_nbest(jsonl, lists)), None),
            ("write .py.gz", best_time(lambda: write_nbest(py, lists)), None),
            ("peer: ast.literal_eval of .py.gz", best_time(lambda: literal_eval(py)), None),
        ]
    print(f"{NUM_UTTERANCES} x {NUM_HYPOTHESES} hypotheses, {megabytes:.1f} MB as Python text, one core, best of 3")
    for what, seconds, limit in rows:
        verdict = "" if limit is None else f"  limit {limit:.1f} s: {'ok' if seconds <= limit else 'TOO SLOW'}"
        print(f"{what:<34}{seconds:7.3f} s{verdict}")
    return int(any(limit is not None and seconds > limit for _, seconds, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
