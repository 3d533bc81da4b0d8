"""N-gram language models: train a Kneser-Ney model with kaldingram, query it with KenLM.

    train_ngram(["train.txt.gz"], order=4, out="4gram.arpa")
    scorer = NgramScorer("4gram.arpa", name="4gram")
    scorer.score_texts("utt", ["he hoped there would be stew"])[0].log_prob      # nats, end of sentence included

Words are not normalised, so texts must have the case of the training text. Unknown words are counted.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rescore.lms.base import LanguageModelScorer, texts_of
from rescore.lms.kenlm_process import KenlmProcess
from rescore.nbest.types import NBestList
from rescore.scores import LOG_P, SequenceScore, UnknownCounts
from returnn_bridge.files import iterate_lines, scratch_folder, write_whole

LOG_10 = math.log(10.0)
ORDERS = range(2, 6)  # kaldingram 0.1.2 counts only the first word of each line for order 1
MARKERS = {"<s>", "</s>"}
_LINES = 500  # of a text that KenLM is asked for at once
_ROUNDING = 1e-3  # KenLM adds in float32


def train_ngram(texts: Sequence[str | os.PathLike[str]], *, order: int, out: str | os.PathLike[str]) -> Path:
    """Train a Kneser-Ney model on texts (plain or .gz, one sentence per line) and write it as ARPA, atomically.

    The same text gives the same bytes. ValueError for an order that can not be trained, for text without words or with
    sentence marks, for text that is too small for the order (the discount of an order is n1 / (n1 + 2 n2), so some of
    its n-grams must occur exactly twice), and for an `out` that exists and is not an ARPA file.
    """
    if order not in ORDERS:
        raise ValueError(f"order {order}: expected {ORDERS.start} ... {ORDERS.stop - 1}")
    target, sources = Path(out), ", ".join(map(str, texts))
    _check_replaceable(target)
    with scratch_folder(target) as folder:
        corpus, arpa = folder / "text", folder / "arpa"
        with open(corpus, "w", encoding="utf-8") as file:
            for path, number, words in _sentences(texts):
                if found := MARKERS.intersection(words):
                    raise ValueError(f"{path}:{number}: the word {min(found)}; expected text without sentence marks")
                # KenLM and kaldingram define white space differently, so words are separated by single spaces.
                file.write(" ".join(words) + "\n")
        if not corpus.stat().st_size:
            raise ValueError(f"{sources}: no words; expected one sentence a line")
        command = [sys.executable, "-m", "kaldingram.cli", "train", "--ngram-order", str(order)]
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, transient=True) as progress:
            progress.add_task(f"training a {order}-gram", total=None)
            done = subprocess.run([*command, "--text", str(corpus), "--lm", str(arpa)], capture_output=True, text=True)
        if done.returncode or not arpa.is_file():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if os.strerror(errno.ENOSPC) in reason:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            raise ValueError(f"{sources}: kaldingram could not train a {order}-gram ({reason}); expected other text")
        if ngram := _impossible_ngram(arpa):
            raise ValueError(
                f"{sources}: too little text for order {order}, {ngram!r} occurs but would have probability 0; "
                "expected more text, or a lower order"
            )
        with write_whole(target) as write:
            for line in _with_unknown(arpa):
                write(line)
            _check_replaceable(target)
    return target


class NgramScorer(LanguageModelScorer):
    """Exact log-probabilities of sentences, with BOS and EOS. No network passes.

    An unknown word gets the probability of <unk>, or 10^-100 (-230 nats) if the model has no <unk>. Sentence marks in a
    text are treated as unknown words.
    """

    def __init__(self, path: str | os.PathLike[str], *, name: str = "ngram"):
        if importlib.util.find_spec("kenlm") is None:
            raise ModuleNotFoundError("n-grams need the package kenlm: pip install kenlm", name="kenlm")
        self.path, self.name = Path(path), name
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such n-gram; expected an .arpa or KenLM binary file")
        self.model = KenlmProcess(self.path)
        self._unknown = UnknownCounts(0, 0, "words")
        # Texts may hold these as words, but KenLM would treat them as the begin or end of the sentence.
        self._instead = dict.fromkeys((*MARKERS, "<unk>"), self.model.unheard)

    def words_of(self, text: str) -> list[str]:
        """The words of a text for KenLM, with sentence marks replaced by an unknown word."""
        return [self._instead.get(word, word) for word in text.split()]

    @property
    def source(self) -> str:
        return str(self.path)

    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """As in the base class. A text that occurs twice in an utterance is scored and counted once."""
        groups = [{text: self.words_of(text) for text in texts_of(utterance)} for utterance in utterances]
        found = iter(self.model.score([" ".join(words) for group in groups for words in group.values()]))
        scores = [{text: self._score_of(words, *next(found)) for text, words in group.items()} for group in groups]
        return [[score[text] for text in texts_of(utterance)] for utterance, score in zip(utterances, scores)]

    def _score_of(self, words: list[str], log10_prob: float, unknown: int) -> SequenceScore:
        if log10_prob > _ROUNDING:
            raise ValueError(f"{self.path}: a sentence has the log-probability {log10_prob}; expected at most 0")
        self._unknown += UnknownCounts(unknown, len(words), "words")
        return SequenceScore(LOG_10 * log10_prob, 0.0, 0, len(words) + 1, LOG_P)

    def describe(self) -> dict[str, object]:
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return {"kind": "ngram", "order": self.model.order, "model": digest}

    def unknown(self) -> UnknownCounts:
        return self._unknown


@dataclass(frozen=True)
class NgramPerplexity:
    """Sums over the known words and the sentence ends of a text. Unknown words are counted, but their probability is
    not included, because it is arbitrary."""

    log_prob: float
    """Log-probability of the known words and the sentence ends, in nats."""
    tokens: int
    """Number of known words and sentence ends."""
    unknown_words: int
    """Number of words that the n-gram does not know."""

    @property
    def per_word(self) -> float:
        """Perplexity per known word, with sentence ends counted as words."""
        return math.exp(-self.log_prob / self.tokens)

    def summary(self) -> str:
        """The result in one line."""
        left_out = f"{self.unknown_words} unknown words left out"
        return f"perplexity {self.per_word:.2f} per word (exact, sentence ends count); {self.tokens} tokens, {left_out}"


def ngram_perplexity(path: str | os.PathLike[str], texts: Sequence[str | os.PathLike[str]]) -> NgramPerplexity:
    """Perplexity of text files (plain or .gz, one sentence per line, without empty lines) under an n-gram, in constant
    memory."""
    scorer = NgramScorer(path)
    log_prob, tokens, unknown_words = 0.0, 0, 0
    lines = _sentences(texts)
    while block := list(itertools.islice(lines, _LINES)):
        sentences = [scorer.words_of(" ".join(line)) for _, _, line in block]
        for (text, number, _), words, scores in zip(
            block, sentences, scorer.model.words([" ".join(words) for words in sentences]), strict=True
        ):
            for word, (log10_prob, unknown) in zip([*words, "</s>"], scores, strict=True):
                if unknown:
                    unknown_words += 1
                elif not math.isfinite(log10_prob):
                    raise ValueError(
                        f"{path}: the word {word!r} of {text}:{number} has the log-probability {log10_prob}; "
                        "expected a finite one"
                    )
                else:
                    log_prob += LOG_10 * log10_prob
                    tokens += 1
    if not tokens:
        raise ValueError(f"{', '.join(map(str, texts))}: no non-empty line; expected one sentence a line")
    return NgramPerplexity(log_prob, tokens, unknown_words)


def _sentences(
    texts: Sequence[str | os.PathLike[str]],
) -> Iterator[tuple[str | os.PathLike[str], int, list[str]]]:
    """(file, line number, words) of every line with a word."""
    for path in texts:
        for number, line in iterate_lines(path):
            if words := line.split():
                yield path, number, words


def _check_replaceable(target: Path) -> None:
    if not target.exists() and not target.is_symlink():
        return
    try:
        first = next((line for _, line in iterate_lines(target) if line.strip()), "")
    except (OSError, ValueError):
        first = ""
    if first.strip() != "\\data\\":
        raise ValueError(f"{target}: exists and is no ARPA file; expected a new name, or an ARPA file to replace")


def _with_unknown(arpa: Path) -> Iterator[str]:
    """The lines of an ARPA file with an <unk> of 10^-100, which KenLM would otherwise add, with a warning, at every
    load. An <unk> that was trained, because the text has that word for rare ones, stays."""
    with open(arpa, encoding="utf-8") as lines:
        missing = not any(line.rstrip("\n").split("\t")[1:2] == ["<unk>"] for line in lines)
        lines.seek(0)
        for line in lines:
            if missing and line.startswith("ngram 1="):
                line = f"ngram 1={int(line.partition('=')[2]) + 1}\n"
            yield line
            if missing and line.startswith("\\1-grams:"):
                yield "-100\t<unk>\n"


def _impossible_ngram(arpa: Path) -> str:
    """An n-gram that was seen but has probability 0 (kaldingram writes -99), because the discount of its order was 1;
    "" if there is none."""
    with open(arpa, encoding="utf-8") as file:
        for line in file:
            if line.startswith("-99.") and (ngram := line.split("\t")[1].strip()) != "<s>":  # <s> is never predicted
                return ngram
    return ""
