"""Score texts with a language model that was trained with this package, of any family.

    scorer = NetworkScorer("run/model", estimator=build_estimator("control", passes=17))
    scorer.score_texts("utt-1", ["he hoped there would be stew", "he hope there would be stew"])

The family (`family.scoring`) decides how a text is scored: network_exact.py, network_masks.py or network_noise.py. All
of them run rows of many utterances in batches of a token budget (network_runner.py), without padding or truncation.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from diffusion_lm.device import usable_device
from diffusion_lm.families.base import Family, Scoring
from diffusion_lm.locate import locate
from diffusion_lm.model import LanguageModel, fingerprint
from rescore.estimators import build_estimator
from rescore.estimators.alignment import Tokens
from rescore.estimators.base import Estimator
from rescore.lms.base import EstimatingScorer, texts_of
from rescore.lms.network_exact import ExactMeasurement
from rescore.lms.network_masks import MaskMeasurement
from rescore.lms.network_noise import NoiseMeasurement
from rescore.lms.network_runner import Measurement, NetworkRunner
from rescore.nbest.types import NBestList
from rescore.scores import SequenceScore, UnknownCounts

PRECISIONS = ("32", "bf16")
MEASUREMENTS: dict[Scoring, Callable[[NetworkRunner, Estimator | None, int], Measurement]] = {
    "exact": ExactMeasurement,
    "masks": MaskMeasurement,
    "noise": NoiseMeasurement,
}


def usual_batch_tokens(device: str) -> int:
    """The default maximum number of tokens in a forward pass: 2,048 on a CPU, else 32,768.

    A larger batch exceeds the caches of a CPU: 8,192 was 1.5 times slower for a network of width 192.
    """
    return 2048 if device == "cpu" else 32768


def usual_estimator(family: Family) -> str:
    """The name of the default estimator of a family."""
    if family.scoring == "noise":
        # One pass ranks hypotheses better than several draws of the bound, and costs less (docs/results.md).
        return "one-pass" if family.sees_errors else "draws"
    return "strided" if family.trained_on_light_masks else "control"


class NetworkScorer(EstimatingScorer):
    """Scores texts with a model folder of this package: exactly in one pass if the family allows it, else by an
    estimator."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str = "",
        estimator: Estimator | None = None,
        seed: int = 1,
        device: str = "auto",
        precision: str = "32",
        batch_tokens: int | None = None,
        pieces: bool = False,
    ):
        """Reads the model folder, or `model/` of a run folder.

        name: name of the score (default: the name of the run folder, which holds the model folder). estimator: default:
        that of the family; not used if scores are exact. seed: seed of its random numbers. precision: precision of the
        network, "32" or "bf16"; softmax and sums are always in full precision. batch_tokens: maximum number of tokens
        in one forward pass (default: depends on the device). pieces: texts are space-separated pieces of the vocabulary
        (label level) instead of words. ValueError for a folder that is not a model, settings out of range, and an
        estimator that does not fit the family.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}; expected '32' or 'bf16'")
        network_device = usable_device(device)
        self.device = str(network_device)
        batch_tokens = usual_batch_tokens(network_device.type) if batch_tokens is None else batch_tokens
        if batch_tokens < 1:
            raise ValueError(f"batch tokens {batch_tokens}: expected at least 1")
        self.folder, self.seed, self.pieces = os.fspath(locate(folder)), seed, pieces
        self.name = name or Path(self.folder).resolve().parent.name
        self.model = LanguageModel.load(self.folder, device=network_device)
        self.runner = NetworkRunner(self.model, precision=precision, batch_tokens=batch_tokens)
        self._measure(estimator)

    def _measure(self, estimator: Estimator | None) -> None:
        """Set up the measurement, and reset all counts."""
        family = self.model.family
        if family.exact:
            self.estimator = None
        else:
            self.estimator = estimator or build_estimator(usual_estimator(family))
        self.measurement = MEASUREMENTS[family.scoring](self.runner, self.estimator, self.seed)
        self._unknown = UnknownCounts(0, 0, "pieces")

    def with_estimator(self, estimator: Estimator, *, name: str | None = None) -> Self:
        """A scorer of the same network with another estimator, and with new counts of passes and texts. ValueError for
        an estimator that does not fit the family."""
        other = copy.copy(self)
        other.name = self.name if name is None else name
        other.runner = NetworkRunner(self.model, precision=self.runner.precision, batch_tokens=self.runner.batch_tokens)
        other._measure(estimator)
        return other

    @property
    def passes_run(self) -> int:
        return self.runner.passes_run

    @property
    def source(self) -> str:
        return self.folder

    def describe(self) -> dict[str, object]:
        facts: dict[str, object] = {
            "kind": self.model.family_options["name"],
            "model": fingerprint(self.folder),
            "precision": self.runner.precision,
            "batch_tokens": self.runner.batch_tokens,
            "pieces": self.pieces,
        }
        if self.estimator is not None:
            facts |= self.estimator.describe() | {"seed": self.seed}
        return facts

    def unknown(self) -> UnknownCounts:
        return self._unknown

    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """As in the base class. A text that occurs twice in an utterance is scored once."""
        encoded = [self.encode(texts_of(utterance)) for utterance in utterances]
        return self.score_encoded([utterance.seq_tag for utterance in utterances], encoded)

    def score_encoded(self, seq_tags: Sequence[str], encoded: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        distinct = [list(dict.fromkeys(utterance)) for utterance in encoded]
        with self.runner.inference():
            scores = self.measurement.score(seq_tags, distinct)
        found = [dict(zip(texts, own, strict=True)) for texts, own in zip(distinct, scores, strict=True)]
        return [[own[tokens] for tokens in utterance] for own, utterance in zip(found, encoded)]

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The piece ids of each text; unknown pieces are counted. ValueError for pieces if words are expected."""
        vocab = self.model.vocab
        if not self.pieces and any("▁" in text for text in texts):
            raise ValueError(
                f"{next(text for text in texts if '▁' in text)!r} is a text of pieces; expected words, or --pieces"
            )
        words = [vocab.join_pieces(text) for text in texts] if self.pieces else list(texts)
        ids = vocab.encode_batch(words)
        total = sum(len(text.split()) for text in words)
        self._unknown += UnknownCounts(sum(map(vocab.count_unknown, ids)), total, "pieces")
        return [tuple(row) for row in ids]
