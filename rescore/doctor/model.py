"""Check of the words that a language model does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rescore.doctor.case import Case, Finding
from rescore.lms.base import EstimatingScorer, LanguageModelScorer
from rescore.nbest.types import Hypothesis, NBestList
from rescore.scores import UnknownCounts

MANY = 0.2
"""Share of unknown words from which it is a finding."""

_MOST = 1000  # utterances that are looked at
_CASES: tuple[tuple[str, Callable[[str], str]], ...] = (("lower", str.lower), ("upper", str.upper))


def unknown_words(case: Case) -> Iterator[Finding]:
    """Many unknown words or pieces in the first hypotheses; whether the other case would have fewer."""
    if case.model is None or not case.sources:
        return
    source = case.sources[0]
    heads = source.lists[:_MOST]
    texts = [utterance.hypotheses[0].text for utterance in heads]
    counts = [_unknown(case.model, [text]) for text in texts]
    total = sum(counts[1:], counts[0])
    if total.count <= MANY * total.total:
        return
    worst = max(range(len(heads)), key=lambda index: counts[index].count)
    where = source.where(heads[worst], 1)
    what = f"{case.model.source} does not know {total} of the first hypotheses"
    for name, rewrite in _CASES:
        if 2 * _unknown(case.model, list(map(rewrite, texts))).count < total.count:
            yield Finding(
                "error",
                f"{what}, and far more of them in {name} case",
                where,
                f"write the lists in {name} case for this model",
            )
            return
    advice = "use a model of such text, and write the lists as its training text"
    yield Finding("error" if total.most else "warning", what, where, advice)


def _unknown(model: LanguageModelScorer, texts: Sequence[str]) -> UnknownCounts:
    """What the model does not know of these texts. Networks only encode them."""
    before = model.unknown()
    if isinstance(model, EstimatingScorer):
        model.encode(texts)
    else:
        model.score_group([NBestList(str(number), (Hypothesis(text),)) for number, text in enumerate(texts)])
    return model.unknown() - before
