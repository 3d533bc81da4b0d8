"""Alignments of the hypotheses of an utterance, so that equal parts can share random numbers or scores.

    leader = leader_of(hypotheses)              # the hypothesis with the smallest summed distance to all others
    slots_of(leader, tokens)                    # [(slot, insertion), ...], one for each token
    nearest_tree(hypotheses, leader)            # [(leader, None), (tokens, their parent), ...]
    changed_spans(neighbour, tokens, 2)         # [(first, last, new first, new last), ...], with 2 tokens of context

All results depend only on the set of hypotheses, not on their order in the list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

Tokens = tuple[int, ...]


def distances(hypotheses: Sequence[Tokens]) -> NDArray[np.int32]:
    """[n, n]: edit distances in tokens."""
    # One character per id, because rapidfuzz is fastest on strings. Surrogates are skipped, because text must not hold
    # them.
    words = ["".join(chr(token if token < 0xD800 else token + 0x800) for token in tokens) for tokens in hypotheses]
    return np.asarray(cdist(words, words, scorer=Levenshtein.distance, dtype=np.int32))


def leader_of(hypotheses: Sequence[Tokens]) -> Tokens:
    """The hypothesis with the smallest summed edit distance to all; of equal sums the smaller token sequence.

    It depends only on the set of hypotheses, so their order in the list does not matter.
    """
    return min(zip(distances(hypotheses).sum(axis=1).tolist(), hypotheses))[1]


def slots_of(leader: Tokens, tokens: Tokens) -> list[tuple[int, int]]:
    """The slot of each token: (i, 0) if it is aligned to token i of the leader (equal or substituted), (i, j) if it is
    the j-th token inserted after token i, with i = -1 at the start."""
    slots: list[tuple[int, int]] = []
    for step in Levenshtein.opcodes(leader, tokens):
        if step.tag in ("equal", "replace"):
            slots += [(index, 0) for index in range(step.src_start, step.src_end)]
        elif step.tag == "insert":
            slots += [(step.src_start - 1, count + 1) for count in range(step.dest_end - step.dest_start)]
    return slots


def nearest_tree(hypotheses: Sequence[Tokens], root: Tokens) -> list[tuple[Tokens, Tokens | None]]:
    """The minimum spanning tree of distinct hypotheses by edit distance (Prim): [(tokens, parent)], parents first.

    The parent of the root is None. Of equal distances the smaller token sequences are taken, so the order of the list
    does not matter.
    """
    order = sorted(hypotheses)
    apart = distances(order)
    found = [order.index(root)]
    nearest, parent = apart[found[0]].copy(), np.full(len(order), found[0])
    nearest[found[0]] = np.iinfo(np.int32).max
    tree: list[tuple[Tokens, Tokens | None]] = [(root, None)]
    for _ in range(len(order) - 1):
        index = int(nearest.argmin())
        tree.append((order[index], order[parent[index]]))
        found.append(index)
        closer = (apart[index] < nearest) & ~np.isin(np.arange(len(order)), found)
        nearest[closer], parent[closer] = apart[index][closer], index
        nearest[index] = np.iinfo(np.int32).max
    return tree


def changed_spans(old: Tokens, new: Tokens, around: int) -> list[tuple[int, int, int, int]]:
    """Spans in which two texts differ, with up to `around` equal tokens on each side.

    [(first, last, new first, new last)]; the ends are exclusive.
    """
    spans: list[tuple[int, int, int, int]] = []
    for step in Levenshtein.opcodes(old, new):
        if step.tag == "equal":
            continue
        before = min(around, step.src_start, step.dest_start)
        after = min(around, len(old) - step.src_end, len(new) - step.dest_end)
        span = (step.src_start - before, step.src_end + after, step.dest_start - before, step.dest_end + after)
        if spans and (spans[-1][1] >= span[0] or spans[-1][3] >= span[2]):  # the spans touch and become one
            span = (spans[-1][0], span[1], spans[-1][2], span[3])
            spans[-1] = span
        else:
            spans.append(span)
    return spans
