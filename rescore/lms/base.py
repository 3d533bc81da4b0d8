"""The interface of language models that score hypotheses. Each kind has its file; `open_scorer` (open.py) chooses.

    scorer = open_scorer("4gram=4gram.arpa", ...)
    for utterance, scores in zip(utterances, scorer.score_group(utterances)):
        print(utterance.seq_tag, [score.log_prob for score in scores])
    print(scorer.unknown())                                 # for example 12 of 3,400 words

To add a language model, derive a class with `score_group`, `describe` and `unknown`, and pass it to `score_file` or
`rescore`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TypedDict

from rescore.nbest.types import Hypothesis, NBestList
from rescore.scores import SequenceScore, UnknownCounts

if TYPE_CHECKING:  # because the command line must start without numpy
    from rescore.estimators.alignment import Tokens
    from rescore.estimators.base import Estimator


class NetworkOptions(TypedDict, total=False):
    """Options for running a network; n-grams ignore them."""

    device: str
    precision: str
    """Precision of the network, "32" or "bf16"; softmax and sums are always in full precision."""
    batch_tokens: int | None
    """Maximum number of tokens in one forward pass; None: the default of the model and the device."""


class LanguageModelScorer(ABC):
    """A language model that scores the hypotheses of utterances.

    Scores are natural logarithms (nats), higher is better. They are functions of the texts, the model and its settings:
    the order of the list, other utterances and the composition of batches may change them only by rounding. Texts are
    not truncated: a text that the model can not process raises a ValueError that names the utterance.
    """

    name: str
    """Name of the score that is added to every hypothesis."""

    device: str = ""
    """The device of the network; "" for models that are not networks."""

    @property
    def passes_run(self) -> int:
        """Network passes so far, with equal inputs counted once; 0 for models that are not networks."""
        return 0

    @abstractmethod
    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """One score for each hypothesis of every utterance, in their order. `NotFinite` for a score that is not finite.

        `score_file` passes a few utterances at a time, always the same ones together, which may share batches. Language
        models use only the texts of the hypotheses; a race also uses their other scores.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Everything that the scores depend on, for JSON: the kind, a digest of the model's files, the settings, any
        seed.

        It is written to the header of a result, and results with different descriptions are never mixed. It must
        therefore be the same at each call and must not depend on the texts, the device or the time.
        """

    @abstractmethod
    def unknown(self) -> UnknownCounts:
        """How much of all texts so far the model did not know. Check this first if a language model does not help."""

    @property
    def source(self) -> str:
        """Path of the model, for error messages."""
        return self.name

    @property
    def longest(self) -> int | None:
        """Most tokens of a text, special ones included, that the model can read; None: any number."""
        return None

    def first_words(self, text: str) -> str:
        """The text, or as many of its first words as have no more than `longest` tokens."""
        return text

    def score_texts(self, seq_tag: str, texts: Sequence[str]) -> list[SequenceScore]:
        """One score for each text of an utterance, in order."""
        if not texts:
            return []
        return self.score_group([NBestList(seq_tag, tuple(Hypothesis(text) for text in texts))])[0]


class EstimatingScorer(LanguageModelScorer):
    """A language model whose scores are estimated from token ids by an estimator, which can be replaced."""

    estimator: Estimator | None
    """None if the model computes log p exactly, in one pass."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The token ids of each text. The texts are counted in `unknown`."""

    @abstractmethod
    def score_encoded(self, seq_tags: Sequence[str], encoded: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        """As `score_group`, for texts that have been encoded."""

    @abstractmethod
    def with_estimator(self, estimator: Estimator, *, name: str | None = None) -> Self:
        """A scorer of the same model with another estimator, and with new counts of passes and texts. ValueError for an
        estimator that does not fit the model."""


def texts_of(utterance: NBestList) -> list[str]:
    """The texts of an utterance's hypotheses, in order."""
    return [hypothesis.text for hypothesis in utterance.hypotheses]
