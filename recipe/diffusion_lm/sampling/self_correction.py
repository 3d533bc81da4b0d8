"""Correct complete texts with a model with uniform noise: replace tokens until nothing changes.

    corrected = self_correct(model, drawn.tokens, seed=1)

This is the self-correction of GIDD (von Ruette et al., arXiv 2503.04482). The network reads the text as if it were
slightly noised, and one candidate is drawn for every position at a low temperature. Of the candidates that differ from
the text, the most probable ones replace tokens. The result is the state with the best self-agreement (the share of
tokens that are the network's first choice), not the last state.
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
    """Texts after self-correction, with statistics."""

    tokens: list[list[int]]
    """Corrected texts, piece ids."""
    changed: int
    """Number of tokens that differ from the input."""
    agreement: float
    """Share of the tokens of all texts that are the network's first choice."""
    passes: int
    """Number of texts in all network runs together."""


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
    """Correct texts of piece ids independently of each other. A text is finished when nothing changes in a round.

    time: the text is read with the noise level of this time. most_rounds: largest number of rounds. tokens_per_round:
    most tokens replaced per round. patience: rounds without better agreement after which a text is finished. ValueError
    for a model that was not trained on wrong tokens, and for values out of range.
    """
    family = model.family
    if not family.sees_errors:
        raise ValueError(
            "self-correction needs a model that was trained on wrong tokens; expected a uniform or hybrid one"
        )
    if temperature <= 0 or not 0 < time < 1 or min(most_rounds, tokens_per_round, patience) < 1:
        raise ValueError(
            f"self-correction with temperature {temperature}, time {time}, {most_rounds} rounds, "
            f"{tokens_per_round} tokens a round, patience {patience}: "
            "expected temperature > 0, time between 0 and 1, counts of at least 1"
        )
    states = [list(text) for text in texts]
    best, best_agreement = [list(text) for text in texts], [-1.0] * len(texts)
    random, waited = generators(len(texts), seed, 0), [0] * len(texts)
    active, passes = [index for index, text in enumerate(texts) if text], 0
    with torch.inference_mode():
        for number in range(most_rounds + 1):
            if not active:
                break
            sentences = model.frame([states[index] for index in active])
            level = family.level_of_time(torch.full((len(active),), time, device=model.device).double()).float()
            select = (family.scored(sentences) & ~sentences.is_eos).nonzero()[:, 0]
            log_x_hat = family.predict(model.network, sentences.ids, sentences.layout, level=level, select=select)
            passes += len(active)
            inner = Layout(sentences.layout.lengths - 2)
            uniform = torch.cat(
                [torch.rand(len(states[index]), generator=random[index], dtype=torch.float64) for index in active]
            )
            tempered = torch.log_softmax(log_x_hat.double() / temperature, -1)
            candidates = categorical(tempered, uniform.to(model.device))
            sure = tempered.gather(1, candidates[:, None])[:, 0]
            agrees = (log_x_hat.argmax(-1) == sentences.ids[select]).double()
            parts = zip(*(part.cpu().split(inner.lengths.tolist()) for part in (candidates, sure, agrees)))
            going = []
            for index, (candidate, confidence, agreeing) in zip(active, parts):
                state = torch.tensor(states[index])
                agreement = float(agreeing.mean())
                if agreement > best_agreement[index]:
                    best[index], best_agreement[index], waited[index] = list(states[index]), agreement, 0
                else:
                    waited[index] += 1
                differs = (candidate != state).nonzero()[:, 0]
                if not len(differs) or waited[index] >= patience or number == most_rounds:
                    continue
                chosen = differs[confidence[differs].argsort(descending=True, stable=True)[:tokens_per_round]]
                state[chosen] = candidate[chosen]
                states[index] = state.tolist()
                going.append(index)
            active = going
    total = sum(map(len, best))
    agreed = sum(len(text) * max(share, 0.0) for text, share in zip(best, best_agreement))
    changed = sum(old != new for text, other in zip(texts, best) for old, new in zip(text, other))
    return Corrected(best, changed, agreed / max(1, total), passes)
