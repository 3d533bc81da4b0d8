"""The exact likelihood of a block model, for blocks of up to eight tokens.

    nll = family.nll(network, sentences)                # [B] nats, with 2^block_size - 1 runs of the network

The sampler of a block reveals its tokens one at a time in a uniformly random order, so the probability of a block is
the mean over all orders of the product of the conditional probabilities. With M the tokens that are still masked,

    p(x_M | rest) = 1/|M| sum over i in M of p(x_i | rest) p(x_(M without i) | rest and x_i)

and each set M takes one run of the network for all blocks together. The bound is the mean over orders of the logarithm
of the same products, so it is never tighter (Jensen's inequality).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_lm.layout import Layout

LARGEST_BLOCK = 8
"""Largest block size; the number of network runs doubles with every token of a block."""


def block_log_probs(
    token_log_probs: Callable[[Tensor], Tensor], maskable: Tensor, blocks: Layout, place: Tensor, *, size: int
) -> Tensor:
    """[blocks] log p of each block given the blocks before it, nats, float64.

    Args:
        token_log_probs: masked [N] -> log p of the tokens at these positions [M], given the others of their block.
        maskable: [N] False at BOS.
        blocks: layout whose rows are the blocks.
        place: [N] index of each position within its block.
        size: largest number of tokens in a block. ValueError above LARGEST_BLOCK.
    """
    if size > LARGEST_BLOCK:
        raise ValueError(
            f"family.block_size {size}: the exact likelihood takes {2**size - 1:,} runs a sentence; "
            f"expected blocks of at most {LARGEST_BLOCK} tokens"
        )
    # [blocks, size] whether there is a token that can be masked
    exists = torch.zeros(len(blocks.lengths), size, dtype=torch.bool, device=place.device)
    exists[blocks.row[maskable], place[maskable]] = True
    # log p(x_M | rest) of each block for all M, numbered by their bits; tokens that do not exist are ignored
    log_p = torch.zeros(2**size, len(blocks.lengths), dtype=torch.float64, device=place.device)
    for number in range(1, 2**size):
        inside = [index for index in range(size) if number >> index & 1]
        masked = maskable & (number >> place & 1).bool()
        now = torch.full(exists.shape, -torch.inf, dtype=torch.float64, device=place.device)
        now[blocks.row[masked], place[masked]] = token_log_probs(masked).double().to(place.device)
        after = torch.stack([log_p[number ^ 1 << index] for index in inside], dim=1)
        count = exists[:, inside].sum(1)
        total = torch.logsumexp(now[:, inside] + after, dim=1) - count.clamp(min=1).log()
        log_p[number] = torch.where(count > 0, total, 0.0)
    return log_p[-1]
