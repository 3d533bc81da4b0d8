"""log p of one symbol per row from logits over the vocabulary, without storing the probabilities of all rows.

    log_probs = target_log_probs(logits, targets, kept=4000, never=(1, 2))     # [M] nats; equals log_softmax and gather

Rows are processed in small chunks, forwards and backwards. On a CPU, an intermediate result for all rows has tens of
megabytes, which do not fit into the cache and which the system must clear page by page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusion_lm.device import to_device

CHUNK = {"cpu": 2**18}  # number of values in a chunk: a megabyte in float32
CHUNK_ELSEWHERE = 2**28


def target_log_probs(logits: Tensor, targets: Tensor, *, kept: int, never: Sequence[int] = ()) -> Tensor:
    """log_softmax(logits)[target], normalised over the symbols 0 .. kept - 1 except those in `never`.

    logits: [M, outputs], with outputs >= kept. targets: [M] ids of these symbols, on any device. Returns [M] nats, at
    least float32. The result is differentiable once, with respect to the logits.
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
        """Gradient of the logits: (indicator of the target - p) times the gradient of each row."""
        logits, targets, bias = ctx.saved_tensors
        result = torch.empty_like(logits)
        result[:, len(bias) :] = 0.0
        for rows in _chunks(logits):
            of_rows = gradient[rows, None].to(bias.dtype)
            part = _log_softmax(logits[rows], bias).exp_().mul_(-of_rows)
            result[rows, : len(bias)] = part.scatter_add_(1, targets[rows, None], of_rows)
        return result, None, None


def _log_softmax(logits: Tensor, bias: Tensor) -> Tensor:
    return torch.log_softmax(logits[:, : len(bias)].to(bias.dtype) + bias, dim=-1)


def _chunks(logits: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK.get(logits.device.type, CHUNK_ELSEWHERE) // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))


def at_least_float32(logits: Tensor) -> Tensor:
    """Convert 16-bit logits to float32, which loss arithmetic needs; others are returned unchanged."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
