"""The types of an N-best list. `rescore.nbest` reads and writes them.

    hypothesis = Hypothesis("he hoped there would be stew", {"am": -12.3, "masked": -41.0})
    utterance = NBestList("dev/1-2-3", (hypothesis,), reference="he hoped there would be stew")

Both are frozen, so adding a score creates new objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from returnn_bridge.files import is_finite

Detail = float | int | bool | str | list[float]

# Details that are added up, and the limit up to which their sums and squares are finite.
_AMOUNTS = ("num_passes", "num_tokens", "standard_error", "win_probability")
_LARGEST_AMOUNT = 1e18


def expected_detail(key: str, value: object) -> str:
    """What a detail of a score has to be, if this value is not possible in a score file; "" if it is.

    Details that are added up are amounts; all others may be numbers, booleans, strings or lists of numbers.
    """
    if key in _AMOUNTS:
        possible = type(value) in (int, float) and 0 <= value < _LARGEST_AMOUNT  # type: ignore[operator]
        return "" if possible else "a number of at least 0"
    numbers = value if isinstance(value, list) else [value]
    if isinstance(value, str) or all(map(is_finite, numbers)):
        return ""
    return "a finite number, a list of such, a boolean or a string"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One hypothesis of an utterance: its text and its scores."""

    text: str
    """The text, byte for byte as it was read; may be empty."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Log-probabilities or bounds in nats, higher is better, by name of the source; -inf: it never wins."""
    details: Mapping[str, Mapping[str, Detail]] = field(default_factory=dict)
    """Details of each score (standard_error, num_passes, num_tokens, target ...), by name of the source."""


@dataclass(frozen=True, slots=True)
class NBestList:
    """All hypotheses of one utterance in the order of the file, which is the ranking of the first pass."""

    seq_tag: str
    """Name of the utterance."""
    hypotheses: tuple[Hypothesis, ...]
    """At least one."""
    reference: str | None = None
    """What was said, if known."""

    def __post_init__(self) -> None:
        if not self.hypotheses:
            raise ValueError(f"utterance {self.seq_tag!r} has no hypotheses; expected at least one")


def never_chosen(lists: Iterable[NBestList]) -> dict[str, int]:
    """Number of hypotheses with a score of -inf, by name of the source, for the sources that have any."""
    scores = (hypothesis.scores for utterance in lists for hypothesis in utterance.hypotheses)
    return dict(Counter(name for given in scores for name, score in given.items() if score == -inf))
