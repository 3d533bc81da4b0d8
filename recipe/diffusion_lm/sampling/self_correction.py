"""Let a model with uniform noise correct a complete text: the token it doubts most is replaced, until nothing changes.

    corrected = self_correct(model, drawn.tokens, seed=1)

Self-correction of GIDD (von Ruette et al., arXiv 2503.04482): the text is shown as if it were slightly noised, one candidate is drawn for every
position at a low temperature, and the candidates that differ from the text with the largest probability are put in. The best state by
self-agreement (the share of tokens that are the network's own first choice) is returned, not the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.samples import categorical, generators


@dataclass(frozen=True)
class Corrected:
    """Texts after self-correction, and what it took."""

    tokens: list[list[int]]
    """Corrected texts, piece ids."""
    changed: int
    """Number of tokens that differ from the input."""
    agreement: float
    """Share of the tokens that are the network's first choice, all texts together."""
    passes: int
    """Texts that went through the network, summed over rounds."""


def self_correct(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    *,
    seed: int = 1,
    temperature: float = 0.1,
    time: float = 0.01,
    most_rounds: int = 128,
    tokens_per_round: int = 1,
    patience: int = 32,
) -> Corrected:
    """Correct texts of piece ids, each by itself; BOS and EOS stay. A text is done when nothing changes in a round.

    patience: rounds without a better agreement before a text is given up. ValueError for a model that never saw a wrong token.
    """
    family = model.family
    if not family.sees_errors:
        raise ValueError(
            "self-correction needs a model that was trained on wrong tokens; expected a uniform or hybrid one"
        )
    if temperature <= 0 or not 0 < time < 1 or min(most_rounds, tokens_per_round, patience) < 1:
        raise ValueError(
            f"self-correction with temperature {temperature}, time {time}, {most_rounds} rounds, {tokens_per_round} tokens a round, "
            f"patience {patience}: expected temperature > 0, time between 0 and 1, counts of at least 1"
        )
    states = [list(text) for text in texts]
    best, best_agreement = [list(text) for text in texts], [-1.0] * len(texts)
    own, waited = generators(len(texts), seed, 0), [0] * len(texts)
    active, passes = [place for place, text in enumerate(texts) if text], 0
    with torch.inference_mode():
        for number in range(most_rounds + 1):
            if not active:
                break
            sentences = model.frame([states[place] for place in active])
            level = family.level_of_time(torch.full((len(active),), time, device=model.device).double()).float()
            select = family.scored(sentences).nonzero()[:, 0]
            log_x_hat = family.predict(model.network, sentences.ids, sentences.layout, level=level, select=select)
            passes += len(active)
            inner = Layout(sentences.layout.lengths - 2)
            uniform = torch.cat(
                [torch.rand(len(states[place]), generator=own[place], dtype=torch.float64) for place in active]
            )
            tempered = torch.log_softmax(log_x_hat.double() / temperature, -1)
            candidates = categorical(tempered, uniform.to(model.device))
            sure = tempered.gather(1, candidates[:, None])[:, 0]
            agrees = (log_x_hat.argmax(-1) == sentences.ids[select]).double()
            parts = zip(*(part.cpu().split(inner.lengths.tolist()) for part in (candidates, sure, agrees)))
            going = []
            for place, (candidate, confidence, agreeing) in zip(active, parts):
                state = torch.tensor(states[place])
                agreement = float(agreeing.mean())
                if agreement > best_agreement[place]:
                    best[place], best_agreement[place], waited[place] = list(states[place]), agreement, 0
                else:
                    waited[place] += 1
                differs = (candidate != state).nonzero()[:, 0]
                if not len(differs) or waited[place] >= patience or number == most_rounds:
                    continue
                chosen = differs[confidence[differs].argsort(descending=True, stable=True)[:tokens_per_round]]
                state[chosen] = candidate[chosen]
                states[place] = state.tolist()
                going.append(place)
            active = going
    total = sum(map(len, best))
    agreed = sum(len(text) * max(share, 0.0) for text, share in zip(best, best_agreement))
    changed = sum(old != new for text, other in zip(texts, best) for old, new in zip(text, other))
    return Corrected(best, changed, agreed / max(1, total), passes)
