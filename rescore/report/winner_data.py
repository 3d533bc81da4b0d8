"""The winners of all rows as plain lists for JSON: their words aligned to the reference, and their scores.

    data = winner_data(result)
    data["rows"][1]                  # {"name": "+ AR", "scales": {"am": 1.0, "ar": 0.6}, "by_risk": False}
    data["utterances"][0]            # {"tag": ..., "reference": ..., "winners": [...], "of_row": [0, 1, 1]}

The oracle is the last row, with the scales None. `by_risk`: the row takes the fewest expected errors, not the largest
total. Utterances in which all rows choose the same words are left out. A winner is [rank from 1, text, steps, errors,
scores]: `steps` has one letter for each step of the alignment to the reference, C (right), S, D or I, and `scores` are
in the order of `data["sources"]`, None for a score with which a hypothesis never wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from rescore.combination.rows import ORACLE
from rescore.combination.scales import feature_matrix
from rescore.nbest.types import NBestList
from rescore.report.result import RescoreResult
from rescore.wer import list_offsets

_LETTERS = {"equal": "C", "replace": "S", "delete": "D", "insert": "I"}


def winner_data(result: RescoreResult) -> dict[str, Any]:
    """The winners of every row and of the oracle. Scores are in nats, rounded to seven digits."""
    lists, scales = result.test_lists, result.scales
    chosen = [*result.winners.values(), result.errors.oracle_winners()]
    sources = list(dict.fromkeys(name for own in scales.values() for name, scale in own.named().items() if scale))
    columns, offsets = [_column(lists, source) for source in sources], list_offsets(lists)
    utterances = []
    for number, utterance in enumerate(lists):
        picked = [int(best[number]) for best in chosen]
        texts = {" ".join(utterance.hypotheses[index].text.split()) for index in picked}
        if len(texts) == 1:
            continue
        reference = (utterance.reference or "").split()
        distinct = sorted(set(picked))
        found = []
        for index in distinct:
            words = utterance.hypotheses[index].text.split()
            steps = alignment_steps(reference, words)
            values = [column[offsets[number] + index] for column in columns]
            found.append([index + 1, " ".join(words), steps, len(steps) - steps.count("C"), values])
        of_row = np.searchsorted(distinct, picked).tolist()
        utterances.append(
            {"tag": utterance.seq_tag, "reference": " ".join(reference), "winners": found, "of_row": of_row}
        )
    rows = [{"name": name, "scales": own.named(), "by_risk": own.posterior is not None} for name, own in scales.items()]
    return {
        "rows": [*rows, {"name": ORACLE, "scales": None, "by_risk": False}],
        "sources": sources,
        "utterances": utterances,
    }


def _column(lists: Sequence[NBestList], source: str) -> list[float | None]:
    """[hypotheses of all lists]: one score or count; None for -inf, which JSON does not have."""
    values, never = feature_matrix(lists, [source])
    return [
        None if lost else float(f"{value:.7g}")
        for value, lost in zip(values[:, 0].tolist(), never.tolist(), strict=True)
    ]


def alignment_steps(reference: list[str], words: list[str]) -> str:
    """The alignment with the fewest errors as letters: C, S and D take a word of the reference, C, S and I one of
    `words`."""
    blocks = Levenshtein.opcodes(reference, words)
    return "".join(
        _LETTERS[block.tag] * max(block.src_end - block.src_start, block.dest_end - block.dest_start)
        for block in blocks
    )
