"""A language small enough to enumerate: joint tables with exact conditionals, and networks that answer from such a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch

from rescore.estimators.plans import Plan

LogProbs = Callable[
    [tuple[int, ...], tuple[bool, ...]], np.ndarray
]  # (sentence, mask) -> log p of each token given the visible rest


def random_joint(seed: int, length: int, size: int) -> np.ndarray:
    """A positive joint table over size^length sentences."""
    table = np.random.default_rng(seed).gamma(0.7, size=(size,) * length) + 1e-3
    return table / table.sum()


def markov_joint(seed: int, length: int, size: int) -> np.ndarray:
    """The joint table of a random Markov chain."""
    generator = np.random.default_rng(seed)
    start = generator.dirichlet(np.ones(size))
    step = generator.dirichlet(np.ones(size) * 0.5, size=size)
    table = start
    for _ in range(length - 1):
        table = table[..., None] * step
    return table


def conditionals(joint: np.ndarray) -> LogProbs:
    """The exact denoiser of a joint table."""

    def log_probs(sentence: tuple[int, ...], mask: tuple[bool, ...]) -> np.ndarray:
        visible = joint[tuple(slice(None) if hidden else token for token, hidden in zip(sentence, mask))]
        axes = [place for place, hidden in enumerate(mask) if hidden]
        result = np.zeros(len(sentence))
        for axis, place in enumerate(axes):
            marginal = visible.sum(axis=tuple(other for other in range(len(axes)) if other != axis))
            result[place] = np.log(marginal[sentence[place]] / marginal.sum())
        return result

    return log_probs


def inconsistent(seed: int, size: int) -> LogProbs:
    """A normalised denoiser that belongs to no joint distribution."""

    def log_probs(sentence: tuple[int, ...], mask: tuple[bool, ...]) -> np.ndarray:
        seen = [size if hidden else token for token, hidden in zip(sentence, mask)]
        result = np.zeros(len(sentence))
        for place, hidden in enumerate(mask):
            if hidden:
                logits = np.random.default_rng([seed, place, *seen]).normal(size=size) * 1.5
                result[place] = logits[sentence[place]] - np.log(np.exp(logits).sum())
        return result

    return log_probs


def run(plan: Plan, sentence: tuple[int, ...], log_probs: LogProbs) -> np.ndarray:
    """What a network would return for the plan: [rows, L]."""
    return np.array([log_probs(sentence, tuple(mask)) for mask in plan.masks.tolist()]).reshape(plan.masks.shape)


def all_masks(length: int) -> list[tuple[bool, ...]]:
    return [mask for mask in itertools.product((False, True), repeat=length) if any(mask)]


class TableNetwork:
    """A network for `MaskedFamily` that answers from a table; sentences are BOS, pieces, EOS. Its call is that of a Denoiser."""

    def __init__(self, log_probs_of_vocab: Callable[[tuple[int, ...], int, float], np.ndarray], num_outputs: int):
        self.answer, self.num_outputs = log_probs_of_vocab, num_outputs

    def __call__(
        self, ids: torch.Tensor, layout: object, sigma: torch.Tensor | None, select: torch.Tensor
    ) -> torch.Tensor:
        row, position, lengths = layout.row.tolist(), layout.position.tolist(), layout.lengths.tolist()  # type: ignore[attr-defined]
        starts = np.cumsum([0, *lengths]).tolist()
        logits = torch.full((len(select), self.num_outputs), -50.0, dtype=torch.float64)
        for index, flat in enumerate(select.tolist()):
            inner = tuple(ids[starts[row[flat]] + 1 : starts[row[flat]] + lengths[row[flat]] - 1].tolist())
            level = float("nan") if sigma is None else float(sigma[row[flat]])
            values = self.answer(inner, position[flat] - 1, level)
            logits[index, : len(values)] = torch.from_numpy(values)
        return logits


def leave_one_out(joint, marginal, z):
    """log p(x_i | z without position i), [L, size], of the exact model at one time."""
    length, size = joint.ndim, joint.shape[0]
    kernel = marginal.beta_pi[0].numpy()[None, :].repeat(size, 0)  # q(z | x)
    kernel[np.arange(size), np.arange(size)] += float(marginal.alpha[0])
    result = np.zeros((length, size))
    for place in range(length):
        table = joint
        for other in range(length):
            if other != place:
                shape = [1] * length
                shape[other] = size
                table = table * kernel[:, z[other]].reshape(shape)
        values = table.sum(axis=tuple(other for other in range(length) if other != place))
        result[place] = np.log(values / values.sum())
    return torch.from_numpy(result), kernel
