"""Check of tuned scales: unknown sources, scales at an end of their usual range, and scales without effect."""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose

from rescore.combination.line_search import Space
from rescore.combination.rows import usual_range
from rescore.combination.scales import TOKENS, WORDS
from rescore.doctor.case import Case, Finding
from rescore.nbest.types import NBestList


def edge_or_flat(case: Case) -> Iterator[Finding]:
    """Scales at an end of the usual range of tuning, or whose value makes no difference to the WER of the lists."""
    if not case.merged:
        return
    known = case.references or {}
    lists = [NBestList(u.seq_tag, u.hypotheses, known[u.seq_tag]) for u in case.merged if u.seq_tag in known]
    sources = set(case.merged[0].hypotheses[0].scores)
    for row, scales in case.scales.items():
        named = scales.named()
        if missing := [name for name in scales.scores if name not in sources]:
            what = f"the row {row!r} has a scale for {missing[0]!r}, which the lists do not hold"
            yield Finding("error", what, case.sources[0].path, f"expected scales for {', '.join(sorted(sources))}")
            continue
        for name, value in list(named.items())[1:]:
            low, high = usual_range(name)
            if value and any(isclose(value, end, rel_tol=0.01) for end in (low, high)):
                what = f"the scale {value:g} of {name!r} in the row {row!r} lies at an end of {low:g} ... {high:g}"
                advice = f"tune it in a wider one, such as {name}:{10 * low:g}:{10 * high:g}"
                yield Finding("warning", what, case.sources[0].path, advice)
            if case.table is None or len(lists) < len(case.merged) or name.startswith(TOKENS):
                continue
            others = {other: scale for other, scale in named.items() if other != name}
            space = Space.build(lists, others, {name: (low, high)}, case.table)
            counts = space.along(space.low, 0).counts
            if counts.min() == counts.max():
                kind = "the count of words" if name == WORDS else repr(name)
                what = f"the scale of {kind} in the row {row!r} makes no difference between {low:g} and {high:g}"
                yield Finding("warning", what, case.sources[0].path, "leave it out, or give lists where it matters")
