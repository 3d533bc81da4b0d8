"""Reveal masked positions in the order of the entropy of the network's prediction, not at random times.

    drawn = CertainFirst(model, share=0.1).draw_all([12, 9], seed=1)

In every pass, each sentence reveals max(1, floor(share * number of masked positions)) positions: those with the lowest
entropy ("certain-first", as in confidence-based decoding) or with the highest ("uncertain-first", as in ATAT). With
`adapt` the share follows the mean entropy of the masked positions, as ATAT adapts its number of steps. The order
depends on the noised text only, so with one position per pass the text is drawn by the chain rule in that order; with
an exact network it follows the distribution of the language. With a trained network it follows a different distribution
from the one whose ELBO we report, which assumes a uniform order. Positions revealed in the same pass are drawn
independently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_lm.families.base import sum_over_rows
from diffusion_lm.families.masked import smallest_keys
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler, uniform_numbers
from diffusion_lm.sampling.samples import Samples, categorical


class CertainFirst(Sampler):
    """Reveals the positions with the lowest entropy first.

    share: share of the masked positions that each pass reveals; 0 means one position per pass. adapt: divide the share
    by 1.2 in a pass where the mean entropy of a sentence is above 0.7 of its largest value, log V, and by 0.8 where it
    is below 0.3. ValueError for a share outside [0, 1], for `adapt` without a share, and for a model that scores EOS,
    because its end would have to be drawn too.
    """

    sign: ClassVar[float] = 1.0
    """Sign of the entropy in the sorting key; the smallest keys are revealed first."""

    def __init__(self, model: LanguageModel, *, share: float = 0.0, adapt: bool = False):
        super().__init__(model)
        if self.family.scores_end:
            raise ValueError("only a masked model that does not score EOS can fill masked positions by their entropy")
        if not 0 <= share <= 1:
            raise ValueError(f"share {share}: expected 0 (one position a pass) to 1 (all at once)")
        if adapt and not share:
            raise ValueError("adapt without a share: one position a pass is revealed; expected a share above 0")
        self.share, self.adapt = share, adapt

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        return self.fill([[self.family.special.mask_id] * length for length in lengths], seed=seed, first=first)

    def fill(self, rows: Sequence[Sequence[int]], *, seed: int, first: int) -> Samples:
        """Draw the masked positions of piece ids `rows` and keep the others. The first row has index `first`."""
        family, special = self.family, self.family.special
        sentences = Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id).to(self.model.device)
        ids, layout, passes = sentences.ids.clone(), sentences.layout, 0
        keys = uniform_numbers(layout, 1, seed, first, "entropy")[:, 0].to(ids.device)
        free = family.scored(sentences)
        while True:
            masked = free & (ids == special.mask_id)
            count = torch.zeros_like(layout.lengths).index_add(0, layout.row, masked.long())
            if not count.any():
                break
            going = (count > 0)[layout.row]
            part, number = Layout(layout.lengths[count > 0]), count[count > 0]
            level = family.level_of_count(number, family.num_scored(part))
            inside = masked[going]
            select = inside.nonzero()[:, 0]
            log_probs = family.predict(self.model.network, ids[going], part, level=level, select=select)
            uncertainty = entropy(log_probs)
            key = log_probs.new_zeros(len(inside))
            key[select] = self.sign * uncertainty * self.importance(log_probs, ids[going], part, select)
            share = torch.full_like(number, self.share, dtype=torch.float64)
            if self.adapt:
                share = adapted(share, uncertainty, part.row[select], symbols=len(family.symbols))
            # 0.7 times 10 must give 7, although the product may be rounded to less.
            now = (share * number + 1e-9).floor().long().clamp(min=1)
            due = smallest_keys(key, now, inside, part)
            at = going.nonzero()[:, 0][due]
            ids[at] = categorical(log_probs[due[select]], keys[at])
            passes += len(number)
        tokens = [row.tolist()[1:-1] for row in ids.cpu().split(layout.lengths.tolist())]
        return Samples(tokens, passes, 0)

    def importance(self, log_probs: Tensor, ids: Tensor, layout: Layout, select: Tensor) -> Tensor | float:
        """[M] factors of the entropies at the masked positions `select`, from what is visible in ids [N]."""
        return 1.0


class UncertainFirst(CertainFirst):
    """Reveals the positions with the highest entropy first."""

    sign = -1.0


def entropy(log_probs: Tensor) -> Tensor:
    """[M] entropy in nats of normalised log-probabilities [M, V]; symbols with probability 0 (-inf) contribute 0."""
    return torch.special.entr(log_probs.exp()).sum(-1)


def adapted(share: Tensor, uncertainty: Tensor, row: Tensor, *, symbols: int) -> Tensor:
    """[B] shares for rows by the mean entropy [M] of their masked positions, in units of the largest entropy.

    ATAT multiplies its number of steps by 1.2 above 0.7 and by 0.8 below 0.3; here the share is divided by it.
    """
    total = sum_over_rows(uncertainty, row, len(share))
    count = sum_over_rows(torch.ones_like(uncertainty), row, len(share))
    level = total / count / math.log(max(2, symbols))
    steps = torch.where(level > 0.7, 1.2, torch.where(level < 0.3, 0.8, 1.0))
    return share / steps
