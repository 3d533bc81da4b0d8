"""Bliss corpora: segments as RASR names them, errors that say where, and what becomes of them."""

from __future__ import annotations

import gzip
import zipfile

import numpy as np
import pytest
import soundfile

from rescore.nbest.references import read_references
from returnn_bridge.audio.bliss import build_bliss_ogg_zip, read_bliss, write_bliss_text

CORPUS = """<?xml version="1.0" encoding="utf8"?>
<corpus name="c">
  <subcorpus name="s"><recording name="r0" audio="a.wav"><segment><orth>A</orth></segment></recording></subcorpus>
  <recording name="r1" audio="/b.wav">
    <segment name="x" start="0.5" end="1.5"><speaker name="me"/><orth>
      B  C &amp; D
    </orth></segment>
    <segment end="inf"><orth></orth></segment>
  </recording>
</corpus>
"""


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "c.xml"
    path.write_text(CORPUS)
    return path


def test_names_texts_and_times(corpus, tmp_path):
    first, second, third = read_bliss(corpus)
    assert (first.seq_tag, first.text, first.audio) == ("c/s/r0/1", "A", str(tmp_path / "a.wav"))
    assert (second.seq_tag, second.text, second.audio) == ("c/r1/x", "B C & D", "/b.wav")
    assert (second.start, second.end) == (0.5, 1.5)
    assert (third.seq_tag, third.text, third.end) == ("c/r1/2", "", None)


def test_text_and_references(corpus, tmp_path):
    assert write_bliss_text(corpus, tmp_path / "out.py.gz", lower=True) == 3
    assert read_references(tmp_path / "out.py.gz") == {"c/s/r0/1": "a", "c/r1/x": "b c & d", "c/r1/2": ""}
    with pytest.raises(ValueError, match="'c/r1/2' has no text"):
        write_bliss_text(corpus, tmp_path / "out.txt")
    corpus.write_text(CORPUS.replace("<orth></orth>", "<orth>E</orth>"))
    write_bliss_text(corpus, tmp_path / "out.txt.gz")
    assert gzip.open(tmp_path / "out.txt.gz", "rt").read() == "A\nB C & D\nE\n"
    assert not list(tmp_path.glob(".*"))


def test_zip_holds_the_stretch_of_each_segment(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(32000, "float32"), 16000)
    (tmp_path / "c.xml").write_text(
        '<corpus name="c"><recording name="r" audio="a.wav"><segment name="s" start="0.5" end="1.25"><orth>A</orth></segment>'
        "</recording></corpus>"
    )
    for with_audio in (True, False):
        assert build_bliss_ogg_zip(tmp_path / "c.xml", tmp_path / "z.zip", with_audio=with_audio, lower=True) == 1
        with zipfile.ZipFile(tmp_path / "z.zip") as archive:
            index = archive.read("z.txt").decode()
            assert "'text': 'a'" in index and "'duration': 0.75" in index
            assert ("z/c/r/s.ogg" in archive.namelist()) == with_audio


@pytest.mark.parametrize(
    "change, message",
    [
        (('end="1.5"', 'end="0.2"'), r"c\.xml: segment 'c/r1/x' has start '0.5' and end '0.2'; expected"),
        (('start="0.5"', 'start="soon"'), "'c/r1/x' has start 'soon'"),
        (('name="r1"', ""), "<recording> without a name"),
        (('<segment end="inf">', '<segment name="x">'), "two segments are named 'c/r1/x'"),
        (("<speaker", '<include file="d.xml"/><speaker'), "<include 'd.xml'>"),
        (("</corpus>", ""), r"c\.xml:\d+: no element found; expected a Bliss corpus"),
        ((CORPUS, "<corpus name='c'></corpus>"), "no segments"),
        (
            ("<speaker", '<segment name="y"><orth>E</orth></segment><speaker'),
            "<segment> in <segment> of 'c/r1/x'; expected",
        ),
        (("B  C", "B <orth>C</orth>"), "<orth> in <orth> of 'c/r1/x'; expected it in <segment>"),
        (("<orth></orth>", "<x><orth>E</orth></x>"), "<orth> in <x> of 'c/r1/2'; expected it in <segment>"),
        (("<subcorpus", "<recording"), r"c\.xml"),
        ((CORPUS, "<segment><orth>A</orth></segment>"), "<segment> on its own; expected it in <recording>"),
        (("utf8", "utf9"), r"c\.xml:1: unknown encoding: utf9; expected a known encoding"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(corpus, change, message):
    corpus.write_text(CORPUS.replace(*change))
    with pytest.raises(ValueError, match=message) as raised:
        list(read_bliss(corpus))
    assert "\n" not in str(raised.value)


def test_segments_beyond_the_audio_and_broken_gzip(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000, "float32"), 16000)
    (tmp_path / "c.xml").write_text(
        '<corpus name="c"><recording name="r" audio="a.wav"><segment name="s" end="1.5"><orth>A</orth></segment></recording></corpus>'
    )
    with pytest.raises(ValueError, match=r"audio of length 1.00 s; utterance 'c/r/s'"):
        build_bliss_ogg_zip(tmp_path / "c.xml", tmp_path / "z.zip")
    (tmp_path / "c.xml.gz").write_bytes(gzip.compress(b"<corpus name='c'>" + bytes(range(200)) * 50)[:60])
    with pytest.raises(ValueError, match=r"c.xml.gz:1: broken gzip data"):
        list(read_bliss(tmp_path / "c.xml.gz"))


def test_the_corpus_itself_is_not_overwritten(corpus, tmp_path):
    corpus.write_text(CORPUS.replace("<orth></orth>", "<orth>E</orth>"))
    before = corpus.read_text()
    (tmp_path / "link.txt").symlink_to(corpus)
    for out in (corpus, tmp_path / "link.txt", tmp_path / "." / "c.xml"):
        with pytest.raises(ValueError, match="is the corpus itself"):
            write_bliss_text(corpus, out)
    assert corpus.read_text() == before


def test_a_corpus_may_have_another_encoding_and_any_size(tmp_path):
    """Read in pieces: elements of a file of several pieces are whole."""
    body = "".join(f'<segment name="{number}"><orth>grün {number}</orth></segment>' for number in range(9000))
    text = (
        f"<?xml version='1.0' encoding='iso-8859-1'?><corpus name='c'><recording name='r'>{body}</recording></corpus>"
    )
    (tmp_path / "c.xml.gz").write_bytes(gzip.compress(text.encode("iso-8859-1"), mtime=0))
    found = [segment.text for segment in read_bliss(tmp_path / "c.xml.gz")]
    assert found == [f"grün {number}" for number in range(9000)]
