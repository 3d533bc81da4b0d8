"""Masked (absorbing) diffusion with the SUBS parameterisation: MDLM (Sahoo et al., arXiv 2406.07524).

Each token is kept with probability alpha(t), else replaced by the mask. The network never predicts the mask, and
visible tokens are copied, so only masked positions contribute to the loss. In continuous time (T = 0):

    NELBO = E_t[ w(t) sum_{i masked} -log p(x_i | z_t) ],   w = -alpha'/(1 - alpha)     (1/t for the loglinear schedule)

In discrete time (T > 0), t = (floor(t T) + 1) / T and w = T (alpha(s) - alpha(t)) / (1 - alpha(t)) with s = t - 1/T;
this bound is never tighter.

For a network that does not depend on t, the integral over t has a closed form: with k masked positions, k uniform on 1
.. L, ELBO = E_k E_{|M| = k}[ (L/k) sum_{i in M} log p(x_i | rest) ] (Ou et al., arXiv 2406.03736). `nelbo` uses it,
because it needs no epsilon and has finite variance. A time-conditioned network gets t = k / (L + 1), which is a valid
bound too (of the any-order model with that rule).

`parameterization` changes the training loss: with "d3pm" and "sedd" (objectives.py) the network also predicts how soon
a position is revealed. `predict` is the same for all three: log-softmax over the possible symbols. For d3pm this
renormalises the part without the mask, for sedd it divides the ratios by their sum. SUBS with any normalised denoiser
is a bound, so scores, `nelbo` and samples use SUBS; the bounds of d3pm and sedd for the same network are never tighter.

`shift` only changes which output of the network predicts token i: that of position i - 1. A network that starts from
autoregressive weights (`init_from`) then predicts as before in its first step and learns to use the right context (Gong
et al., arXiv 2410.17891).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Family, ScheduledNoise, Scoring, TokenLoss, sum_over_rows
from diffusion_lm.families.objectives import OBJECTIVES, Objective
from diffusion_lm.families.parts import build_part
from diffusion_lm.families.times import ContinuousTimes, DiscreteTimes, ImportanceTimes, Times, VariateTimes
from diffusion_lm.layout import Layout, Sentences


@dataclass(frozen=True)
class MaskedFamily(ScheduledNoise, Family):
    """Masked diffusion. BOS is always visible, and so is EOS unless `score_eos`.

    The score is p(pieces | their number), so rescoring should also tune a length term.
    """

    T: int = 0
    """Number of steps of discrete time; 0 is continuous time."""
    parameterization: str = "subs"
    """Training loss: "subs", "d3pm" (needs T and two network runs per step) or "sedd"."""
    subs_masking: bool = False
    """For "d3pm": the network never predicts the mask."""
    time_conditioning: bool = False
    """Condition the network on the noise level."""
    antithetic_sampling: bool = True
    """Spread the training times evenly over the batch."""
    importance_sampling: bool = False
    """Draw training times with ln(1 - alpha) uniform, so that the loss weight is constant."""
    change_of_variables: bool = False
    """As importance_sampling, but condition the network on the uniform variate itself."""
    sampling_eps: float = 1e-3
    """Training times lie in [sampling_eps, sampling_max]."""
    sampling_max: float = 1.0
    """Largest training time. Below 1 the training loss is no bound: it specialises the network to light masking."""
    weighting: str = "nelbo"
    """Training loss: the bound ("nelbo"), or the unweighted mean cross-entropy of the masked tokens ("masked_mean")."""
    score_eos: bool = False
    """Mask and score EOS too."""
    shift: bool = False
    """Predict a token at the position before it, as an autoregressive network does."""

    scoring: ClassVar[Scoring] = "masks"
    sampler_kind: ClassVar[str] = "masks"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_eps < self.sampling_max <= 1:
            raise ValueError(
                f"family.sampling_eps {self.sampling_eps}, family.sampling_max {self.sampling_max}: "
                "expected 0 < eps < max <= 1"
            )
        # MDLM needs T >= 1/sampling_eps, because its step to s = 0 computes 0 times infinity. We use the limit, so any
        # T works.
        if self.T < 0:
            raise ValueError(f"family.T {self.T}: expected 0 (continuous time) or a number of steps")
        if self.importance_sampling and self.change_of_variables:
            raise ValueError(
                "family.importance_sampling and family.change_of_variables are both true; expected one of them"
            )
        if (self.importance_sampling or self.change_of_variables) and (self.T or self.sampling_max < 1):
            raise ValueError(
                "family.importance_sampling and change_of_variables need family.T 0 and family.sampling_max 1"
            )
        if self.change_of_variables and not self.time_conditioning:
            raise ValueError(
                "family.change_of_variables without family.time_conditioning: "
                "expected family.importance_sampling, which is the same"
            )
        assert self.objective  # built here, so that an impossible one is refused at once

    @cached_property
    def times(self) -> Times:
        """How training times are drawn."""
        kind = (
            VariateTimes
            if self.change_of_variables
            else ImportanceTimes
            if self.importance_sampling
            else ContinuousTimes
        )
        ends = (self.noise, self.sampling_eps, self.sampling_max)
        return DiscreteTimes(*ends, self.T) if self.T else kind(*ends)

    @cached_property
    def objective(self) -> Objective:
        """What the network is trained on."""
        return build_part(self, "parameterization", OBJECTIVES, times=self.times)

    @property
    def scores_end(self) -> bool:
        return self.score_eos

    @property
    def trained_on_light_masks(self) -> bool:
        return self.sampling_max < 1

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        return self.objective.loss(self, network, sentences, draw)

    def level_of_time(self, t: Tensor) -> Tensor:
        """Noise level for the network at time t [B], clamped to the trained times. Returns [B]."""
        return self.times.level(t.clamp(self.sampling_eps, self.sampling_max))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        layout = sentences.layout
        scored = self.num_scored(layout)
        count = (draw.time * scored).floor().long() + 1  # uniform on 1 .. L
        masked = smallest_keys(draw.keep, count, self.scored(sentences), layout)
        log_probs = self.token_log_probs(network, sentences, masked, level=self.level_of_count(count, scored))
        total = sum_over_rows(log_probs, layout.row[masked], len(scored))
        return -total * scored / count.clamp(min=1)


def smallest_keys(keys: Tensor, count: Tensor, candidates: Tensor, layout: Layout) -> Tensor:
    """[N] True at the `count` [B] candidates [N] of each row with the smallest keys [N].

    Uniform keys give a uniform subset.
    """
    spread = keys.new_full((len(layout.lengths), layout.longest), torch.inf)
    spread[layout.row[candidates], layout.position[candidates]] = keys[candidates]
    rank = spread.argsort(dim=1, stable=True).argsort(dim=1)
    return candidates & (rank[layout.row, layout.position] < count[layout.row])
