"""The prior of a recogniser's labels as a score: the sum of log p(piece) over the pieces of a text.

    scorer = LabelPriorScorer("prior.txt", "spm.model")
    scorer.score_texts("utt-1", ["he hoped there would be stew"])

It is combined with a negative scale, which divides the prior out of the recogniser's posteriors (Kanda et al. 2016,
"Maximum a Posteriori Based Decoding for CTC Acoustic Models"). Ends of sentences have no prior.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

from rescore.lms.base import LanguageModelScorer, texts_of
from rescore.nbest.types import NBestList
from rescore.scores import SequenceScore, Target, UnknownCounts
from returnn_bridge.files import iterate_lines
from returnn_bridge.vocab import Vocab

LABEL_PRIOR = Target("label prior")


class LabelPriorScorer(LanguageModelScorer):
    """Sums of the log-priors of the SentencePiece pieces of each text, nats."""

    def __init__(
        self,
        prior: str | os.PathLike[str],
        vocab: str | os.PathLike[str],
        *,
        name: str = "prior",
        probabilities: bool = False,
        pieces: bool = False,
    ):
        """Reads both files.

        prior: text file with a number for each piece in the order of the vocabulary, as `numpy.savetxt` writes it.
        probabilities: they are probabilities instead of their logarithms. pieces: texts are space-separated pieces.
        ValueError for another number of values and for values that are no (log-)probabilities.
        """
        self.path, self.name, self.pieces = Path(prior), name, pieces
        self.vocab = Vocab.load(vocab)
        self.log_prior = _read(self.path, probabilities)
        if len(self.log_prior) != self.vocab.num_pieces:
            raise ValueError(
                f"{prior}: {len(self.log_prior)} numbers; expected {self.vocab.num_pieces}, one for each piece of "
                f"{vocab}"
            )
        self._unknown = UnknownCounts(0, 0, "pieces")

    @property
    def source(self) -> str:
        return str(self.path)

    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        return [self._scores(texts_of(utterance)) for utterance in utterances]

    def describe(self) -> dict[str, object]:
        content = repr(self.log_prior).encode() + self.vocab.content
        return {"kind": "label prior", "model": hashlib.sha256(content).hexdigest()[:16], "pieces": self.pieces}

    def unknown(self) -> UnknownCounts:
        return self._unknown

    def _scores(self, texts: Sequence[str]) -> list[SequenceScore]:
        words = [self.vocab.join_pieces(text) for text in texts] if self.pieces else list(texts)
        rows = self.vocab.encode_batch(words)
        total = sum(len(text.split()) for text in words)
        self._unknown += UnknownCounts(sum(map(self.vocab.count_unknown, rows)), total, "pieces")
        sums = [math.fsum(self.log_prior[piece] for piece in row) for row in rows]
        return [SequenceScore(value, 0.0, 0, len(row), LABEL_PRIOR) for value, row in zip(sums, rows)]


def _read(path: Path, probabilities: bool) -> list[float]:
    """The log-priors in a file. ValueError with the line for anything that is none."""
    values = []
    kind = "a probability above 0" if probabilities else "the logarithm of a probability (at most 0)"
    for line, text in iterate_lines(path):
        for word in text.split():
            try:
                value = float(word)
            except ValueError:
                value = math.nan
            if not (0 < value <= 1 if probabilities else -math.inf < value <= 0):
                raise ValueError(f"{path}:{line}: {word!r}; expected {kind}")
            values.append(math.log(value) if probabilities else value)
    return values
