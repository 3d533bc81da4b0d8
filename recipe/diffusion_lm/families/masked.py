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

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Family, ScheduledNoise, Scoring, TokenLoss, on_device_of, sum_over_rows
from diffusion_lm.families.log_probs import at_least_float32, target_log_probs
from diffusion_lm.families.objectives import Step, d3pm_loss, sedd_loss
from diffusion_lm.layout import Layout, Sentences

PARAMETERIZATIONS = ("subs", "d3pm", "sedd")
WEIGHTINGS = ("nelbo", "masked_mean")


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
    """Predict a token at the position before it, as an autoregressive network does (see above)."""

    scoring: ClassVar[Scoring] = "masks"
    sampler_kind: ClassVar[str] = "masks"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_eps < self.sampling_max <= 1:
            raise ValueError(
                f"family.sampling_eps {self.sampling_eps}, family.sampling_max {self.sampling_max}: "
                "expected 0 < eps < max <= 1"
            )
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"family.weighting {self.weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
        # MDLM needs T >= 1/sampling_eps, because its step to s = 0 computes 0 times infinity. We use the limit, so any
        # T works.
        if self.T < 0:
            raise ValueError(f"family.T {self.T}: expected 0 (continuous time) or a number of steps")
        self._check_parameterization()
        if self.importance_sampling and self.change_of_variables:
            raise ValueError("family.importance_sampling and family.change_of_variables exclude each other")
        if (self.importance_sampling or self.change_of_variables) and (self.T or self.sampling_max < 1):
            raise ValueError(
                "family.importance_sampling and change_of_variables need family.T 0 and family.sampling_max 1"
            )
        if self.change_of_variables and not self.time_conditioning:
            raise ValueError(
                "family.change_of_variables without family.time_conditioning is importance_sampling: use that"
            )
        if self.importance_sampling or self.change_of_variables:
            self.noise.time_of_log_mask_probability(torch.zeros(1))

    def _check_parameterization(self) -> None:
        kind = self.parameterization
        if kind not in PARAMETERIZATIONS:
            raise ValueError(f"family.parameterization {kind!r}; expected one of {', '.join(PARAMETERIZATIONS)}")
        if kind == "d3pm" and not self.T:
            raise ValueError("family.parameterization 'd3pm' is in discrete time; expected family.T > 0, e.g. 1000")
        if kind == "sedd" and self.T:
            raise ValueError(f"family.parameterization 'sedd' is in continuous time; expected family.T 0, got {self.T}")
        if kind == "sedd" and (self.importance_sampling or self.change_of_variables):
            raise ValueError(
                "family.parameterization 'sedd' excludes family.importance_sampling and family.change_of_variables"
            )
        if kind != "subs" and self.weighting != "nelbo":
            raise ValueError(
                f"family.weighting {self.weighting!r} with family.parameterization {kind!r}: expected 'nelbo'"
            )
        if self.subs_masking and kind != "d3pm":
            raise ValueError(
                f"family.subs_masking with family.parameterization {kind!r}: expected 'd3pm', "
                "the others never predict the mask"
            )

    @property
    def scores_end(self) -> bool:
        return self.score_eos

    @property
    def trained_on_light_masks(self) -> bool:
        return self.sampling_max < 1

    def token_log_probs(
        self,
        network: Denoiser,
        sentences: Sentences,
        masked: Tensor,
        level: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """[M] log p(x_i | visible tokens) at the positions in `wanted`, nats.

        masked [N]: True where a token is masked. level [B]: noise level of each row (None unless time_conditioning).
        wanted [M]: flat positions, all of them masked (default: all masked positions).
        """
        z = sentences.ids.masked_fill(masked, self.special.mask_id)
        select = masked.nonzero()[:, 0] if wanted is None else wanted
        logits = self.logits(network, z, sentences.layout, level=level, select=select)
        kept, never = self.answers
        return target_log_probs(logits, sentences.ids[select], kept=kept, never=never)

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        if self.parameterization == "d3pm":
            return self._d3pm_training_loss(network, sentences, draw)
        if self.parameterization == "sedd":
            return self._sedd_training_loss(network, sentences, draw)
        rho, weight, level = self._training_time(draw.time)
        row = sentences.layout.row
        masked = (draw.keep < rho[row]) & self.scored(sentences)
        cross_entropy = -self.token_log_probs(network, sentences, masked, level)
        if self.weighting == "masked_mean":
            return TokenLoss(cross_entropy, max(1, len(cross_entropy)))
        scored = self.num_scored(sentences.layout).sum().clamp(min=1)
        return TokenLoss(on_device_of(weight[row[masked]], cross_entropy) * cross_entropy, scored)

    def _d3pm_training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """The step at masked positions, and from a second network run the reconstruction -log p(x | z = x, t = 0) at
        all scored positions.
        """
        noise, row = self.noise, sentences.layout.row
        number = (self._discrete_time(draw.time) * self.T).round().double()  # index of the step, 1 .. T
        s, t = (number - 1) / self.T, number / self.T
        step = Step(noise.alpha(s), noise.mask_probability(s), noise.alpha(t), noise.mask_probability(t))
        level = noise.sigma(t).to(draw.time)
        free = self.scored(sentences)
        masked = (draw.keep < step.rho_t.to(draw.keep)[row]) & free
        log_prob, log_mask = self._with_mask(network, sentences, masked, level, masked)
        steps = Step(*(on_device_of(part, log_prob) for part in step.at(row[masked])))
        diffusion = d3pm_loss(log_prob, log_mask, steps, self.T)
        clean = noise.sigma(torch.zeros_like(draw.time))
        reconstruction = -self._with_mask(network, sentences, torch.zeros_like(free), clean, free)[0]
        return TokenLoss(torch.cat([diffusion, reconstruction]), self.num_scored(sentences.layout).sum().clamp(min=1))

    def _with_mask(
        self, network: Denoiser, sentences: Sentences, masked: Tensor, level: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """([M] log p of the clean token, [M] log p of the mask), normalised together, where `wanted` [N] is True."""
        z = sentences.ids.masked_fill(masked, self.special.mask_id)
        select = wanted.nonzero()[:, 0]
        logits = self.logits(network, z, sentences.layout, level=level, select=select)
        symbols = self.possible(logits)
        mask = at_least_float32(logits[:, self.special.mask_id])
        if self.subs_masking:
            mask = torch.full_like(mask, -torch.inf)
        total = torch.logaddexp(symbols.logsumexp(-1), mask)
        clean = symbols.gather(1, on_device_of(sentences.ids[select], symbols)[:, None])[:, 0]
        return clean - total, mask - total

    def _sedd_training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """Score entropy with log s = logits + log(alpha/(1 - alpha)) - log(number of symbols).

        The scale alpha/(1 - alpha) comes from the schedule. MDLM takes it from the network's noise level, which is 0
        without time conditioning, and therefore needs time conditioning here.
        """
        rho, weight, level = self._training_time(draw.time)
        row = sentences.layout.row
        masked = (draw.keep < rho[row]) & self.scored(sentences)
        z, select = sentences.ids.masked_fill(masked, self.special.mask_id), masked.nonzero()[:, 0]
        answers = self.possible(self.logits(network, z, sentences.layout, level=level, select=select))
        total = answers.logsumexp(-1)
        log_prob = answers.gather(1, on_device_of(sentences.ids[select], answers)[:, None])[:, 0] - total
        kept, never = self.answers
        loss = sedd_loss(log_prob, total - math.log(kept - len(never)), on_device_of(weight[row[masked]], log_prob))
        return TokenLoss(loss, self.num_scored(sentences.layout).sum().clamp(min=1))

    def _training_time(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mask probability, loss weight, noise level) of each row, [B] each, from its uniform variate [B]."""
        noise = self.noise
        if self.importance_sampling or self.change_of_variables:
            # ln rho is uniform between its values at the ends, and the weight is the width of that interval.
            ends = noise.mask_probability(torch.tensor([self.sampling_eps, 1.0], dtype=torch.float64)).log().tolist()
            log_rho = ends[0] + (ends[1] - ends[0]) * uniform
            level = uniform if self.change_of_variables else noise.sigma(noise.time_of_log_mask_probability(log_rho))
            return log_rho.exp(), torch.full_like(uniform, ends[1] - ends[0]), level
        if self.T:
            # float64, because alpha(s) and alpha(t) differ by about 1/T only: float32 would leave three digits.
            t = self._discrete_time(uniform)
            kept_before = noise.alpha((t - 1 / self.T).clamp(min=0))
            rho = noise.mask_probability(t)
            weight = self.T * (kept_before - noise.alpha(t)) / rho
            return rho.to(uniform.dtype), weight.to(uniform.dtype), noise.sigma(t).to(uniform.dtype)
        t = self._continuous_time(uniform)
        return noise.mask_probability(t), noise.weight(t), noise.sigma(t)

    def _continuous_time(self, uniform: Tensor) -> Tensor:
        return self.sampling_eps + (self.sampling_max - self.sampling_eps) * uniform

    def _discrete_time(self, uniform: Tensor) -> Tensor:
        """[B] times in 1/T, 2/T .. 1; with T >= 1/sampling_eps, 1/T is never drawn."""
        return ((self._continuous_time(uniform) * self.T).floor() + 1).clamp(max=self.T).double() / self.T

    def level_of_time(self, t: Tensor) -> Tensor:
        """Noise level for the network at time t [B], clamped to the trained times. Returns [B]."""
        t = t.clamp(self.sampling_eps, self.sampling_max)
        if self.change_of_variables:
            ends = self.noise.mask_probability(torch.tensor([self.sampling_eps, 1.0])).log().to(t)
            return (self.noise.mask_probability(t).log() - ends[0]) / (ends[1] - ends[0])
        return self.noise.sigma(t)

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        layout = sentences.layout
        scored = self.num_scored(layout)
        count = (draw.time * scored).floor().long() + 1  # uniform on 1 .. L
        masked = smallest_keys(draw.keep, count, self.scored(sentences), layout)
        log_probs = self.token_log_probs(network, sentences, masked, self.level_of_count(count, scored))
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
