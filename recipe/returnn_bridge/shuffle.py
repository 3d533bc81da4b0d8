"""numpy's shuffled numbers, the same ones in two thirds of the time and half of the memory.

    shuffled(seed, 40_000_000)          # int32, equal to np.random.RandomState(seed).permutation(40_000_000)

numpy swaps number by number and waits for the memory each time. Here thousands of swaps are done at once, which is the same unless two of
them share a place; those few are done again one by one. The stream of RandomState is frozen for good (NEP 19).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL = 1 << 20  # so many numbers are in the cache, and numpy is as fast
BLOCK = 1 << 15  # random numbers that are drawn at once


def shuffled(seed: int, size: int, *, small: int = SMALL, block: int = BLOCK) -> NDArray[Any]:
    """[size] what RandomState(seed).permutation(size) returns. small: a power of two, for tests."""
    random = np.random.RandomState(seed)
    if not small < size < 1 << 31:
        return random.permutation(size)
    found = np.arange(size, dtype=np.int32)
    end = size  # steps size - 1 down to `end` are done: step i swaps the places i and j <= i
    while end > small:
        # Candidates for j have just the bits that i needs, and those above i are passed over. A block stays within one number of bits.
        low = 1 << ((end - 1).bit_length() - 1)
        count = min(block, end - low)
        drawn = random.randint(0, 1 << 32, size=count, dtype=np.uint32) & np.uint32(2 * low - 1)
        taken = drawn < end - count
        unsure = np.flatnonzero((drawn < end) ^ taken)  # whether they are above i depends on how many were taken before
        before, more = np.cumsum(taken, dtype=np.int32)[unsure].tolist(), 0
        for place, other, sure in zip(unsure.tolist(), drawn[unsure].tolist(), before):
            if other < end - sure - more:
                taken[place] = True
                more += 1
        others = drawn[np.flatnonzero(taken)].astype(np.intp)  # half the time of drawn[taken]
        _swap(found, end, others)
        end -= len(others)
    random.shuffle(found[:end])
    return found


def _swap(found: NDArray[Any], end: int, others: NDArray[np.intp]) -> None:
    """Swap the places end - 1, end - 2, ... with these others, one after the other."""
    start = end - len(others)
    own, theirs = found[start:end][::-1].copy(), found[others]
    found[others] = own
    within = others >= start
    clashes = (found[others] != own) | within  # all but one of those that share a place
    found[start:end] = theirs[::-1]
    if not clashes.any():
        return
    found[others[clashes]] = -1
    clashes = found[others] < 0  # all of them
    clashes[end - 1 - others[within]] = True
    others, places = others[clashes], end - 1 - np.flatnonzero(clashes)
    found[others], found[places] = theirs[clashes], own[clashes]
    for place, other in zip(places.tolist(), others.tolist()):
        found[place], found[other] = found[other], found[place]
