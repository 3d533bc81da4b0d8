"""The prior of labels as a score: a sum over pieces, from log-probabilities or probabilities."""

from __future__ import annotations

import math

import pytest

from rescore.lms.label_prior import LabelPriorScorer


@pytest.fixture
def priors(tmp_path, vocab):
    """Different priors, which sum to one; as logarithms and as probabilities."""
    total = sum(range(1, vocab.num_pieces + 1))
    shares = [number / total for number in range(1, vocab.num_pieces + 1)]
    (tmp_path / "log.txt").write_text("".join(f"{math.log(share)!r}\n" for share in shares))
    (tmp_path / "prob.txt").write_text(" ".join(map(repr, shares)))
    return tmp_path, shares


def test_scores_are_sums_over_pieces(priors, vocab, vocab_folder):
    folder, shares = priors
    texts = ["the king said", "", "a house"]
    expected = [sum(math.log(shares[piece]) for piece in vocab.encode(text)) for text in texts]
    scorers = [
        LabelPriorScorer(folder / "log.txt", vocab_folder),
        LabelPriorScorer(folder / "prob.txt", vocab_folder, probabilities=True),
    ]
    for scorer in scorers:
        scores = scorer.score_texts("u", texts)
        assert [score.log_prob for score in scores] == pytest.approx(expected)
        assert [score.num_tokens for score in scores] == [len(vocab.encode(text)) for text in texts]
        assert not any(score.exact for score in scores)
    pieces = [" ".join(vocab._processor.EncodeAsPieces(text)) for text in texts]
    spelled = LabelPriorScorer(folder / "log.txt", vocab_folder, pieces=True)
    assert spelled.score_texts("u", pieces) == scorers[0].score_texts("u", texts)
    assert spelled.describe() != scorers[0].describe()


@pytest.mark.parametrize(
    "content, probabilities, error",
    [
        ("-1.0\n", False, "1 numbers; expected 44, one for each piece"),
        ("-1.0\n0.5\n", False, "prior.txt:2: '0.5'; expected the logarithm of a probability"),
        ("-inf\n", False, "prior.txt:1: '-inf'"),
        ("nan\n", False, "prior.txt:1: 'nan'"),
        ("[0.5]\n", True, r"prior.txt:1: '\[0.5\]'; expected a probability above 0"),
        ("0.5 0\n", True, "prior.txt:1: '0'"),
    ],
)
def test_what_is_no_prior_is_an_error(tmp_path, vocab_folder, content, probabilities, error):
    (tmp_path / "prior.txt").write_text(content)
    with pytest.raises(ValueError, match=error):
        LabelPriorScorer(tmp_path / "prior.txt", vocab_folder, probabilities=probabilities)
