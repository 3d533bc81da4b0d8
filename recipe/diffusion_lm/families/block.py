"""Block diffusion: blocks from left to right, masked diffusion within a block. BD3-LM (Arriola et al., arXiv
2503.09573).

A row is cut into blocks of `block_size` positions from its start; BOS is position 0 of the first one, visible and never
scored. With x^j the tokens of block j,

    log p(x) = sum_j log p(x^j | clean blocks before) >= -sum_j NELBO_j,     NELBO_j as in families/masked.py

A network with visibility `Blocks` reads the noised ids and the clean ones side by side, so that one pass gives the
terms of all blocks. Block size 1 is exact: it is the chain rule from left to right. With a block as long as the row,
the family equals the masked family with `score_eos`, as the same function of the same weights.

The model generates the length too, as the autoregressive family does: EOS is scored, and the last block is padded with
EOS. A shorter last block would show the network where the sentence ends, so that the end would cost something only if
the length happens to be a multiple of the block size. `fill_last: false` leaves the last block short and scores log p(x
| length of the last block).

Every block has its own uniform number for its time. Let r_j be the rank of block j by `draw.category` at its first
scored token; block j of n gets (r_j + draw.time) / n. Each number is uniform, and those of one row lie in different
strata. `nelbo` turns it into k, uniform on 1 .. L for a block of L tokens, masks the k smallest keys and weights by
L/k. This needs no epsilon, has finite variance (Ou et al., arXiv 2406.03736) and does not depend on the training
interval.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw, more_noise
from diffusion_lm.families.base import (
    BlockTerms,
    Denoiser,
    Family,
    ScheduledNoise,
    TokenLoss,
    on_device_of,
    sum_over_rows,
)
from diffusion_lm.families.block_likelihood import block_log_probs
from diffusion_lm.families.masked import smallest_keys
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.visibility import Blocks

LARGEST_WEIGHTED = 0.5
"""Above this `sampling_min` the loss is not weighted, as in the original code, because nearly everything is masked."""

MOST_POSITIONS = 1 << 14
"""Limit on `block_size`: every row is padded to whole blocks, so a damaged number would ask for terabytes."""


@dataclass(frozen=True)
class BlockFamily(ScheduledNoise, Family):
    """Block diffusion. BOS is always visible; the score bounds log p(pieces, EOS), so no length term is needed."""

    block_size: int = 4
    """Number of positions in a block."""
    fill_last: bool = True
    """Pad the last block with EOS."""
    antithetic_sampling: bool = True
    """Training times are spread evenly over the blocks of a row and over the batch."""
    sampling_eps: float = 1e-3
    """Training times lie in [max(sampling_eps, sampling_min), sampling_max]."""
    sampling_min: float = 0.0
    """Lower end of the interval of training times.

    A narrow one reduces variance, but is no bound (training/clip_search.py).
    """
    sampling_max: float = 1.0
    """Upper end of the interval."""
    resample: bool = False
    """Redraw masks until the masked share of a block lies in the interval too."""
    time_conditioning: bool = False
    """Must be False: each block has its own time, but the network is conditioned on one level per row."""

    scores_end: ClassVar[bool] = True
    sampler_kind: ClassVar[str] = "blocks"

    def __post_init__(self) -> None:
        if not 1 <= self.block_size <= MOST_POSITIONS:
            raise ValueError(f"family.block_size {self.block_size}: expected 1 to {MOST_POSITIONS}")
        if self.time_conditioning:
            raise ValueError(
                "family.time_conditioning true: expected false, since every block has its own time "
                "and the network is conditioned on one level per row"
            )
        if not (0 < self.sampling_eps < 1 and 0 <= self.sampling_min <= self.sampling_max <= 1):
            raise ValueError(
                f"family.sampling_eps {self.sampling_eps}, sampling_min {self.sampling_min}, "
                f"sampling_max {self.sampling_max}: expected 0 < eps < 1 and 0 <= min <= max <= 1"
            )
        if self.sampling_max <= self.sampling_eps:
            raise ValueError(f"family.sampling_max {self.sampling_max}: expected more than sampling_eps")
        if self.resample and not self.clipped:
            raise ValueError("family.resample without a clip interval; expected family.sampling_min or sampling_max")
        if self.exact:
            usual = BlockFamily(self.special)
            changed = [
                option.name
                for option in fields(self)
                if option.name != "block_size" and getattr(self, option.name) != getattr(usual, option.name)
            ]
            if changed:
                raise ValueError(
                    f"family.{changed[0]} with family.block_size 1, where every token is masked and nothing is drawn; "
                    "leave it out"
                )
        if not 0 < float(self.noise.mask_probability(torch.tensor(1.0))) <= 1:
            raise ValueError(f"family.schedule {self.schedule!r} never masks; expected a schedule that ends in noise")

    @property
    def exact(self) -> bool:
        """Whether blocks have one token, which is always masked, so that `nelbo` is -log p itself."""
        return self.block_size == 1

    @property
    def visibility(self) -> Blocks:
        return Blocks(self.block_size)

    @property
    def clippable(self) -> BlockFamily:
        return self

    def with_interval(self, low: float, high: float, *, resample: bool) -> BlockFamily:
        """A copy with training times from low to high; `resample` is dropped if these are all times."""
        clipped = low > self.sampling_eps or high < 1
        return replace(self, sampling_min=low, sampling_max=high, resample=resample and clipped)

    @property
    def clipped(self) -> bool:
        """Whether training uses only some of the times, so that the training loss is no bound."""
        return self.sampling_min > self.sampling_eps or self.sampling_max < 1

    def filled(self, sentences: Sentences, draw: NoiseDraw) -> tuple[Sentences, NoiseDraw]:
        """Pad the last block of every row with EOS.

        The keys of the new positions are derived from the key of the row's EOS.
        """
        lengths = sentences.layout.lengths
        whole = (lengths + self.block_size - 1).div(self.block_size, rounding_mode="floor") * self.block_size
        if not self.fill_last or self.exact or torch.equal(whole, lengths):
            return sentences, draw
        layout = Layout(whole)
        ends = torch.cumsum(lengths, 0) - 1
        beyond = layout.position - (lengths - 1)[layout.row]  # 0 at the EOS
        source, new = ends[layout.row] + beyond.clamp(max=0), beyond > 0

        keep = draw.keep[source]
        keep = torch.where(new, more_noise(keep, beyond), keep)
        # `category` is read at the first scored token of a block only, and that is never padding.
        more = draw._replace(keep=keep, category=draw.category[source])
        return Sentences(sentences.ids[source], layout), more

    def blocks(self, layout: Layout) -> Layout:
        """A layout whose rows are the blocks of all rows, in flat order."""
        starts = layout.position % self.block_size == 0
        number = torch.cumsum(starts, 0) - 1
        return Layout(torch.bincount(number, minlength=int(starts.sum())))

    def block_uniforms(self, layout: Layout, blocks: Layout, draw: NoiseDraw, *, stratified: bool) -> Tensor:
        """[blocks] one uniform number for each block, stratified within its row or independent."""
        first = torch.cumsum(blocks.lengths, 0) - blocks.lengths
        row = layout.row[first]
        # The numbers at BOS may be constant, because BOS is never noised: the first block uses the token after it.
        source = first + (layout.position[first] == 0).long()
        value = draw.category[source]
        if not stratified:
            return value
        count = torch.bincount(row, minlength=len(layout.lengths))
        # Sort by row, then by value: the index within the row is the rank.
        order = value.argsort(stable=True)
        order = order[row[order].argsort(stable=True)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        rank = rank - (torch.cumsum(count, 0) - count)[row]
        uniform = (rank + draw.time[row]) / count[row]
        return uniform.clamp(max=1 - 2**-24)  # (n - 1 + u) / n can round up to 1 in float32

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        terms = self.training_terms(network, sentences, draw)
        return TokenLoss(terms.loss, self.num_scored(sentences.layout).sum().clamp(min=1))

    def training_terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> BlockTerms:
        """Terms of `training_loss`, each with the index of its block."""
        sentences, draw = self.filled(sentences, draw)
        maskable, blocks = ~sentences.is_bos, self.blocks(sentences.layout)
        scored = sum_over_rows(maskable, blocks.row, len(blocks.lengths)).long()
        number = sentences.layout.position[blocks.position == 0] // self.block_size
        if self.exact:
            loss = -self.token_log_probs(network, sentences, maskable)
            return BlockTerms(loss, blocks.row[maskable], scored, number)
        uniform = self.block_uniforms(sentences.layout, blocks, draw, stratified=self.antithetic_sampling)
        low = max(self.sampling_eps, self.sampling_min)
        t = low + (self.sampling_max - low) * uniform
        rho = self.noise.mask_probability(t)
        masked = (draw.keep < rho[blocks.row]) & maskable
        if self.resample:
            masked = self._resampled(masked, rho, sentences, blocks, scored, draw)
        weight = self.noise.weight(t) if self.sampling_min <= LARGEST_WEIGHTED else torch.ones_like(t)
        block = blocks.row[masked]
        log_probs = self.token_log_probs(network, sentences, masked)
        loss = -on_device_of(weight[block], log_probs) * log_probs
        return BlockTerms(loss, block, scored, number)

    def _resampled(
        self, masked: Tensor, rho: Tensor, sentences: Sentences, blocks: Layout, scored: Tensor, draw: NoiseDraw
    ) -> Tensor:
        """[N] masks, distributed as if redrawn until the masked share of each block lies in the clip interval.

        No loop is needed: the number of masks of a block is binomial, conditioned on lying in the interval, and the
        masked positions are a uniform subset. An end of the interval that has its default is not enforced. If no number
        fits (a short block), `masked` is kept.
        """
        counts = torch.arange(self.block_size + 1, device=rho.device, dtype=torch.float64)
        total, p = scored.double()[:, None], rho.double()[:, None]
        choices = torch.lgamma(total + 1) - torch.lgamma(counts + 1) - torch.lgamma((total - counts).clamp(min=0) + 1)
        log_prob = choices + torch.special.xlogy(counts, p) + torch.special.xlog1py((total - counts).clamp(min=0), -p)
        share = counts / total.clamp(min=1)
        fits = (counts <= total) & (total > 0)
        if self.sampling_min > self.sampling_eps:
            fits &= share >= self.sampling_min
        if self.sampling_max < 1:
            fits &= share <= self.sampling_max
        cumulative = torch.where(fits, log_prob.exp(), 0.0).cumsum(1)
        first = torch.cumsum(blocks.lengths, 0) - blocks.lengths
        source = first + sentences.is_bos[first].long()
        value = more_noise(draw.keep[source], torch.full_like(source, -1)).double()[:, None] * cumulative[:, -1:]
        count = torch.searchsorted(cumulative, value, right=True)[:, 0].clamp(max=self.block_size)
        possible = cumulative[:, -1] > 0
        chosen = smallest_keys(draw.keep, count, ~sentences.is_bos, blocks)
        return torch.where(possible[blocks.row], chosen, masked)

    def nll(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[B] exact -log p under the sampler, with the filled end as in the bound (block_likelihood.py)."""
        lengths, unused = sentences.layout.lengths, torch.zeros_like(sentences.ids, dtype=torch.float32)
        sentences, _ = self.filled(sentences, NoiseDraw(unused[: len(lengths)], unused, unused))
        layout, blocks = sentences.layout, self.blocks(sentences.layout)
        log_probs = block_log_probs(
            lambda masked: self.token_log_probs(network, sentences, masked),
            ~sentences.is_bos,
            blocks,
            layout.position % self.block_size,
            size=self.block_size,
        )
        first = torch.cumsum(blocks.lengths, 0) - blocks.lengths
        return -sum_over_rows(log_probs, layout.row[first], len(lengths))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        num_rows = len(sentences.layout.lengths)
        if self.exact:  # every token is masked
            masked = ~sentences.is_bos
            log_probs = self.token_log_probs(network, sentences, masked)
            return -sum_over_rows(log_probs, sentences.layout.row[masked], num_rows)
        sentences, draw = self.filled(sentences, draw)
        layout, maskable = sentences.layout, ~sentences.is_bos
        blocks = self.blocks(layout)
        scored = sum_over_rows(maskable, blocks.row, len(blocks.lengths)).long()
        uniform = self.block_uniforms(layout, blocks, draw, stratified=True)
        count = (uniform * scored).floor().long() + 1  # uniform on 1 .. L
        masked = smallest_keys(draw.keep, count, maskable, blocks)
        log_probs = self.token_log_probs(network, sentences, masked)
        weight = (scored.double() / count)[blocks.row[masked]]
        return -sum_over_rows(weight * log_probs, layout.row[masked], num_rows)
