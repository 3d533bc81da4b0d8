"""Word errors of one text or of all hypotheses of N-best lists, with bootstrap intervals of WERs and their differences.

    count_errors("the cat sat", "a cat sat").wer_percent               # 33.3
    table = error_table(lists)                                         # edit distances of every hypothesis
    table.corpus(winners), table.oracle()                              # ErrorCounts; winners: [utterances], 0 = first
    paired_bootstrap(table.errors_of(first), table.errors_of(second), table.reference_words, seed=1)

Texts are split into words by `str.split` and not normalised. The WER is that of the corpus: the sum of all errors
divided by the sum of all reference words. Substitutions, deletions and insertions are those of rapidfuzz's alignment,
as in jiwer 4.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from rescore.nbest.types import NBestList
from rescore.subwords import check_same_units

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_SAMPLES_IN_MEMORY = 2_000_000


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Word errors of an utterance or a corpus. Counts can be added."""

    substitutions: int
    """Number of words that were replaced."""
    deletions: int
    """Number of reference words that are missing."""
    insertions: int
    """Number of extra words."""
    reference_words: int
    """Number of words in the reference."""

    def __post_init__(self) -> None:
        counts = (self.substitutions, self.deletions, self.insertions, self.reference_words)
        if min(counts) < 0:
            raise ValueError(f"error counts {counts} (S, D, I, reference words); expected none below zero")

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_words + other.reference_words,
        )

    @property
    def errors(self) -> int:
        """Number of errors: the word edit distance."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer_percent(self) -> float | None:
        """100 * errors / reference words; None without reference words (jiwer gives the number of insertions)."""
        return 100.0 * self.errors / self.reference_words if self.reference_words else None


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """The word errors of one hypothesis; an empty text has no words."""
    words = reference.split()
    return _count(words, hypothesis.split(), len(words))


@dataclass(frozen=True, slots=True, eq=False)
class ErrorTable:
    """The errors of every hypothesis, so that the WER of any choice of winners is a sum over utterances.

    Winners are an integer array [utterances]: the index of the chosen hypothesis in its list, 0 for the first.
    """

    seq_tags: tuple[str, ...]
    """Utterances."""
    offsets: IntArray
    """[utterances + 1]: the hypotheses of utterance u are offsets[u] ... offsets[u + 1] - 1."""
    errors: IntArray
    """[hypotheses]: word edit distance to the reference."""
    reference_words: IntArray
    """[utterances]: number of words in each reference."""
    _references: tuple[str, ...]
    _hypotheses: tuple[str, ...]
    """Texts with one character per word (rapidfuzz is fastest on strings), to split errors into S, D and I on
    demand."""

    def errors_of(self, winners: IntArray) -> IntArray:
        """[utterances]: the errors of each winner."""
        return self.errors[self._indices(winners)]

    def corpus(self, winners: IntArray) -> ErrorCounts:
        """The errors of all winners together."""
        total = ErrorCounts(0, 0, 0, 0)
        for reference, index, words in zip(self._references, self._indices(winners), self.reference_words.tolist()):
            total += _count(reference, self._hypotheses[index], words)
        return total

    def oracle_winners(self) -> IntArray:
        """[utterances]: the index of the hypothesis with the fewest errors; the first one of several."""
        return first_maxima(-self.errors, self.offsets)

    def oracle(self) -> ErrorCounts:
        """The errors of the best hypothesis of every list, a lower bound for any rescoring of these lists."""
        return self.corpus(self.oracle_winners())

    def _indices(self, winners: IntArray) -> IntArray:
        winners = np.asarray(winners)
        sizes = np.diff(self.offsets)
        if winners.shape != sizes.shape or winners.dtype.kind != "i":
            raise ValueError(
                f"winners are {winners.dtype} {list(winners.shape)}; "
                f"expected an integer for each of {len(sizes)} utterances"
            )
        wrong = np.flatnonzero((winners < 0) | (winners >= sizes))
        if wrong.size:
            index = int(wrong[0])
            raise ValueError(f"winner {winners[index]} of {self.seq_tags[index]!r}; expected 0 ... {sizes[index] - 1}")
        return self.offsets[:-1] + winners


def error_table(lists: Sequence[NBestList]) -> ErrorTable:
    """Edit distances of all hypotheses to the references of their utterances; about 0.15 s for 60,000 of 20 words.

    ValueError naming the utterance if its reference is missing, or if hypotheses are subword pieces and references are
    not, or the other way round (see subwords.py).
    """
    if not lists:
        raise ValueError("no N-best lists; expected at least one utterance")
    letters = _Letters()
    letter = letters.__getitem__
    references, hypotheses, distances, words = [], [], [], []
    for utterance in lists:
        if utterance.reference is None:
            raise ValueError(f"utterance {utterance.seq_tag!r} has no reference; expected one to count errors")
        reference = "".join(map(letter, utterance.reference.split()))
        texts = ["".join(map(letter, hypothesis.text.split())) for hypothesis in utterance.hypotheses]
        distances.append(cdist([reference], texts, scorer=Levenshtein.distance, dtype=np.int64)[0])
        words.append(len(reference))
        references.append(reference)
        hypotheses += texts
    check_same_units(lists)
    return ErrorTable(
        seq_tags=tuple(utterance.seq_tag for utterance in lists),
        offsets=list_offsets(lists),
        errors=np.concatenate(distances),
        reference_words=np.array(words, np.int64),
        _references=tuple(references),
        _hypotheses=tuple(hypotheses),
    )


def list_offsets(lists: Sequence[NBestList]) -> IntArray:
    """[utterances + 1]: the index of the first hypothesis of each utterance in a flat array of all, and its length."""
    return np.cumsum([0, *(len(utterance.hypotheses) for utterance in lists)], dtype=np.int64)


def first_maxima(values: NDArray[np.number], offsets: IntArray) -> IntArray:
    """[segments]: the index, within its segment, of the largest value in each segment of a flat array; the first of
    equal ones."""
    starts = offsets[:-1]
    largest = np.repeat(np.maximum.reduceat(values, starts), np.diff(offsets))
    indices = np.flatnonzero(values == largest)
    return indices[np.searchsorted(indices, starts)] - starts


@dataclass(frozen=True, slots=True)
class WerInterval:
    """The WER of a system and its variation with the choice of utterances."""

    wer_percent: float
    """WER on all utterances."""
    low: float
    high: float
    """Percentile interval of the bootstrap, at the given confidence."""
    standard_error: float
    """Standard deviation of the WER over the bootstrap samples, in points of percent."""


@dataclass(frozen=True, slots=True)
class BootstrapResult:
    """The change of WER from system a to system b, in points of percent; negative where b is better."""

    difference_percent: float
    """The change on all utterances."""
    low: float
    high: float
    """Percentile interval of the bootstrap, at the given confidence."""
    probability_of_improvement: float
    """The share of the samples in which b makes fewer errors than a; equal numbers do not count."""


def paired_bootstrap(
    errors_a: Sequence[int] | IntArray,
    errors_b: Sequence[int] | IntArray,
    reference_words: Sequence[int] | IntArray,
    *,
    seed: int,
    samples: int = 10_000,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> BootstrapResult:
    """Paired bootstrap of the WER difference between two systems. All arrays are per utterance, in the same order.

    Utterances are drawn with replacement, the same ones for both systems (Bisani and Ney, ICASSP 2004). Utterances of
    one speaker are not independent: give `groups` (speakers, say) to draw whole groups (block bootstrap, arXiv
    1912.09508). The result is a function of `seed`. A sample without any reference word has no WER and is left out.
    ValueError if lengths differ or nothing can be drawn.
    """
    return paired_matrix(
        [errors_a, errors_b], reference_words, seed=seed, samples=samples, groups=groups, confidence=confidence
    )[0][1]


def paired_matrix(
    errors: Sequence[Sequence[int] | IntArray],
    reference_words: Sequence[int] | IntArray,
    *,
    seed: int,
    samples: int = 10_000,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> list[list[BootstrapResult]]:
    """[a][b]: `paired_bootstrap` of every pair of several systems, from one set of samples. `errors`: [systems], each
    per utterance."""
    *sums, words = _group_sums(errors, reference_words, groups)
    sampled = _resample(sums, words, seed=seed, samples=samples)

    def compare(a: int, b: int) -> BootstrapResult:
        changes = sampled[b] - sampled[a]
        low, high = _interval(changes, confidence)
        return BootstrapResult(
            difference_percent=float(100.0 * (sums[b].sum() - sums[a].sum()) / words.sum()),
            low=low,
            high=high,
            probability_of_improvement=float((changes < 0).mean()),
        )

    return [[compare(a, b) for b in range(len(sums))] for a in range(len(sums))]


def wer_interval(
    errors: Sequence[int] | IntArray,
    reference_words: Sequence[int] | IntArray,
    *,
    seed: int,
    samples: int = 10_000,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> WerInterval:
    """Interval and standard error of the WER of one system; arguments as in `paired_bootstrap`."""
    sums = _group_sums([errors], reference_words, groups)
    (sampled,) = _resample(sums[:1], sums[1], seed=seed, samples=samples)
    low, high = _interval(sampled, confidence)
    deviation = float(sampled.std(ddof=1)) if len(sampled) > 1 else 0.0
    return WerInterval(float(100.0 * sums[0].sum() / sums[1].sum()), low, high, deviation)


def _group_sums(
    errors: Sequence[Sequence[int] | IntArray],
    reference_words: Sequence[int] | IntArray,
    groups: Sequence[Hashable] | None,
) -> list[IntArray]:
    """Errors of each system and, last, reference words: sums over each group, in the order the groups first appear."""
    columns = [np.asarray(column, np.int64) for column in (*errors, reference_words)]
    lengths = [len(column) for column in columns] + ([] if groups is None else [len(groups)])
    if len(set(lengths)) > 1:
        raise ValueError(f"bootstrap over columns of {lengths} utterances; expected equal lengths")
    if not columns[-1].sum():
        raise ValueError(f"bootstrap over {lengths[0]} utterances without reference words; expected some")
    if groups is None:
        return columns
    number: dict[Hashable, int] = {}
    indices = np.array([number.setdefault(group, len(number)) for group in groups])
    # float64 is exact for integers up to 2^53, far beyond the size of any corpus.
    return [np.bincount(indices, weights=column).astype(np.int64) for column in columns]


def _resample(errors: Sequence[IntArray], words: IntArray, *, seed: int, samples: int) -> list[FloatArray]:
    """WER (%) of each system in every sample, [samples] each."""
    if samples < 1:
        raise ValueError(f"{samples} bootstrap samples; expected at least 1")
    generator = np.random.default_rng(seed)
    parts: list[list[FloatArray]] = [[] for _ in errors]
    rows = max(1, _SAMPLES_IN_MEMORY // len(words))
    for start in range(0, samples, rows):
        drawn = generator.integers(len(words), size=(min(rows, samples - start), len(words)))
        total = words[drawn].sum(axis=1)
        kept = total > 0
        for part, column in zip(parts, errors):
            part.append(100.0 * column[drawn].sum(axis=1)[kept] / total[kept])
    return [np.concatenate(part) for part in parts]


def _interval(values: FloatArray, confidence: float) -> tuple[float, float]:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence}; expected a number between 0 and 1, such as 0.95")
    low, high = np.quantile(values, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


class _Letters(dict[str, str]):
    """Maps each word to one character, which is assigned when the word is first looked up."""

    def __missing__(self, word: str) -> str:
        number = len(self)
        # Skip the surrogate range, because surrogates are not allowed in a well-formed string.
        self[word] = character = chr(number if number < 0xD800 else number + 0x800)
        return character


def _count(reference: Sequence[str], hypothesis: Sequence[str], reference_words: int) -> ErrorCounts:
    tags = [tag for tag, _, _ in Levenshtein.editops(reference, hypothesis)]
    return ErrorCounts(tags.count("replace"), tags.count("delete"), tags.count("insert"), reference_words)
