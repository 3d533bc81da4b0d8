"""N-grams: KenLM's answers equal the back-off arithmetic of the ARPA file, trained models sum to one, the demo's anchors."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import DEMO
from fuzz.ngram_files import kenlm_binary, murmur
from rescore.combination.scales import Scales, best_texts
from rescore.lms.ngram import NgramScorer, ngram_perplexity, train_ngram
from rescore.nbest import read_nbest
from rescore.nbest.references import read_references
from rescore.score_file import with_score
from rescore.scores import UnknownCounts
from rescore.wer import count_errors

ROOT = Path(__file__).parents[2]
UNIGRAMS = {"<s>": (-99.0, -0.3), "</s>": (-0.9, 0.0), "a": (-0.4, -0.25), "b": (-0.7, -0.125), "c": (-1.1, 0.0)}
BIGRAMS = {("<s>", "a"): -0.2, ("a", "b"): -0.35, ("b", "a"): -0.6, ("b", "</s>"): -0.15}
NO_UNK = -100.0  # what KenLM takes for an unknown word where the file has no <unk>


def write_arpa(path: Path, *, unknown: float | None = None) -> Path:
    unigrams = UNIGRAMS | ({} if unknown is None else {"<unk>": (unknown, 0.0)})
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(BIGRAMS)}", "", "\\1-grams:"]
    lines += [f"{log_prob}\t{word}\t{backoff}" for word, (log_prob, backoff) in unigrams.items()]
    lines += [
        "",
        "\\2-grams:",
        *(f"{log_prob}\t{' '.join(words)}" for words, log_prob in BIGRAMS.items()),
        "",
        "\\end\\",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def by_hand(text: str, unknown: float = NO_UNK) -> float:
    """Nats: the bigram where the file has it, else the history's back-off weight and the unigram."""
    words = ["<s>", *text.split(), "</s>"]
    total = 0.0
    for history, word in itertools.pairwise(words):
        if (history, word) in BIGRAMS:
            total += BIGRAMS[history, word]
        else:
            total += UNIGRAMS.get(history, (0.0, 0.0))[1] + UNIGRAMS.get(word, (unknown, 0.0))[0]
    return total * math.log(10)


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    return NgramScorer(write_arpa(tmp_path_factory.mktemp("arpa") / "bigram.arpa"), name="bigram")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Words of very different frequency, as in a language: every order has n-grams that occur twice."""
    path = tmp_path_factory.mktemp("ngram") / "text.txt"
    generator = random.Random(3)
    words, weights = "the of and king house went came stone grüße".split(), [2.0**-rank for rank in range(9)]
    path.write_text(
        "".join(" ".join(generator.choices(words, weights, k=generator.randint(1, 7))) + "\n" for _ in range(150))
    )
    return path


@pytest.fixture(scope="module", params=[2, 3, 4])
def trained(request, text, tmp_path_factory):
    path = train_ngram([text], order=request.param, out=tmp_path_factory.mktemp("trained") / "lm.arpa")
    return request.param, path


@settings(max_examples=60)
@given(words=st.lists(st.sampled_from(["a", "b", "c", "unheard"]), max_size=6))
def test_log_prob_is_the_back_off_arithmetic(arpa, words):
    (score,) = arpa.score_texts("u", [" ".join(words)])
    assert score.log_prob == pytest.approx(by_hand(" ".join(words)), rel=1e-6)  # KenLM holds float32
    assert (score.num_tokens, score.num_passes, score.standard_error, score.exact) == (len(words) + 1, 0, 0.0, True)


def test_one_sentence_in_full(arpa):
    """p(a b c) = p(a|<s>) p(b|a) bow(b) p(c) bow(c) p(</s>)."""
    expected = -(0.2 + 0.35 + 0.125 + 1.1 + 0.0 + 0.9) * math.log(10)
    assert arpa.score_texts("u", ["a b c"])[0].log_prob == pytest.approx(expected, rel=1e-6)
    assert arpa.score_texts("u", [""])[0].log_prob == pytest.approx(-(0.3 + 0.9) * math.log(10), rel=1e-6)


def test_unknown_words_are_counted_and_cost_what_the_file_says(tmp_path):
    plain, with_unk = write_arpa(tmp_path / "plain.arpa"), write_arpa(tmp_path / "unk.arpa", unknown=-2.5)
    for path, unknown in ((plain, NO_UNK), (with_unk, -2.5)):
        scorer = NgramScorer(path)
        before = scorer.describe()
        scores = scorer.score_texts("u", ["a x", "x B a", "<unk> c"])
        expected = [by_hand(text, unknown) for text in ("a x", "x B a", "x c")]
        assert [score.log_prob for score in scores] == pytest.approx(expected, rel=1e-6)
        assert scorer.unknown() == UnknownCounts(4, 7, "words")
        assert scorer.describe() == before == json.loads(json.dumps(before))
    assert NgramScorer(plain).describe()["model"] != NgramScorer(with_unk).describe()["model"]
    assert NgramScorer(plain).describe()["order"] == 2


def test_sentence_marks_in_a_text_are_unknown_words(tmp_path):
    """To KenLM they would be a second end of the sentence, or a begin within it, and no unknown word would be counted."""
    path = write_arpa(tmp_path / "lm.arpa", unknown=-2.5)
    texts = ["a b", "a b </s>", "<s> a b", "a <unk> b", "a <s> <s> b"]
    unheard = ["a b", "a b zebra", "zebra a b", "a zebra b", "a zebra zebra b"]
    scorer, other = NgramScorer(path), NgramScorer(path)
    marked, plain = (one.score_texts("u", rows) for one, rows in ((scorer, texts), (other, unheard)))
    assert [score.log_prob for score in marked] == [score.log_prob for score in plain]
    assert scorer.unknown() == UnknownCounts(5, 15, "words")
    found = []
    for name, rows in (("marked", texts), ("plain", unheard)):
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
        found.append(ngram_perplexity(path, [tmp_path / name]))
    assert found[0] == found[1] and found[0].unknown_words == 5


def test_a_word_that_stands_for_marks_is_surely_unknown(tmp_path):
    """Even in a model that knows the first words one would think of."""
    path = write_arpa(tmp_path / "lm.arpa")
    path.write_text(
        path.read_text().replace("ngram 1=5", "ngram 1=7").replace("\\2-grams", "-1\t<word-0>\n-1\t<word-1>\n\\2-grams")
    )
    scorer = NgramScorer(path)
    scorer.score_texts("u", ["a </s>"])
    assert scorer.unknown().count == 1


def test_a_log_probability_that_is_no_number_names_file_and_line(tmp_path):
    path = write_arpa(tmp_path / "lm.arpa")
    path.write_text(path.read_text().replace("-1.1\tc", "-inf\tc"))
    (tmp_path / "text").write_text("a b\na c b\n")
    with pytest.raises(ValueError, match=r"lm\.arpa: the word 'c' of .*text:2 has the log-probability -inf"):
        ngram_perplexity(path, [tmp_path / "text"])


def test_trained_model_sums_to_one_after_every_history(trained, text):
    import kenlm

    order, path = trained
    model = kenlm.Model(str(path))
    vocabulary = [*sorted({word for line in text.read_text().splitlines() for word in line.split()}), "</s>"]
    generator = random.Random(order)
    histories = [["<s>"], ["never"], *(["<s>", *line.split()] for line in text.read_text().splitlines()[:25])]
    histories += [["<s>", *generator.choices(vocabulary[:-1], k=order)] for _ in range(25)]  # mostly unseen
    for history in histories:
        state, following = kenlm.State(), kenlm.State()
        model.NullContextWrite(state)
        if history[0] == "<s>":
            model.BeginSentenceWrite(state)
        for word in history[history[0] == "<s>" :]:
            after = kenlm.State()
            model.BaseScore(state, word, after)
            state = after
        total = sum(10 ** model.BaseScore(state, word, following) for word in vocabulary)
        assert total == pytest.approx(1.0, abs=1e-5), history  # the file has seven decimals


def test_training_gives_the_same_bytes_however_the_text_is_stored(trained, text, tmp_path):
    order, path = trained
    lines = text.read_text().splitlines()
    (tmp_path / "one.txt").write_bytes("".join(f"  {line}\r\n\n" for line in lines[:70]).encode())
    with gzip.open(tmp_path / "two.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(line.replace(" ", "\u00a0 \t") for line in lines[70:]))
    other = train_ngram([tmp_path / "one.txt", tmp_path / "two.txt.gz"], order=order, out=tmp_path / "new" / "lm.arpa")
    assert other.read_bytes() == path.read_bytes()
    assert [found.name for found in other.parent.iterdir()] == ["lm.arpa"]


def test_perplexity_is_the_sum_over_the_lines(trained, tmp_path):
    _, path = trained
    (tmp_path / "a.txt").write_text("the king\n\nthe king went\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("stone\n")
    found = ngram_perplexity(path, [tmp_path / "a.txt", tmp_path / "b.txt.gz"])
    scores = NgramScorer(path).score_texts("", ["the king", "the king went", "stone"])
    assert found.log_prob == pytest.approx(sum(score.log_prob for score in scores), rel=1e-6)
    assert (found.tokens, found.unknown_words) == (9, 0)
    assert found.per_word == pytest.approx(math.exp(-found.log_prob / 9))
    assert "9 tokens, 0 unknown" in found.summary()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.txt: no non-empty line"):
        ngram_perplexity(path, [tmp_path / "empty.txt"])


def test_unknown_words_are_left_out_of_the_perplexity(arpa, tmp_path):
    """Behind an unknown word the history is empty: <s> a, then b alone, then b </s>."""
    (tmp_path / "text").write_text("a zebra b\n")
    found = ngram_perplexity(write_arpa(tmp_path / "lm.arpa"), [tmp_path / "text"])
    assert (found.tokens, found.unknown_words) == (3, 1)
    assert found.log_prob == pytest.approx(math.log(10) * (-0.2 - 0.7 - 0.15), rel=1e-6)


@pytest.mark.parametrize(
    ("content", "order", "message"),
    [
        ("", 2, r"text: no words; expected one sentence a line"),
        (" \n\t\n", 2, r"text: no words"),
        ("a b\nb </s> c\n", 2, r"text:2: the word </s>; expected text without sentence marks"),
        (
            "a b a b c\n",
            4,
            r"text: too little text for order 4, '.*' occurs but would have probability 0; expected more",
        ),
        ("a b\n", 1, r"order 1: expected 2 \.\.\. 5"),
        ("a b\n", 6, r"order 6: expected"),
        ("a b\n\udc99\n", 2, r"text:2: byte 0x99 is not UTF-8"),
    ],
)
def test_unusable_text_is_one_line_and_leaves_the_old_model(tmp_path, content, order, message):
    (tmp_path / "text").write_bytes(content.encode(errors="surrogateescape"))
    old = "\\data\\\nold"
    (tmp_path / "lm.arpa").write_text(old)
    with pytest.raises(ValueError, match=message) as caught:
        train_ngram([tmp_path / "text"], order=order, out=tmp_path / "lm.arpa")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm.arpa", "text"]
    assert (tmp_path / "lm.arpa").read_text() == old


def test_only_an_earlier_model_is_replaced(trained, text, tmp_path):
    order, path = trained
    for name, content in (
        ("a.arpa", "work of a week"),
        ("b.arpa", "the\\data\\"),
        ("c.arpa", ""),
        ("d.arpa.gz", "plain"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}: exists and is no ARPA file; expected a new name") as caught:
            train_ngram([text], order=order, out=tmp_path / name)
        assert (tmp_path / name).read_text() == content and "\n" not in str(caught.value)
    itself = tmp_path / "text"
    itself.write_bytes(text.read_bytes())
    with pytest.raises(ValueError, match="text: exists and is no ARPA file"):
        train_ngram([itself], order=order, out=itself)
    (tmp_path / "e.arpa").write_text("\n\\data\\\nan older one")
    assert train_ngram([text], order=order, out=tmp_path / "e.arpa").read_bytes() == path.read_bytes()
    for _ in range(2):
        zipped = train_ngram([text], order=order, out=tmp_path / "f.arpa.gz")
    assert gzip.decompress(zipped.read_bytes()) == path.read_bytes()
    assert NgramScorer(zipped).score_texts("u", ["the king"]) == NgramScorer(path).score_texts("u", ["the king"])


def test_what_a_killed_training_left_goes_with_the_next(text, tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = tmp_path / f".lm.arpa.{socket.gethostname()}-{gone.pid}-12345678.tmp"
    left.mkdir()
    (left / "text").write_text("half")
    train_ngram([text], order=2, out=tmp_path / "lm.arpa")
    assert [found.name for found in tmp_path.iterdir()] == ["lm.arpa"]


def test_an_unknown_word_of_the_training_text_stays_the_only_one(text, tmp_path):
    """KenLM takes one of two <unk> for all unknown words: the added one has the probability 10^-100."""
    (tmp_path / "rare.txt").write_text(text.read_text().replace("stone", "<unk>").replace("came", "<unk>"))
    arpa = train_ngram([tmp_path / "rare.txt"], order=2, out=tmp_path / "lm.arpa")
    lines = arpa.read_text().split("\n")
    unigrams = lines[lines.index("\\1-grams:") + 1 : lines.index("\\2-grams:")]
    (unknown,) = (line for line in unigrams if line.split("\t")[1:2] == ["<unk>"])
    assert float(unknown.split("\t")[0]) > -3
    assert f"ngram 1={len([line for line in unigrams if line])}" in lines
    scorer = NgramScorer(arpa)
    known, other = scorer.score_texts("u", ["the <unk> of", "the zebra of"])
    assert known.log_prob == other.log_prob > -30 and scorer.unknown() == UnknownCounts(2, 6, "words")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda good: b"",
        lambda good: b"\x00\xff" * 500,
        lambda good: good[: len(good) // 2],
        lambda good: good.replace(b"ngram 2=4", b"ngram 2=9"),
        lambda good: good.replace(b"-0.4\ta", b"nothing\ta"),
        lambda good: good.replace(b"-0.4\ta", b"0.4\ta"),
        lambda good: good.replace(b"\t<s>\t", b"\t<x>\t").replace(b"<s> a", b"<x> a"),
    ],
)
def test_unreadable_models_are_one_line_with_the_path(tmp_path, spoil):
    path = write_arpa(tmp_path / "bad.arpa")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"bad\.arpa: KenLM can not read it") as caught:
        NgramScorer(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"no such n-gram"):
        NgramScorer(tmp_path)


def test_no_torch_for_an_ngram(arpa):
    code = f"import sys; from rescore.lms.ngram import NgramScorer; NgramScorer({str(arpa.path)!r}); sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'recipe'}"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("order", "scale", "dev", "test"), [(3, 1.3, 24.70, 23.53), (4, 1.05, 24.37, 23.57)])
def test_demo_anchors(order, scale, dev, test, tmp_path):
    """Word error rates that data/demo/README.md gives for score + scale * log p."""
    scorer = NgramScorer(train_ngram([DEMO / "train.txt.gz"], order=order, out=tmp_path / "lm.arpa"), name="ngram")
    for part, expected in (("dev", dev), ("test", test)):
        lists = [
            with_score(
                utterance, "ngram", scorer.score_texts(utterance.seq_tag, [hyp.text for hyp in utterance.hypotheses])
            )
            for utterance in read_nbest(DEMO / f"{part}.nbest.py.gz", name="am")
        ]
        references = read_references(DEMO / f"{part}.ref.py.gz")
        found = best_texts(lists, Scales({"am": 1.0, "ngram": scale}))
        errors = [count_errors(references[tag], words) for tag, words in found.items()]
        words = sum(len(reference.split()) for reference in references.values())
        wrong = sum(count.substitutions + count.deletions + count.insertions for count in errors)
        assert len(found) == len(references)
        assert 100 * wrong / words == pytest.approx(expected, abs=0.005)
    assert scorer.unknown().count == 0


def test_a_damaged_binary_file_ends_no_process_of_ours(tmp_path):
    """One that KenLM dies of at one word only, and one of zeros, by which everything would be certain."""
    path, whole = tmp_path / "lm.bin", kenlm_binary(3)
    path.write_bytes(whole)
    assert NgramScorer(path).score_texts("u", ["the king"])[0].log_prob < 0
    key = murmur(b"king").to_bytes(8, "little")
    place = whole.index(key) + len(key)
    path.write_bytes(whole[:place] + b"\xff\xff\xff\x7f" + whole[place + 4 :])
    scorer = NgramScorer(path)
    assert scorer.score_texts("u", ["the"])[0].log_prob < 0
    for _ in range(2):
        with pytest.raises(ValueError, match=r"lm\.bin: KenLM dies of it \(SIG\w+\); expected"):
            scorer.score_texts("u", ["king"])
    words = whole.index(b"<unk>\0")
    start = whole.index(struct.pack("<ff", -2.0, 0.0))  # of the probabilities
    path.write_bytes(whole[:start] + bytes(words - start) + whole[words:])
    with pytest.raises(ValueError, match=r"lm\.bin: .*probabilities whose sum is 2"):
        NgramScorer(path)


def test_bytes_of_a_damaged_file_are_quoted_in_one_line(tmp_path):
    path = write_arpa(tmp_path / "lm.arpa")
    path.write_bytes(path.read_bytes().replace(b"-0.4", b"\xff\xfe" * 500))
    with pytest.raises(ValueError, match=r"lm\.arpa: KenLM can not read it \(.*\\xff.*expected an ARPA") as caught:
        NgramScorer(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
