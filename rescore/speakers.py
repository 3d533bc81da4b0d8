"""The speaker of an utterance, found in its name by a pattern.

    speakers_of(["1272-128104-0000", "1272-135031-0001"], r"^(\\d+)-")          # ["1272", "1272"]

Utterances of one speaker are not independent, so a bootstrap may draw whole speakers instead of utterances.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from returnn_bridge.files import quoted


def speakers_of(seq_tags: Sequence[str], pattern: str) -> list[str]:
    """The first group of the regular expression in each name, wherever it matches first.

    ValueError for a pattern that is no regular expression or has no group, for an utterance that it does not match, and
    if all utterances have the same speaker, because the variation between speakers is then unknown.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"--speakers {pattern}: not a regular expression ({error}); expected one such as '^(\\d+)-'"
        ) from None
    if not compiled.groups:
        raise ValueError(f"--speakers {pattern}: no group; expected parentheses around the speaker, such as '^(\\d+)-'")
    found = []
    for tag in seq_tags:
        match = compiled.search(tag)
        if match is None or match.group(1) is None:
            raise ValueError(
                f"--speakers {pattern}: utterance {quoted(tag)} does not match; expected a speaker in each"
            )
        found.append(match.group(1))
    if len(set(found)) < 2:
        raise ValueError(
            f"--speakers {pattern}: all {len(found)} utterances are of the speaker {quoted(found[0])}; "
            "expected at least two speakers"
        )
    return found
