"""N-gram language models: train a Kneser-Ney model with kaldingram, query it with KenLM.

    train_ngram(["train.txt.gz"], order=4, out="4gram.arpa")
    scorer = NgramScorer("4gram.arpa", name="4gram")
    scorer.score_texts("utt", ["he hoped there would be stew"])[0].log_prob      # nats, end of sentence included

Words are taken as they are: the case of the text must be that of the training text. Words the model does not know are counted.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescore.scores import SequenceScore
from returnn_bridge.vocab import read_lines

LOG_10 = math.log(10.0)
ORDERS = range(1, 6)


def train_ngram(texts: Sequence[str | os.PathLike[str]], *, order: int, out: str | os.PathLike[str]) -> Path:
    """Write a Kneser-Ney model of the texts (plain or .gz, one sentence a line) as ARPA; whole or not at all.

    ValueError for an order that kaldingram does not know, text without a word, or where its discounts can not be estimated.
    """
    if order not in ORDERS:
        raise ValueError(f"order {order}: expected {ORDERS.start} ... {ORDERS.stop - 1}")
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ngram.") as folder:
        corpus, arpa = Path(folder, "text"), Path(folder, "arpa")
        words = 0
        with open(corpus, "w", encoding="utf-8") as file:
            for line in read_lines(texts):
                words += len(line.split())
                file.write(line + "\n")
        if not words:
            raise ValueError(f"{', '.join(map(str, texts))}: no words; expected one sentence a line")
        command = [sys.executable, "-m", "kaldingram.cli", "train", "--ngram-order", str(order)]
        done = subprocess.run([*command, "--text", str(corpus), "--lm", str(arpa)], capture_output=True, text=True)
        if done.returncode or not arpa.is_file():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"{', '.join(map(str, texts))}: kaldingram could not train a {order}-gram ({reason}); "
                "expected more text, or a lower order"
            )
        os.replace(arpa, target)
    return target


class NgramScorer:
    """Exact log-probabilities of whole sentences, BOS and EOS on. No network passes."""

    def __init__(self, path: str | os.PathLike[str], *, name: str = "ngram"):
        import kenlm

        self.path, self.name = Path(path), name
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such n-gram; expected an .arpa or KenLM binary file")
        try:
            settings = kenlm.Config()
            settings.show_progress = False
            settings.arpa_complain = kenlm.ARPALoadComplain.NONE
            self._model = kenlm.Model(str(self.path), settings)
        except OSError as error:
            raise ValueError(f"{self.path}: KenLM can not read it ({' '.join(str(error).split())})") from None
        self.words = 0
        self.unknown_words = 0

    def score_texts(self, seq_tag: str, texts: Sequence[str]) -> list[SequenceScore]:
        """One score for each text, in order."""
        scores = []
        for text in texts:
            words = text.split()
            self.words += len(words)
            self.unknown_words += sum(word not in self._model for word in words)
            log_prob = LOG_10 * float(self._model.score(" ".join(words), bos=True, eos=True))
            scores.append(SequenceScore(log_prob, 0.0, 0, len(words) + 1, True))
        return scores

    def describe(self) -> dict[str, Any]:
        """What the scores depend on."""
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return {"kind": "ngram", "order": int(self._model.order), "model": digest}


@dataclass(frozen=True)
class NgramPerplexity:
    """Exact sums over a text."""

    log_prob: float  # nats, words and sentence ends
    tokens: int  # words and sentence ends
    unknown_words: int

    @property
    def per_word(self) -> float:
        return math.exp(-self.log_prob / self.tokens)

    def summary(self) -> str:
        return f"perplexity {self.per_word:.2f} per word (exact, sentence ends count); {self.tokens} tokens, {self.unknown_words} unknown words"


def ngram_perplexity(path: str | os.PathLike[str], texts: Sequence[str | os.PathLike[str]]) -> NgramPerplexity:
    """Perplexity of text files under an n-gram."""
    scorer = NgramScorer(path)
    scores = scorer.score_texts("", list(read_lines(texts)))
    if not scores:
        raise ValueError(f"{', '.join(map(str, texts))}: no non-empty line")
    return NgramPerplexity(
        sum(score.log_prob for score in scores), sum(score.num_tokens for score in scores), scorer.unknown_words
    )
