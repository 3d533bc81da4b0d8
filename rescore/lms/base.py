"""What a language model has to offer to score hypotheses. One file a kind; `open_scorer` (open.py) chooses among them.

    scorer = open_scorer("4gram=4gram.arpa", ...)
    for utterance, scores in zip(utterances, scorer.score_group(utterances)):
        print(utterance.seq_tag, [score.log_prob for score in scores])
    print(scorer.unknown())                                 # 12 of 3,400 words

A language model of your own is a class with `score_group`, `describe` and `unknown`; `score_file` and `rescore` take it as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TypedDict

from rescore.nbest.types import Hypothesis, NBestList
from rescore.scores import SequenceScore, UnknownCounts

if TYPE_CHECKING:  # the command line starts without numpy
    from rescore.estimators.alignment import Tokens
    from rescore.estimators.base import Estimator


class NetworkOptions(TypedDict, total=False):
    """How a network is run; an n-gram has no use for them."""

    device: str
    precision: str
    """Of the network, "32" or "bf16"; softmax and sums stay in full precision."""
    batch_tokens: int | None
    """Most tokens of one forward pass; None: what suits the model and the device."""


class LanguageModelScorer(ABC):
    """A language model that scores the hypotheses of utterances.

    Scores are natural logarithms (nats), higher is better. They are functions of the texts, the model and its settings: neither the
    order of the list, nor other utterances, nor what shares a batch may change them by more than rounding. Nothing is truncated: a
    text that the model can not take is a ValueError that names the utterance.
    """

    name: str
    """Of the score that it adds to every hypothesis."""

    @property
    def passes_run(self) -> int:
        """Network passes so far, equal inputs counted once; 0 for models that are no network."""
        return 0

    @abstractmethod
    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """For every utterance one score for each hypothesis, in their order. `NotFinite` for a score that is no finite number.

        `score_file` passes a few utterances at a time, always the same ones together, which may share batches. Of the hypotheses a
        language model reads the texts; a race reads their other scores too.
        """

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Everything that the scores depend on, as JSON: the kind, a digest of the model's files, the settings, the seed if there is one.

        It stands in the header of a result, and results whose descriptions differ are never mixed. So it is the same whenever it is asked
        for, and holds nothing of the texts, the device or the time.
        """

    @abstractmethod
    def unknown(self) -> UnknownCounts:
        """How much of all texts so far the model did not know: the first thing to look at when a language model does not help."""

    @property
    def source(self) -> str:
        """Where the model lies, for error messages."""
        return self.name

    def score_texts(self, seq_tag: str, texts: Sequence[str]) -> list[SequenceScore]:
        """One score for each text of an utterance, in order."""
        if not texts:
            return []
        return self.score_group([NBestList(seq_tag, tuple(Hypothesis(text) for text in texts))])[0]


class EstimatingScorer(LanguageModelScorer):
    """A language model whose scores are estimated, with an estimator that can be exchanged. It scores token ids."""

    estimator: Estimator | None
    """None where the model tells log p itself, in one pass."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The token ids of each text. These texts count in `unknown`."""

    @abstractmethod
    def score_encoded(self, seq_tags: Sequence[str], encoded: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        """As `score_group`, of texts that are encoded already."""

    @abstractmethod
    def with_estimator(self, estimator: Estimator, *, name: str | None = None) -> Self:
        """The same model measured in another way; it counts its own passes and texts. ValueError for an estimator that does not fit it."""


def texts_of(utterance: NBestList) -> list[str]:
    """The texts of an utterance's hypotheses, in order."""
    return [hypothesis.text for hypothesis in utterance.hypotheses]
