"""Perplexity of text: exact for an autoregressive model, a Monte-Carlo bound with its error bar for a diffusion model.

    result = evaluate_text(LanguageModel.load("run/model"), ["test.txt.gz"], passes=8)
    print(result.summary())

The error bar covers the random masks, not the choice of the text. Sentences are independent, so the variance of the sum
is the sum of the variances of each sentence's mean over passes; stratifying the passes over time can only lower it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffusion_lm.draws import NoiseDraw, step_seed
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from returnn_bridge.bar import progress_bar
from returnn_bridge.packing import Packed
from returnn_bridge.vocab import read_lines


@dataclass(frozen=True)
class Perplexity:
    """Sums over a text. Lower is better; an upper bound on the true perplexity unless `exact`."""

    nelbo: float
    """Sum over the whole text, nats."""
    standard_error: float
    """Standard error of `nelbo` over random masks, nats."""
    tokens: int
    """Number of scored tokens, sentence ends included if `ends`."""
    words: int
    """Number of words."""
    sentences: int
    """Number of sentences."""
    unknown: int
    """Number of unknown pieces."""
    exact: bool
    """Whether `nelbo` is -log p itself."""
    ends: bool
    """Whether the ends of sentences are predicted and counted."""
    passes: int
    """Number of noise draws for each sentence."""

    @property
    def per_token(self) -> float:
        """Perplexity per scored token."""
        return math.exp(self.nelbo / self.tokens)

    @property
    def per_word(self) -> float:
        """Perplexity per word; sentence ends count as words if `ends`, else the length of a sentence is given."""
        return math.exp(self.nelbo / (self.words + (self.sentences if self.ends else 0)))

    def summary(self) -> str:
        """One line with perplexities, error bar and sizes."""
        kind = "exact" if self.exact else f"upper bound, {self.passes} passes a sentence"
        error = self.standard_error / self.tokens
        margin = "" if self.exact else f" +- {self.per_token * error:.2f}"
        return (
            f"perplexity {self.per_token:.2f}{margin} per piece, {self.per_word:.2f} per word ({kind}); "
            f"{self.nelbo / self.tokens:.4f}{'' if self.exact else f' +- {error:.4f}'} nats per piece; "
            f"{self.sentences} sentences, {self.words} words, {self.tokens} pieces, {self.unknown} unknown"
        )

    def to_dict(self) -> dict[str, float | int | bool]:
        """All values and the perplexities, for JSON."""
        return {**self.__dict__, "perplexity_per_piece": self.per_token, "perplexity_per_word": self.per_word}


def evaluate_text(
    model: LanguageModel,
    texts: Sequence[str | os.PathLike[str]],
    *,
    passes: int = 8,
    seed: int = 1,
    batch_tokens: int = 2048,
) -> Perplexity:
    """Perplexity of all non-empty lines of the files. ValueError if there are none, and for fewer than two passes.

    See `evaluate_tokens` for the parameters.
    """
    lines = list(read_lines(texts))
    if not lines:
        raise ValueError(f"{', '.join(map(str, texts))}: no line with text; expected at least one sentence")
    words = sum(len(line.split()) for line in lines)
    encoded = model.vocab.encode_batch(lines)
    return evaluate_tokens(model, encoded, words=words, passes=passes, seed=seed, batch_tokens=batch_tokens)


def evaluate_tokens(
    model: LanguageModel,
    encoded: Sequence[Sequence[int]],
    *,
    words: int | None = None,
    passes: int = 8,
    seed: int = 1,
    batch_tokens: int = 2048,
    framed: bool = False,
    likelihood: bool = False,
) -> Perplexity:
    """Perplexity of sentences given as piece ids.

    ValueError if there is no token to score, for fewer than two passes of a bound, and for a likelihood that can not be
    computed.

    Args:
        model: the language model, on the device to compute on.
        encoded: piece ids of each sentence.
        words: number of words in all sentences; None: counted in the decoded text.
        passes: number of noise draws for each sentence; an exact family uses 1.
        seed: seed of the noise.
        batch_tokens: most tokens in a batch, all passes counted.
        framed: rows are used without adding BOS and EOS, and their ends do not count as sentence ends.
        likelihood: exact -log p of a block model with small blocks (families/block_likelihood.py), not its bound.
    """
    family = model.family
    exact = family.exact or likelihood
    passes = 1 if exact else passes
    if passes < 2 and not exact:
        raise ValueError(f"passes {passes}: expected at least 2, an error bar needs them")
    order = sorted(range(len(encoded)), key=lambda index: (len(encoded[index]), index))
    nelbo, variance, tokens = 0.0, 0.0, 0
    with torch.inference_mode(), progress_bar() as bar:
        for batch in bar.track(
            list(_batches(order, encoded, max(1, batch_tokens // passes))), description="perplexity"
        ):
            rows = [encoded[index] for index in batch for _ in range(passes)]
            sentences = _without_frame(rows, model.device) if framed else model.frame(rows)
            draw = _draws(batch, sentences.layout.lengths, passes, seed)
            if likelihood:
                values = family.nll(model.network, sentences)[:, None]
            else:
                values = family.nelbo(model.network, sentences, draw).reshape(len(batch), passes).double()
            nelbo += float(values.mean(1).sum())
            tokens += int(family.num_scored(sentences.layout).sum()) // passes
            if passes > 1:
                variance += float((values.var(1) / passes).sum())
    if not tokens:
        raise ValueError(f"{len(encoded)} sentences without any piece to score; expected some text")
    if words is None:
        words = sum(len(model.vocab.decode(row).split()) for row in encoded)
    unknown = sum(map(model.vocab.count_unknown, encoded))
    ends = family.scores_end and not framed
    return Perplexity(nelbo, math.sqrt(variance), tokens, words, len(encoded), unknown, exact, ends, passes)


def evaluate_packed(
    model: LanguageModel, packed: Packed, *, passes: int = 8, seed: int = 1, likelihood: bool = False
) -> Perplexity:
    """Perplexity of packed rows, of which all tokens but the first are scored. Ends of documents count as words.

    A row counts as a sentence in the result. ValueError for a model that does not predict ends.
    """
    family, eos = model.family, model.vocab.eos_id
    if not family.scores_end:
        raise ValueError(
            "packed rows hold ends of documents, which this model does not predict; expected data.wrap=false"
        )
    words = sum(
        len(model.vocab.decode([token for token in row[1:] if token != eos]).split()) + row[1:].count(eos)
        for row in packed.rows
    )
    return evaluate_tokens(
        model, packed.rows, words=words, passes=passes, seed=seed, framed=True, likelihood=likelihood
    )


def _without_frame(rows: Sequence[Sequence[int]], device: torch.device) -> Sentences:
    """Rows of ids as they are, without adding BOS and EOS."""
    ids = torch.tensor([token for row in rows for token in row], dtype=torch.int64)
    return Sentences(ids, Layout(torch.tensor([len(row) for row in rows], dtype=torch.int64))).to(device)


def _draws(batch: Sequence[int], lengths: torch.Tensor, passes: int, seed: int) -> NoiseDraw:
    """Noise of the sentences with the indices `batch`, with times stratified over the passes.

    It is seeded by `seed` and a sentence's index in the text, so it does not depend on the batch.
    """
    times, keeps, categories = [], [], []
    for number, index in enumerate(batch):
        generator = torch.Generator().manual_seed(step_seed(seed, "perplexity", index, 0))
        length = int(lengths[number * passes])
        times.append(
            (torch.arange(passes) + torch.rand(passes, generator=generator)).clamp(max=passes - 2**-10) / passes
        )
        keeps.append(torch.rand(passes * length, generator=generator))
        categories.append(torch.rand(passes * length, generator=generator))
    device = lengths.device
    return NoiseDraw(torch.cat(times).to(device), torch.cat(keeps).to(device), torch.cat(categories).to(device))


def _batches(order: Sequence[int], encoded: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Split the indices `order` into batches of at most `budget` tokens, BOS and EOS counted."""
    batches: list[list[int]] = [[]]
    room = budget
    for index in order:
        size = len(encoded[index]) + 2
        if size > room and batches[-1]:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= size
    return batches
