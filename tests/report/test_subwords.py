"""Words and subword pieces are never counted against each other, wherever in the lists the pieces are."""

from __future__ import annotations

import pytest

from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import error_table

WORDS, OTHERS = "the king approached", "a tree"
PIECES = ["▁the ▁ki ng ▁appro ached", "the ki@@ ng approached", "the ki ##ng approached"]


def lists_of(*utterances: tuple[str, tuple[str, ...]]) -> list[NBestList]:
    return [
        NBestList(f"u{number}", tuple(Hypothesis(text, {"am": 0.0}) for text in texts), reference)
        for number, (reference, texts) in enumerate(utterances, 1)
    ]


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pieces_are_refused_at_any_rank_of_any_utterance(pieces: str, rank: int) -> None:
    texts = [WORDS, "the king", ""]
    texts[rank - 1] = pieces
    with pytest.raises(ValueError, match=f"hypothesis {rank} of 'u2' is made of subword pieces"):
        error_table(lists_of((OTHERS, (OTHERS,)), (WORDS, tuple(texts))))


@pytest.mark.parametrize("pieces", PIECES)
def test_references_in_pieces_need_hypotheses_in_pieces(pieces: str) -> None:
    with pytest.raises(ValueError, match="the reference of 'u1' is made of subword pieces"):
        error_table(lists_of((pieces, (WORDS, OTHERS))))
    assert error_table(lists_of((pieces, (pieces, "")))).errors.tolist() == [0, len(pieces.split())]


def test_a_text_without_a_split_word_is_one_of_either() -> None:
    table = error_table(lists_of((PIECES[1], (PIECES[1], WORDS)), (OTHERS, (OTHERS,))))
    assert table.errors.tolist() == [0, 2, 0]
    for word in ("@@", "##", "#", "a@b", "@@a", "a##"):
        assert error_table(lists_of((OTHERS, (f"a {word} tree",)))).errors.tolist() == [1]
