"""Draw masked positions in the order of the network's own certainty, instead of at times that know nothing of the text.

    drawn = CertainFirst(model, share=0.1).draw_all([12, 9], seed=1)

In every pass each sentence reveals max(1, floor(share * its masked positions)) of its masked positions: those of the lowest entropy
("certain-first", as confidence-based decoding does) or of the highest ("uncertain-first", as ATAT does). The order looks at the noised text
only, so with one position a pass the drawn text follows the chain rule in that order, exactly the language's law for an exact network. For a
trained one it is another model than the one that scores are the bound of: its order is not uniform. More than one a pass are drawn
independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_lm.families.masked import smallest_keys
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler, uniform_numbers
from diffusion_lm.sampling.samples import Samples, categorical


class CertainFirst(Sampler):
    """share: of the masked positions that are revealed in a pass, 0 = one position a pass.

    ValueError for a model that scores EOS, whose end would have to be drawn too, or a share outside [0, 1].
    """

    sign: ClassVar[float] = 1.0
    """Of the entropy in the sorting key: the smallest keys are revealed."""

    def __init__(self, model: LanguageModel, *, share: float = 0.0):
        super().__init__(model)
        if self.family.scores_end:
            raise ValueError("only a masked model that does not score EOS can fill masked positions by their entropy")
        if not 0 <= share <= 1:
            raise ValueError(f"share {share}: expected 0 (one position a pass) to 1 (all at once)")
        self.share = share

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        return self.fill([[self.family.special.mask_id] * length for length in lengths], seed=seed, first=first)

    def fill(self, rows: Sequence[Sequence[int]], *, seed: int, first: int) -> Samples:
        """Draw the masked positions of piece ids `rows`. What is not masked stays. The first row is number `first`."""
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
            key = log_probs.new_zeros(len(inside))
            key[select] = self.sign * entropy(log_probs)
            # 0.7 of 10 is 7, though the product may round to less.
            now = (self.share * number.double() + 1e-9).floor().long().clamp(min=1)
            due = smallest_keys(key, now, inside, part)
            at = going.nonzero()[:, 0][due]
            ids[at] = categorical(log_probs[due[select]], keys[at])
            passes += len(number)
        tokens = [row.tolist()[1:-1] for row in ids.cpu().split(layout.lengths.tolist())]
        return Samples(tokens, passes, 0)


class UncertainFirst(CertainFirst):
    """The positions of the highest entropy first."""

    sign = -1.0


def entropy(log_probs: Tensor) -> Tensor:
    """[M] nats, of normalised log-probabilities [M, V]; symbols of probability 0 (-inf) count 0."""
    return torch.special.entr(log_probs.exp()).sum(-1)
