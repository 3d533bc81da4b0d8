"""Training a vocabulary: every line of the text counts, bad text is one line, and no other vocabulary is lost."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from conftest import random_text
from returnn_bridge.files import lock
from returnn_bridge.vocab import LINE_BYTES, Vocab, read_lines, train_vocab


def unknown(vocab: Vocab, text: str) -> int:
    return vocab.count_unknown(vocab.encode(text))


@pytest.fixture
def text(tmp_path) -> Path:
    (tmp_path / "a.txt").write_text(random_text(300))
    return tmp_path / "a.txt"


def test_lines_of_any_length_count(text, tmp_path):
    assert "x" not in text.read_text() and "q" not in text.read_text()
    line = " ".join(random_text(30 * 10).split()).replace("king", "exquisite")
    assert len(line.encode()) > LINE_BYTES
    (tmp_path / "b.txt").write_text(line + "\n")
    for files in ([text, tmp_path / "b.txt"], [tmp_path / "b.txt"]):
        vocab = train_vocab(files, size=36, out=tmp_path / f"v{len(files)}")
        assert unknown(vocab, line) == 0


def test_the_rest_of_a_line_with_the_sign_for_the_unknown_counts(text, tmp_path):
    (tmp_path / "b.txt").write_text("exquisite \u2585 taxis\n" * 5)
    vocab = train_vocab([text, tmp_path / "b.txt"], size=44, out=tmp_path / "v")
    assert unknown(vocab, "exquisite taxis") == 0


def test_only_a_line_end_ends_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\rtwo\nthree\u2028four\x0cfive\r\n\n".encode())
    assert list(read_lines([tmp_path / "a.txt"])) == ["one\rtwo", "three\u2028four\x0cfive"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("b.txt.gz", gzip.compress(random_text(500).encode())[:-20], r"b.txt.gz:\d+: broken gzip data"),
        ("b.txt", b"the king\n\xff\n", "b.txt:2: byte 0xff is not UTF-8"),
        ("b.txt", b"the\n", "SentencePiece could not make 4000 pieces of this text"),
    ],
)
def test_text_that_will_not_do_is_one_line_and_writes_nothing(text, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        train_vocab([text, tmp_path / name], size=4000, out=tmp_path / "v")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "v").exists()


def test_another_vocabulary_is_not_overwritten(text, tmp_path):
    out = tmp_path / "v"
    first = train_vocab([text], size=44, out=out)
    assert train_vocab([text], size=44, out=out) == first
    with pytest.raises(
        ValueError, match=r"spm.model: exists and was trained otherwise; remove it.*or choose a new name"
    ):
        train_vocab([text], size=40, out=out)
    assert Vocab.load(out) == first
    with lock(out / "spm.model"), pytest.raises(ValueError, match="is writing it"):
        train_vocab([text], size=44, out=out)
    assert [path.name for path in out.iterdir()] == ["spm.model"]
