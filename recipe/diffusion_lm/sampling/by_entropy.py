"""Draw masked positions in the order of the network's own certainty, instead of at times that know nothing of the text.

    drawn = fill_by_entropy(model, [[model.vocab.mask_id] * 12], first="certain", share=0.1, seed=1)

In every pass each sentence reveals max(1, floor(share * its masked positions)) of its masked positions: those of the lowest entropy
("certain", as confidence-based decoding does) or of the highest ("uncertain", as ATAT does). The order looks at the noised text only, so with
one position a pass the drawn text follows the chain rule in that order, exactly the language's law for an exact network. For a trained
one it is another model than the one that scores are the bound of: its order is not uniform. More than one a pass are drawn independently.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lm.draws import step_seed
from diffusion_lm.families.masked import MaskedFamily, smallest_keys
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.samples import Samples, categorical

FIRST = {"certain": 1.0, "uncertain": -1.0}  # sign of the entropy in the sorting key: the smallest are revealed


def fill_by_entropy(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    first: str = "certain",
    share: float = 0.0,
    seed: int = 1,
    offset: int = 0,
) -> Samples:
    """Draw the masked positions of piece ids `rows`; `share` 0 is one position a pass. What is not masked stays.

    A row's text depends on (seed, its number, the row) alone; the first row is number `offset`.
    ValueError for a family without masks, one that scores EOS, an unknown `first`, or a share outside [0, 1].
    """
    family = model.family
    if not isinstance(family, MaskedFamily) or family.score_eos:
        raise ValueError("only a masked model that does not score EOS can fill masked positions by their entropy")
    if first not in FIRST:
        raise ValueError(f"first {first!r} is unknown; expected one of {', '.join(FIRST)}")
    if not 0 <= share <= 1:
        raise ValueError(f"share {share}: expected 0 (one position a pass) to 1 (all at once)")
    sentences = Sentences.of(rows, bos_id=family.special.bos_id, eos_id=family.special.eos_id).to(model.device)
    ids, layout, passes = sentences.ids.clone(), sentences.layout, 0
    keys = _uniform(layout, seed, offset).to(model.device)
    free = family.scored(sentences)
    with torch.inference_mode():
        while True:
            masked = free & (ids == family.special.mask_id)
            count = torch.zeros_like(layout.lengths).index_add(0, layout.row, masked.long())
            if not count.any():
                break
            going = (count > 0)[layout.row]
            part, number = Layout(layout.lengths[count > 0]), count[count > 0]
            level = family.level_of_count(number, family.num_scored(part))
            inside = masked[going]
            select = inside.nonzero()[:, 0]
            log_probs = family.predict(model.network, ids[going], part, level=level, select=select)
            key = log_probs.new_zeros(len(inside))
            key[select] = FIRST[first] * entropy(log_probs)
            # 0.7 of 10 is 7, though the product may round to less.
            now = (share * number.double() + 1e-9).floor().long().clamp(min=1)
            due = smallest_keys(key, now, inside, part)
            at = going.nonzero()[:, 0][due]
            ids[at] = categorical(log_probs[due[select]], keys[at])
            passes += len(number)
    tokens = [row.tolist()[1:-1] for row in ids.cpu().split(layout.lengths.tolist())]
    return Samples(tokens, passes, 0)


def entropy(log_probs: Tensor) -> Tensor:
    """[M] nats, of normalised log-probabilities [M, V]; symbols of probability 0 (-inf) count 0."""
    return torch.special.entr(log_probs.exp()).sum(-1)


def _uniform(layout: Layout, seed: int, offset: int) -> Tensor:
    """[N] float64; those of a row from (seed, its number)."""
    parts = []
    for place, length in enumerate(layout.lengths.tolist(), start=offset):
        generator = torch.Generator().manual_seed(step_seed(seed, "entropy", place, 0))
        parts.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
