"""The common base of the uniform and the hybrid family: noise is the mask, a uniformly drawn symbol, or either.

    q_t(z | x) = alpha onehot(x) + uniform (1 over the N symbols) + mask onehot(mask),     alpha + N uniform + mask = 1

Every token can be wrong, so every position is predicted and contributes to the loss. The bound is that of
process_family.py, simplified for these three numbers: it needs one sum over the vocabulary per token instead of three.
The original papers leave R0 out, which makes their bounds lower by 0.01 to 0.05 nats per token.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, on_device_of
from diffusion_lm.families.process_family import ProcessFamily
from diffusion_lm.layout import Sentences


class Mixture(NamedTuple):
    """The noise process at B times, float64."""

    alpha: Tensor
    """[B] probability that a token is kept."""
    uniform: Tensor
    """[B] probability of each single symbol as noise."""
    mask: Tensor
    """[B] probability of the mask."""
    rate_uniform: Tensor
    """[B] rate of transitions to each symbol: uniform' - (alpha'/alpha) uniform."""
    rate_mask: Tensor
    """[B] rate of transitions to the mask: mask' - (alpha'/alpha) mask."""

    def at(self, row: Tensor) -> Mixture:
        """The process at the times of M tokens; row [M] is the index of each token's time."""
        return Mixture(*(part[row] for part in self))


@dataclass(frozen=True)
class MixtureFamily(ProcessFamily):
    """Bound and loss of such a process; a subclass defines its `mixture`."""

    @abstractmethod
    def mixture(self, t: Tensor) -> Mixture:
        """The process at times t [B], float64."""

    def alpha(self, t: Tensor) -> Tensor:
        return self.mixture(t).alpha

    def beta_pi(self, t: Tensor) -> Tensor:
        mixture = self.mixture(t)
        is_symbol = torch.zeros(self.special.num_inputs, dtype=torch.float64, device=t.device)
        is_symbol[self.symbols] = 1
        is_mask = torch.zeros_like(is_symbol)
        is_mask[self.special.mask_id] = 1
        return mixture.uniform[:, None] * is_symbol + mixture.mask[:, None] * is_mask

    def corrupt(self, mixture: Mixture, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[N] noised ids; row b is noised at time b of the mixture [B]."""
        now = mixture.at(sentences.layout.row)
        symbols = torch.tensor(self.symbols, device=sentences.ids.device)
        share = now.mask / (1 - now.alpha)  # probability that noise is the mask
        index = ((draw.category - share) / (1 - share).clamp(min=1e-30) * len(symbols)).long()
        noise = symbols[index.clamp(0, len(symbols) - 1)].masked_fill(draw.category < share, self.special.mask_id)
        return torch.where(self.scored(sentences) & (draw.keep >= now.alpha), noise, sentences.ids)

    def token_terms(
        self, mixture: Mixture, log_x_hat: Tensor, x: Tensor, z: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(weight, divergence) of each token, [M] float64 each. Their product is the negative ELBO per unit of time
        (process.token_nelbo).

        log_x_hat: [M, num_pieces]. x, z: [M] clean and noised ids. row: [M] index of each token's time in the mixture
        [B]. All but log_x_hat may be on any device.
        """
        now = Mixture(*(on_device_of(part, log_x_hat) for part in mixture.at(row)))
        x, z = on_device_of(x, log_x_hat), on_device_of(z, log_x_hat)
        # s_v = log(q_hat[v] / uniform) = log(1 + alpha x_hat[v] / uniform) avoids a difference of large numbers.
        odds = (now.alpha.log() - now.uniform.log()).to(log_x_hat.dtype)
        excess = F.softplus(odds[:, None] + log_x_hat, threshold=40)  # the default 20 has an error of 2e-9
        at_x = excess.gather(1, x[:, None])[:, 0].double()
        q_x = now.alpha + now.uniform
        log_uniform = now.uniform.log()
        kl = q_x * (q_x.log() - log_uniform - at_x) - now.uniform * (excess.sum(-1).double() - at_x)
        is_mask, is_x = z == self.special.mask_id, z == x
        piece = torch.where(is_mask, 0, z)
        at_z = log_uniform + excess.gather(1, piece[:, None])[:, 0].double()
        log_ratio = torch.where(is_mask, 0.0, torch.where(is_x, q_x.log(), log_uniform) - at_z)
        weight = torch.where(is_x, now.rate_uniform / q_x, now.rate_uniform / now.uniform)
        # If the process has no mask, neither has z, so that 0 / 0 is never selected.
        weight = torch.where(is_mask, now.rate_mask / now.mask, weight)
        return weight, kl + torch.expm1(log_ratio) - log_ratio

    def terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw, t: Tensor) -> tuple[Tensor, Tensor]:
        scored, mixture = self.scored(sentences), self.mixture(t)
        z = self.corrupt(mixture, sentences, draw)
        log_x_hat = self.denoised(network, z, sentences, t)
        return self.token_terms(mixture, log_x_hat, sentences.ids[scored], z[scored], sentences.layout.row[scored])

    def end_terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Sequence[Tensor]:
        """R0 and the two summands of K1, [M] nats each."""
        scored = self.scored(sentences)
        row, x = sentences.layout.row[scored], sentences.ids[scored]
        ends = self.mixture(torch.tensor(self.time_range, dtype=torch.float64, device=x.device))
        first, last = ends.at(torch.zeros_like(row)), ends.at(torch.ones_like(row))
        smallest = torch.full_like(draw.time, self.time_eps)
        z = self.corrupt(self.mixture(smallest.double()), sentences, draw)
        log_x_hat = self.denoised(network, z, sentences, smallest)
        q_x = last.alpha + last.uniform
        r0 = self._reconstruction(first, log_x_hat, x, z[scored])
        return r0, torch.xlogy(q_x, q_x / last.uniform), torch.log1p(-last.alpha)

    def _reconstruction(self, first: Mixture, log_x_hat: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """R0 of each token, [M] nats: -log(x_hat[x] q(z | x) / q_hat[z]). For a masked z this is -log x_hat[x]."""
        is_mask = z == self.special.mask_id
        at_z = log_x_hat.gather(1, torch.where(is_mask, 0, z)[:, None])[:, 0].double()
        likelihood = torch.where(z == x, first.alpha + first.uniform, first.uniform).log()
        ratio = likelihood - (first.alpha * at_z.exp() + first.uniform).log()
        return -log_x_hat.gather(1, x[:, None])[:, 0].double() - torch.where(is_mask, 0.0, ratio)
