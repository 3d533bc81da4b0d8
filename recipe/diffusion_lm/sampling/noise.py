"""Draw from models whose noise is any symbol: from the noise of the largest time back to text, every position open in every step.

    drawn = draw_from_noise(model, model.family, [9, 12], "ancestral", steps=128, seed=1, first=0)

From t to s < t a position follows p(z_s | z_t) with the network's prediction in the place of the clean token (process.posterior), so a token can
change again later. The last step, from the smallest time to clean text, is the same with alpha 1; "greedy-tail" takes the best symbol there
(Sahoo et al., arXiv 2506.10892).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lm.families.mixture import MixtureFamily
from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.process import Marginal, posterior
from diffusion_lm.sampling.samples import Samples, categorical, generators

PREDICTORS = ("ancestral", "greedy-tail")


def draw_from_noise(
    model: LanguageModel,
    family: MixtureFamily,
    lengths: Sequence[int],
    predictor: str,
    steps: int,
    seed: int,
    first: int,
) -> Samples:
    """One sentence for each of `lengths`, number `first` + i of the seed's stream. ValueError for an unknown predictor or no step."""
    if predictor not in PREDICTORS:
        raise ValueError(
            f"predictor {predictor!r} of a model with uniform noise; expected one of {', '.join(PREDICTORS)}"
        )
    if steps < 1:
        raise ValueError(f"sampling steps {steps}: expected at least 1")
    special, device = family.special, model.device
    rows = [[family.symbols[0]] * length for length in lengths]
    sentences = Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id).to(device)
    layout, inner = sentences.layout, family.scored(sentences)
    select, one_time = inner.nonzero()[:, 0], torch.zeros_like(layout.row[inner])
    own = generators(len(lengths), seed, first)

    def uniform() -> Tensor:
        return torch.cat([torch.rand(n, generator=g, dtype=torch.float64) for n, g in zip(lengths, own)]).to(device)

    times = torch.linspace(1 - family.time_eps, family.time_eps, steps + 1, dtype=torch.float64, device=device)
    now = family.process.marginal(times[:1])
    z = sentences.ids.clone()
    # At the largest time only the noise: the prior of the bound (process.prior_divergence).
    z[select] = categorical(now.beta_pi.log().expand(len(select), -1), uniform())
    for place, time in enumerate(times):
        last = place == steps
        before = clean_marginal(now) if last else family.process.marginal(times[place + 1 : place + 2])
        level = family.level_of_time(time.repeat(len(lengths))).float()
        log_x_hat = family.predict(model.network, z, layout, level=level, select=select)
        x_hat = F.pad(log_x_hat.exp(), (0, special.num_inputs - special.num_pieces))
        weights = posterior(now, before, x_hat, z[select], one_time)
        greedy = last and predictor == "greedy-tail"
        z[select] = weights.argmax(-1) if greedy else categorical(weights.log(), uniform())
        now = before
    tokens = [part.tolist()[1:-1] for part in z.cpu().split(layout.lengths.tolist())]
    return Samples(tokens, (steps + 1) * len(lengths), 0)


def clean_marginal(like: Marginal) -> Marginal:
    """Time 0: every token is kept."""
    return Marginal(torch.ones_like(like.alpha), torch.zeros_like(like.beta_pi), torch.zeros_like(like.rate_in))
