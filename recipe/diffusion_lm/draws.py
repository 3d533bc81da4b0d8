"""The random numbers of one Monte-Carlo draw, drawn outside the loss functions.

    draw = draw_noise(lengths, generator, stratified=True)
    draw.time [B], draw.keep [N], draw.category [N], all in [0, 1)

"Antithetic" sampling in the MDLM code is stratified jitter: row j of n gets a time in [j/n, (j+1)/n]. That ties the
index of a row in the batch to its noise level, which is harmful when rows are sorted by length. Here the strata are
permuted, which costs nothing and keeps the variance reduction.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lm.device import to_device

NO_STEP = -1


class NoiseDraw(NamedTuple):
    """One draw for a batch of B sentences with N positions in all."""

    time: Tensor
    """[B] uniform in [0, 1); a family maps it to a diffusion time."""
    keep: Tensor
    """[N] uniform in [0, 1); decides whether a position is noised."""
    category: Tensor = torch.empty(0)
    """[N] uniform in [0, 1); selects the replacing symbol in families with more than one."""
    step: int = NO_STEP
    """Optimizer step, for a curriculum; NO_STEP outside of training."""
    seed: int | None = None
    """Seed of `generator`; None outside of training."""
    device: torch.device | str = "cpu"
    """Device of the network, on which `generator` draws."""

    def generator(self) -> torch.Generator:
        """A generator for further numbers of a training step; these may depend on the other rows of the batch.

        ValueError outside of training, where every draw and sentence would get the same numbers; reported bounds use
        `gaussian` instead.
        """
        if self.seed is None:
            raise ValueError("this noise has no seed because it is for scoring; expected a family that uses `gaussian`")
        return torch.Generator(self.device).manual_seed(self.seed)

    def gaussian(self, width: int) -> Tensor:
        """[N, width] standard normal numbers, float32, computed from `keep` and `category` of each position alone.

        They differ between draws, do not depend on the batch, and are equal for hypotheses that share the noise of a
        position. BOS is the exception.
        """
        first = (self.category.double() * 2**24).long()[:, None] * width
        uniform = more_noise(self.keep[:, None], first + torch.arange(width, device=first.device))
        return torch.special.ndtri(uniform.double() + 2**-25).float()

    def to(self, device: torch.device | str) -> NoiseDraw:
        """The same numbers on `device`."""
        time, keep, category = (to_device(value, device) for value in (self.time, self.keep, self.category))
        return self._replace(time=time, keep=keep, category=category, device=device)


def draw_noise(
    lengths: Tensor, generator: torch.Generator, *, stratified: bool, step: int = NO_STEP, seed: int | None = None
) -> NoiseDraw:
    """New noise for sentences of these lengths [B], drawn on the CPU so that it is equal on every device."""
    num_rows, total = len(lengths), int(lengths.sum())
    time = torch.rand(num_rows, generator=generator)
    if stratified and num_rows:
        time = (torch.randperm(num_rows, generator=generator) + time) / num_rows
        time = time.clamp(max=1 - 2**-24)  # (n - 1 + u) / n can round up to 1 in float32
    keep, category = torch.rand(total, generator=generator), torch.rand(total, generator=generator)
    return NoiseDraw(time.to(lengths.device), keep.to(lengths.device), category.to(lengths.device), step, seed)


def more_noise(uniform: Tensor, counter: Tensor) -> Tensor:
    """Further uniform numbers [M] in [0, 1), a function of drawn ones `uniform` [M] and of `counter` [M] (int64) alone.

    For a family that needs more numbers than a draw has; the result is the same on any device and in any batch. Mixing
    is that of SplitMix64 (Steele et al., OOPSLA 2014), whose outputs for successive counters count as independent.
    """
    z = (uniform.double() * 2**53).long() * 0x2545F491 + counter * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        z = (z ^ _shifted(z, shift)) * factor
    z = z ^ _shifted(z, 31)
    return (_shifted(z, 40).double() * 2**-24).to(uniform.dtype)  # 24 bits: exact in float32, and never rounded to 1


def _shifted(z: Tensor, by: int) -> Tensor:
    """Logical right shift of int64 numbers; torch's operator is the arithmetic one."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def step_seed(seed: int, purpose: str, step: int, rank: int) -> int:
    """63-bit seed for a purpose, step and rank; a hash, so that neighbouring steps are unrelated."""
    return (
        int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}/{step}/{rank}".encode(), digest_size=8).digest(), "big") >> 1
    )
