"""Languages and denoisers for the block family, small enough to enumerate: they look at what the rules of blocks allow, and at no more."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from diffusion_lm.draws import draw_noise
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.layout import Sentences
from tiny_world import random_joint

SIZE = 3
MASK, BOS, EOS = SIZE, SIZE + 1, SIZE + 2
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=MASK, bos_id=BOS, eos_id=EOS, num_inputs=SIZE + 3)
SYMBOLS = [*range(SIZE), EOS]


def family_of(size, **options):
    return build_family({"name": "block", "block_size": size, **options}, SPECIAL)


def frame(*rows):
    return Sentences.of(rows, bos_id=BOS, eos_id=EOS)


def noise(lengths, seed=0):
    return draw_noise(torch.tensor(lengths), torch.Generator().manual_seed(seed), stratified=True)


class Language:
    """Sentences of up to `longest` pieces with their probabilities; as a network, the exact denoiser of texts filled up with EOS.

    Positions count from the first piece. Given what is visible in a block and the clean blocks before, p of each symbol at a masked place.
    """

    def __init__(self, seed, longest, size, fill=True):
        self.size, self.fill = size, fill
        joints = [
            random_joint(seed + length, length, SIZE) if length else np.array(1.0) for length in range(longest + 1)
        ]
        share = np.random.default_rng(seed).dirichlet(np.ones(longest + 1) * 3)
        self.p = {
            text: float(share[length] * joints[length][text])
            for length in range(longest + 1)
            for text in itertools.product(range(SIZE), repeat=length)
        }
        self.known = {}

    def __call__(self, ids, layout, sigma, select, context=None):
        rows = list(zip(ids.split(layout.lengths.tolist()), context.split(layout.lengths.tolist())))
        logits = torch.full(
            (len(select), SPECIAL.num_inputs), 60.0, dtype=torch.float64
        )  # what is left out must not matter
        for index, flat in enumerate(select.tolist()):
            z, clean = rows[int(layout.row[flat])]
            place = int(layout.position[flat])
            start = place // self.size * self.size
            seen = (*clean[:start].tolist(), *z[start : start + self.size].tolist())[1:]
            logits[index, SYMBOLS] = torch.from_numpy(self.answer(seen, place - 1))
        return logits

    def answer(self, seen, place):
        if (seen, place) not in self.known:
            weight = np.full(len(SYMBOLS), 1e-30)
            whole = (len(seen) + 1) % self.size == 0  # BOS is the first block's
            for text, p in self.p.items():
                framed = text + (EOS,) * (max(1, len(seen) - len(text)) if self.fill else 1)
                ends = len(framed) >= len(seen) if self.fill or whole else len(framed) == len(seen)
                if ends and all(token in (MASK, own) for token, own in zip(seen, framed)):
                    weight[SYMBOLS.index(framed[place])] += p
            self.known[seen, place] = np.log(weight / weight.sum())
        return self.known[seen, place]


class Inconsistent:
    """A denoiser that belongs to no joint distribution; looks at what the rules of blocks allow."""

    def __init__(self, size):
        self.size = size

    def __call__(self, ids, layout, sigma, select, context=None):
        rows = list(zip(ids.split(layout.lengths.tolist()), context.split(layout.lengths.tolist())))
        logits = torch.zeros(len(select), SPECIAL.num_inputs, dtype=torch.float64)
        for index, flat in enumerate(select.tolist()):
            z, clean = rows[int(layout.row[flat])]
            place = int(layout.position[flat])
            start = place // self.size * self.size
            seen = [*clean[:start].tolist(), *z[start : start + self.size].tolist()]
            logits[index] = torch.from_numpy(
                np.random.default_rng([place, *seen]).normal(size=SPECIAL.num_inputs) * 1.5
            )
        return logits
