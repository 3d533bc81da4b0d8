"""Score texts with an autoregressive LM that RETURNN trained (returnn_bridge/transformer_lm.py), in one pass per text.

    scorer = ReturnnScorer("lm.yaml", name="ar")
    scorer.score_texts("utt-1", ["he hoped there would be stew", "he hope there would be stew"])
    returnn_perplexity("lm.yaml", ["dev.txt.gz"]).summary()

Scores are exact. The network is RETURNN's own, so they are those of RETURNN up to rounding.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import torch

from diffusion_lm.device import usable_device
from diffusion_lm.evaluate import Perplexity
from rescore.lms.base import LanguageModelScorer, NetworkOptions, texts_of
from rescore.nbest.types import NBestList
from rescore.scores import LOG_P, SequenceScore, UnknownCounts
from returnn_bridge.transformer_lm import TransformerLm, read_description
from returnn_bridge.vocab import read_lines

BATCH_TOKENS = 8192
_SENTENCES = 1000  # that `returnn_perplexity` holds at once


class ReturnnScorer(LanguageModelScorer):
    """log p(pieces, EOS | BOS) of a TransformerDecoder of RETURNN.

    Texts are words, or SentencePiece pieces with `pieces`. An empty text has the score log p(EOS | BOS).
    """

    passes_run: int = 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = "",
        pieces: bool = False,
        device: str = "auto",
        precision: str = "32",
        batch_tokens: int | None = None,
    ):
        """Reads the description file at `path`.

        precision: "32" or "bf16" (autocast); softmax is float32, sums are float64. batch_tokens: maximum number of
        tokens in a forward pass, with padding (default: 8192).
        """
        if precision not in ("32", "bf16"):
            raise ValueError(f"precision {precision!r}; expected '32' or 'bf16'")
        self.batch_tokens = BATCH_TOKENS if batch_tokens is None else batch_tokens
        if self.batch_tokens < 1:
            raise ValueError(f"batch tokens {batch_tokens}: expected at least 1")
        self.path, self.precision, self.pieces = Path(path), precision, pieces
        self.name = name or self.path.stem
        self.lm = TransformerLm(read_description(path), device=usable_device(device))
        self.device = str(self.lm.device)
        self._unknown = UnknownCounts(0, 0, "pieces")
        self._digest = ""

    @property
    def source(self) -> str:
        return str(self.path)

    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """As in the base class. Equal texts are run once."""
        encoded = [self._encode(texts_of(utterance)) for utterance in utterances]
        distinct = list(dict.fromkeys(ids for own in encoded for ids in own))
        found: dict[tuple[int, ...], SequenceScore] = {}
        for batch in self._batches(distinct):
            with torch.autocast(self.lm.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                values = self.lm.log_probs(batch).tolist()
            for ids, value in zip(batch, values):
                found[ids] = SequenceScore(value, 0.0, 1, len(ids) + 1, LOG_P)
            self.passes_run += len(batch)
        return [[found[ids] for ids in own] for own in encoded]

    def describe(self) -> dict[str, object]:
        self._digest = self._digest or self.lm.description.digest()
        return {
            "kind": "returnn",
            "model": self._digest,
            "precision": self.precision,
            "batch_tokens": self.batch_tokens,
            "pieces": self.pieces,
        }

    def unknown(self) -> UnknownCounts:
        return self._unknown

    def _encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        vocab = self.lm.vocab
        words = [vocab.join_pieces(text) for text in texts] if self.pieces else list(texts)
        ids = vocab.encode_batch(words)
        self._unknown += UnknownCounts(
            sum(map(vocab.count_unknown, ids)), sum(len(text.split()) for text in words), "pieces"
        )
        return [tuple(row) for row in ids]

    def _batches(self, sentences: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Sentences by length. Rows x longest row, with EOS, is within the budget, unless one row exceeds it."""
        batches: list[list[tuple[int, ...]]] = []
        for ids in sorted(sentences, key=len):
            if not batches or (len(batches[-1]) + 1) * (len(ids) + 1) > self.batch_tokens:
                batches.append([])
            batches[-1].append(ids)
        return batches


def returnn_perplexity(
    path: str | os.PathLike[str], texts: Sequence[str | os.PathLike[str]], **options: Unpack[NetworkOptions]
) -> Perplexity:
    """Exact perplexity of all non-empty lines of the files. ValueError if there are none."""
    scorer = ReturnnScorer(path, **options)
    lines = [line for line in read_lines(texts) if line.strip()]
    if not lines:
        raise ValueError(f"{', '.join(map(str, texts))}: no text; expected one sentence per line")
    log_prob, tokens = 0.0, 0
    for start in range(0, len(lines), _SENTENCES):
        scores = scorer.score_texts("text", lines[start : start + _SENTENCES])
        log_prob += sum(score.log_prob for score in scores)
        tokens += sum(score.num_tokens for score in scores)
    unknown = scorer.unknown()
    return Perplexity(-log_prob, 0.0, tokens, unknown.total, len(lines), unknown.count, True, True, 1)
