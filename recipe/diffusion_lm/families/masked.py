"""Masked (absorbing) diffusion with the SUBS parameterisation: MDLM (Sahoo et al., arXiv 2406.07524).

Each token is kept with probability alpha(t), else replaced by the mask. The network never predicts the mask, and visible tokens carry
over, so only masked positions cost anything. Continuous time (T = 0):

    NELBO = E_t[ w(t) sum_{i masked} -log p(x_i | z_t) ],   w = -alpha'/(1 - alpha)     (1/t for the loglinear schedule)

Discrete time (T > 0): t = (floor(t T) + 1) / T and w = T (alpha(s) - alpha(t)) / (1 - alpha(t)) with s = t - 1/T; looser, never tighter.

For a network that does not look at t the integral over t has a closed form: with k masked positions uniform on 1 .. L,
ELBO = E_k E_{|M| = k}[ (L/k) sum_{i in M} log p(x_i | rest) ] (Ou et al., arXiv 2406.03736). `nelbo` uses it: no epsilon, finite variance.
A time-conditioned network is given t = k / (L + 1), which is a valid bound too (of the any-order model with that rule).

`shift` changes no formula, only which output of the network answers for token i: that of position i - 1. A network that starts from
autoregressive weights (`init_from`) then predicts as before from its first step and learns to look right (Gong et al., arXiv 2410.17891).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Scoring, SpecialIds, TokenLoss, sum_over_rows
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.schedule import Schedule, build_schedule

WEIGHTINGS = ("nelbo", "masked_mean")


@dataclass(frozen=True)
class MaskedFamily:
    """BOS is always visible; EOS too, unless `score_eos`. The score is p(pieces | their number): tune a length term beside it."""

    special: SpecialIds
    schedule: str = "loglinear"
    schedule_options: dict[str, float] = field(default_factory=dict)
    T: int = 0  # 0: continuous time
    time_conditioning: bool = False  # tell the network the noise level
    antithetic_sampling: bool = True  # training times spread evenly over the batch
    importance_sampling: bool = False  # training times with ln(1 - alpha) uniform: constant weight
    change_of_variables: bool = False  # the same masks, the network conditioned on the uniform variate itself
    sampling_eps: float = 1e-3  # training times lie in [sampling_eps, sampling_max]
    sampling_max: float = 1.0  # below 1 the training loss is no bound: it specialises the network to light masking
    weighting: str = "nelbo"  # or "masked_mean": plain mean cross-entropy of the masked tokens
    score_eos: bool = False  # EOS can be masked and counts in the score
    shift: bool = False  # read the prediction of a token off the position before it, as an autoregressive network does (see below)

    exact: ClassVar[bool] = False
    scoring: ClassVar[Scoring] = "masks"
    runs_per_draw: ClassVar[int] = 1
    visibility: ClassVar[Literal["bidirectional", "causal"]] = "bidirectional"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_eps < self.sampling_max <= 1:
            raise ValueError(
                f"family.sampling_eps {self.sampling_eps}, family.sampling_max {self.sampling_max}: expected 0 < eps < max <= 1"
            )
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"family.weighting {self.weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
        if self.T < 0 or 0 < self.T < 1 / self.sampling_eps:
            raise ValueError(
                f"family.T {self.T}: expected 0 or at least 1/sampling_eps = {math.ceil(1 / self.sampling_eps)}"
            )
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

    @property
    def noise(self) -> Schedule:
        return build_schedule(self.schedule, **self.schedule_options)

    @property
    def num_outputs(self) -> int:
        """Pieces, mask (never predicted: its logit is left out) and BOS / EOS where they follow the pieces."""
        return self.special.num_inputs

    @property
    def stratified(self) -> bool:
        return self.antithetic_sampling

    def maskable(self, sentences: Sentences) -> Tensor:
        """[N] True where a token may be masked and is scored."""
        free = ~sentences.is_bos
        return free if self.score_eos else free & ~sentences.is_eos

    def num_scored(self, layout: Layout) -> Tensor:
        """[B]"""
        return layout.lengths - (1 if self.score_eos else 2)

    def token_log_probs(
        self,
        network: Denoiser,
        sentences: Sentences,
        masked: Tensor,
        level: Tensor | None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """log p(x_i | the visible rest) of the positions in `wanted`, nats [M].

        masked [N] bool; level [B] what the network is conditioned on (None unless time_conditioning); wanted [M] flat positions that
        are masked (default: all masked ones).
        """
        z = sentences.ids.masked_fill(masked, self.special.mask_id)
        select = masked.nonzero()[:, 0] if wanted is None else wanted
        log_probs = self.predict(network, z, sentences.layout, level, select)
        return log_probs.gather(1, sentences.ids[select][:, None])[:, 0]

    def predict(self, network: Denoiser, z: Tensor, layout: Layout, level: Tensor | None, select: Tensor) -> Tensor:
        """log p of every symbol at the masked flat positions `select` [M] of the noised ids z [N]; nats, [M, symbols]."""
        # BOS is never masked, so a masked position always has one before it in its row.
        logits = network(z, layout, level if self.time_conditioning else None, select - 1 if self.shift else select)
        special = self.special
        # SUBS: the mask and BOS are never the answer, EOS only where it is scored. They may be pieces of the vocabulary or follow it.
        never = {special.mask_id, special.bos_id, special.eos_id} - ({special.eos_id} if self.score_eos else set())
        kept = self.num_outputs if self.score_eos else special.num_pieces
        bias = logits.new_zeros(kept)
        bias[[index for index in never if index < kept]] = -torch.inf
        return torch.log_softmax(logits[:, :kept] + bias, dim=-1)

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        rho, weight, level = self._training_time(draw.time)
        row = sentences.layout.row
        masked = (draw.keep < rho[row]) & self.maskable(sentences)
        cross_entropy = -self.token_log_probs(network, sentences, masked, level)
        if self.weighting == "masked_mean":
            return TokenLoss(cross_entropy, max(1, len(cross_entropy)))
        return TokenLoss(weight[row[masked]] * cross_entropy, self.num_scored(sentences.layout).sum().clamp(min=1))

    def _training_time(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask probability, loss weight and conditioning level of each row [B] from its uniform variate."""
        noise = self.noise
        if self.importance_sampling or self.change_of_variables:
            # ln rho uniform between its values at the ends; the weight is the width of that interval.
            ends = noise.mask_probability(torch.tensor([self.sampling_eps, 1.0], dtype=torch.float64)).log().tolist()
            log_rho = ends[0] + (ends[1] - ends[0]) * uniform
            level = uniform if self.change_of_variables else noise.sigma(noise.time_of_log_mask_probability(log_rho))
            return log_rho.exp(), torch.full_like(uniform, ends[1] - ends[0]), level
        t = self.sampling_eps + (self.sampling_max - self.sampling_eps) * uniform
        if self.T:
            # In float64: alpha(s) and alpha(t) differ by about 1/T, which float32 would leave three digits of.
            t = ((t * self.T).floor() + 1).clamp(max=self.T).double() / self.T
            kept_before = noise.alpha((t - 1 / self.T).clamp(min=0))
            rho = noise.mask_probability(t)
            weight = self.T * (kept_before - noise.alpha(t)) / rho
            return rho.to(uniform.dtype), weight.to(uniform.dtype), noise.sigma(t).to(uniform.dtype)
        return noise.mask_probability(t), noise.weight(t), noise.sigma(t)

    def level_of_count(self, num_masked: Tensor, num_scored: Tensor) -> Tensor:
        """Conditioning level for k of L masked: that of t = k / (L + 1), within the trained times. [B] -> [B]"""
        return self.level_of_time(num_masked / (num_scored + 1.0))

    def level_of_time(self, t: Tensor) -> Tensor:
        """What the network is conditioned on at time t, kept within the trained times. [B] -> [B]"""
        t = t.clamp(self.sampling_eps, self.sampling_max)
        if self.change_of_variables:
            ends = self.noise.mask_probability(torch.tensor([self.sampling_eps, 1.0])).log().to(t)
            return (self.noise.mask_probability(t).log() - ends[0]) / (ends[1] - ends[0])
        return self.noise.sigma(t)

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        layout = sentences.layout
        scored = self.num_scored(layout)
        count = (draw.time * scored).floor().long() + 1  # uniform on 1 .. L
        masked = smallest_keys(draw.keep, count, self.maskable(sentences), layout)
        log_probs = self.token_log_probs(network, sentences, masked, self.level_of_count(count, scored))
        total = sum_over_rows(log_probs, layout.row[masked], len(scored))
        return -total * scored / count.clamp(min=1)


def smallest_keys(keys: Tensor, count: Tensor, candidates: Tensor, layout: Layout) -> Tensor:
    """[N] True at the `count` [B] candidates of each row with the smallest keys [N]: a uniform subset for uniform keys."""
    spread = keys.new_full((len(layout.lengths), layout.longest), torch.inf)
    spread[layout.row[candidates], layout.position[candidates]] = keys[candidates]
    rank = spread.argsort(dim=1, stable=True).argsort(dim=1)
    return candidates & (rank[layout.row, layout.position] < count[layout.row])
