"""log p of one symbol a row from logits over the whole vocabulary, without ever holding the probabilities of all rows.

    log_probs = target_log_probs(logits, targets, kept=4000, never=(1, 2))      # [M] nats; log_softmax and gather, value for value

Rows are worked on a few at a time, forwards and backwards: on a CPU a batch of rows times vocabulary is tens of megabytes that leave the
cache (and that the system clears page by page) for every intermediate result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusion_lm.device import to_device

CHUNK = {"cpu": 2**18}  # values worked on at once: a megabyte in float32
CHUNK_ELSEWHERE = 2**28


def target_log_probs(logits: Tensor, targets: Tensor, *, kept: int, never: Sequence[int] = ()) -> Tensor:
    """log_softmax(logits + bias)[target] for the symbols 0 .. kept - 1 without those in `never`.

    logits: [M, outputs >= kept]. targets: [M] possible ids, on any device. Returns [M] nats, float32 at least. Differentiable once, in logits.
    """
    bias = torch.zeros(kept, dtype=at_least_float32(logits[:0]).dtype)
    bias[list(never)] = -torch.inf
    return _TargetLogProbs.apply(logits, to_device(targets, logits.device), to_device(bias, logits.device))


class _TargetLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets, bias)
        result = torch.empty(len(logits), dtype=bias.dtype, device=logits.device)
        for rows in _chunks(logits):
            log_p = _log_softmax(logits[rows], bias)
            result[rows] = log_p.gather(1, targets[rows, None])[:, 0]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(indicator of the target - p) times the gradient of each row."""
        logits, targets, bias = ctx.saved_tensors
        result = torch.empty_like(logits)
        result[:, len(bias) :] = 0.0
        for rows in _chunks(logits):
            own = gradient[rows, None].to(bias.dtype)
            part = _log_softmax(logits[rows], bias).exp_().mul_(-own)
            result[rows, : len(bias)] = part.scatter_add_(1, targets[rows, None], own)
        return result, None, None


def _log_softmax(logits: Tensor, bias: Tensor) -> Tensor:
    return torch.log_softmax(logits[:, : len(bias)].to(bias.dtype) + bias, dim=-1)


def _chunks(logits: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK.get(logits.device.type, CHUNK_ELSEWHERE) // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))


def at_least_float32(logits: Tensor) -> Tensor:
    """What a network said, in the precision that loss arithmetic needs."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
