"""What the uniform and the hybrid family share: noise that is the mask, any symbol alike, or both.

    q_t(z | x) = alpha onehot(x) + uniform (1 over the N symbols) + mask onehot(mask),     alpha + N uniform + mask = 1

Every token can be wrong, so every position is predicted and every position costs something. The bound is that of process.py with these
three numbers put in: one V-wide sum per token instead of three. It is the integral between t0 = time_eps and t1 = 1 - time_eps, plus the
reconstruction R0 at t0 (a second run of the network) plus the divergence from the prior K1 at t1; the originals leave R0 out, which flatters them
by 0.01 to 0.05 nats a token.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Family, TokenLoss, on_device_of, sum_over_rows
from diffusion_lm.layout import Sentences
from diffusion_lm.process import ForwardProcess


class Mixture(NamedTuple):
    """A process at B times, float64."""

    alpha: Tensor  # [B] probability that a token is kept
    uniform: Tensor  # [B] probability of each single symbol as noise
    mask: Tensor  # [B] probability of the mask
    rate_uniform: Tensor  # [B] rate at which each symbol comes in: uniform' - (alpha'/alpha) uniform
    rate_mask: Tensor  # [B]

    def at(self, row: Tensor) -> Mixture:
        return Mixture(*(part[row] for part in self))


@dataclass(frozen=True)
class MixtureFamily(Family):
    """BOS and EOS are never noised or scored. The score is p(pieces | their number): tune a length term beside it."""

    time_eps: float = 1e-4  # times lie in [time_eps, 1 - time_eps]
    time_conditioning: bool = True  # tell the network the noise level
    antithetic_sampling: bool = True  # training times spread evenly over the batch
    shift: bool = False  # read the prediction of a token off the position before it, as an autoregressive network does

    runs_per_draw: ClassVar[int] = 2
    sampler_kind: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if not 0 < self.time_eps < 0.1:
            raise ValueError(f"family.time_eps {self.time_eps}: expected a value between 0 and 0.1")

    @abstractmethod
    def mixture(self, t: Tensor) -> Mixture:
        """The process at times t [B], float64."""

    @property
    def sees_errors(self) -> bool:
        return True

    @property
    def time_range(self) -> tuple[float, float]:
        return self.time_eps, 1 - self.time_eps

    @property
    def process(self) -> ForwardProcess:
        """The same in the general form, over all input ids."""
        return _General(self)

    def time(self, uniform: Tensor) -> Tensor:
        """Times [B], float64, from uniform numbers [B] in [0, 1)."""
        return self.time_eps + (1 - 2 * self.time_eps) * uniform.double()

    def corrupt(self, mixture: Mixture, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[N] noised ids; every row at its own time of the mixture [B]."""
        now = mixture.at(sentences.layout.row)
        symbols = torch.tensor(self.symbols, device=sentences.ids.device)
        share = now.mask / (1 - now.alpha)  # of the mask in the noise
        place = ((draw.category - share) / (1 - share).clamp(min=1e-30) * len(symbols)).long()
        noise = symbols[place.clamp(0, len(symbols) - 1)].masked_fill(draw.category < share, self.special.mask_id)
        return torch.where(self.scored(sentences) & (draw.keep >= now.alpha), noise, sentences.ids)

    def token_terms(
        self, mixture: Mixture, log_x_hat: Tensor, x: Tensor, z: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(weight, divergence) of each token, [M] float64; their product is its negative ELBO per unit of time (process.token_nelbo).

        log_x_hat [M, num_pieces]; x, z [M] clean and noised ids; row [M] which of the B times each has; the last three and the mixture on any
        device.
        """
        now = Mixture(*(on_device_of(part, log_x_hat) for part in mixture.at(row)))
        x, z = on_device_of(x, log_x_hat), on_device_of(z, log_x_hat)
        # s_v = log(q_hat[v] / uniform) = log(1 + alpha x_hat[v] / uniform): no difference of large numbers
        odds = (now.alpha.log() - now.uniform.log()).to(log_x_hat.dtype)
        excess = F.softplus(odds[:, None] + log_x_hat, threshold=40)  # the usual 20 is 2e-9 off
        at_x = excess.gather(1, x[:, None])[:, 0].double()
        q_x = now.alpha + now.uniform
        log_uniform = now.uniform.log()
        kl = q_x * (q_x.log() - log_uniform - at_x) - now.uniform * (excess.sum(-1).double() - at_x)
        is_mask, is_x = z == self.special.mask_id, z == x
        piece = torch.where(is_mask, 0, z)
        at_z = log_uniform + excess.gather(1, piece[:, None])[:, 0].double()
        log_ratio = torch.where(is_mask, 0.0, torch.where(is_x, q_x.log(), log_uniform) - at_z)
        weight = torch.where(is_x, now.rate_uniform / q_x, now.rate_uniform / now.uniform)
        # Without a mask in the process there is none in z either, and 0 / 0 is not looked at.
        weight = torch.where(is_mask, now.rate_mask / now.mask, weight)
        return weight, kl + torch.expm1(log_ratio) - log_ratio

    def training_weight(self, weight: Tensor, t: Tensor) -> Tensor:
        """What a token's divergence counts in training, from its weight in the bound [M] and its time [M]."""
        return weight

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        t = self.time(draw.time)
        weight, divergence = self._terms(network, sentences, draw, t)
        row = sentences.layout.row[self.scored(sentences)]
        loss = self.training_weight(weight, on_device_of(t[row], weight)) * divergence
        return TokenLoss(loss.float(), self.num_scored(sentences.layout).sum().clamp(min=1))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] the integral at one time, R0 and K1; two runs of the network."""
        scored = self.scored(sentences)
        row, x = sentences.layout.row[scored], sentences.ids[scored]
        weight, divergence = self._terms(network, sentences, draw, self.time(draw.time))
        total = (1 - 2 * self.time_eps) * weight * divergence
        ends = self.mixture(torch.tensor([self.time_eps, 1 - self.time_eps], dtype=torch.float64, device=x.device))
        first, last = ends.at(torch.zeros_like(row)), ends.at(torch.ones_like(row))
        z = self._noised(sentences, draw, torch.full_like(draw.time, self.time_eps).double())
        log_x_hat = self._denoised(network, z, sentences, torch.full_like(draw.time, self.time_eps))
        total = total + self._reconstruction(first, log_x_hat, x, z[scored])
        q_x = last.alpha + last.uniform
        total = total + torch.xlogy(q_x, q_x / last.uniform) + torch.log1p(-last.alpha)
        return sum_over_rows(total, row, len(draw.time))

    def _reconstruction(self, first: Mixture, log_x_hat: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """R0 of each token: -log(x_hat[x] q(z | x) / q_hat[z]). A masked z tells nothing but x_hat."""
        is_mask = z == self.special.mask_id
        at_z = log_x_hat.gather(1, torch.where(is_mask, 0, z)[:, None])[:, 0].double()
        likelihood = torch.where(z == x, first.alpha + first.uniform, first.uniform).log()
        told = likelihood - (first.alpha * at_z.exp() + first.uniform).log()
        return -log_x_hat.gather(1, x[:, None])[:, 0].double() - torch.where(is_mask, 0.0, told)

    def _noised(self, sentences: Sentences, draw: NoiseDraw, t: Tensor) -> Tensor:
        return self.corrupt(self.mixture(t), sentences, draw)

    def _denoised(self, network: Denoiser, z: Tensor, sentences: Sentences, t: Tensor) -> Tensor:
        select = self.scored(sentences).nonzero()[:, 0]
        level = self.level_of_time(t).float()
        return self.predict(network, z, sentences.layout, level=level, select=select)

    def _terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw, t: Tensor) -> tuple[Tensor, Tensor]:
        scored = self.scored(sentences)
        mixture = self.mixture(t)
        z = self.corrupt(mixture, sentences, draw)
        log_x_hat = self._denoised(network, z, sentences, t)
        return self.token_terms(mixture, log_x_hat, sentences.ids[scored], z[scored], sentences.layout.row[scored])


class _General(ForwardProcess):
    """A mixture over all input ids, for what works with any process."""

    def __init__(self, family: MixtureFamily):
        self.family = family

    def alpha(self, t: Tensor) -> Tensor:
        return self.family.mixture(t).alpha

    def beta_pi(self, t: Tensor) -> Tensor:
        mixture = self.family.mixture(t)
        is_symbol = torch.zeros(self.family.special.num_inputs, dtype=torch.float64, device=t.device)
        is_symbol[self.family.symbols] = 1
        is_mask = torch.zeros_like(is_symbol)
        is_mask[self.family.special.mask_id] = 1
        return mixture.uniform[:, None] * is_symbol + mixture.mask[:, None] * is_mask
