"""A zip that was built is one that RETURNN reads: the same texts as ids, and real audio inside."""

from __future__ import annotations

import gzip
import io
import itertools
import socket
import subprocess
import zipfile
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest

from conftest import DEMO, random_text
from diffusion_lm.commands.data import oggzip
from returnn_bridge.audio import ogg
from returnn_bridge.audio.oggzip import (
    Entry,
    build_folder_ogg_zip,
    build_ogg_zip,
    check_ogg_zip,
    check_ogg_zips,
    read_transcripts,
)
from returnn_bridge.batching import ReturnnBatches
from returnn_bridge.datasets import ogg_zip_dataset_dict
from returnn_bridge.native_cache import use_private_cache
from returnn_bridge.vocab import Vocab, train_vocab

soundfile = pytest.importorskip("soundfile")
AUDIO = Path(__file__).parents[3] / "shared" / "data" / "librispeech_audio"


def sine(path: Path, seconds: float, rate: int = 8000) -> Path:
    soundfile.write(path, 0.5 * np.sin(np.arange(int(seconds * rate)) / 7), rate)
    return path


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    """Six utterances of 0.1 to 0.6 s, in three formats, two without audio."""
    texts = random_text(6, seed=3).splitlines()
    audio: list[Path | None] = [
        sine(tmp_path / f"{index}.{kind}", 0.1 * (index + 1)) for index, kind in enumerate(("wav", "flac", "wav"))
    ]
    audio.append(DEMO / "audio" / "acts-11-4-1.ogg")
    return [
        Entry(f"corpus/rec-{index}", text, path) for index, (text, path) in enumerate(zip(texts, [*audio, None, None]))
    ]


def ids_of(zips: list[Path], vocab_folder: Path, vocab: Vocab, **options) -> dict[str, list[int]]:
    """{tag: ids} in RETURNN's order."""
    batches = ReturnnBatches(ogg_zip_dataset_dict(zips, vocab_folder, **options), num_tokens=vocab.num_pieces)
    rows = (
        (tag, row[mask].tolist())
        for batch in batches
        for tag, row, mask in zip(batch.seq_tags, batch.tokens, batch.valid)
    )
    return dict(rows)


def test_round_trip_through_returnn(tmp_path, entries, vocab_folder, vocab):
    assert build_ogg_zip(tmp_path / "dev.zip", entries) == 6
    found = ids_of([tmp_path / "dev.zip"], vocab_folder, vocab)
    assert found == {entry.seq_tag: vocab.encode(entry.text) for entry in entries}


def test_text_only_zips_need_no_audio_and_join(tmp_path, vocab_folder, vocab):
    texts = random_text(40, seed=4).splitlines()
    entries = [Entry(f"utt-{index}", text) for index, text in enumerate(texts)]
    build_ogg_zip(tmp_path / "one.zip", entries[:25])
    build_ogg_zip(tmp_path / "two.zip", entries[25:])
    zips = [tmp_path / "one.zip", tmp_path / "two.zip"]
    found = ids_of(zips, vocab_folder, vocab)
    assert found == {entry.seq_tag: vocab.encode(entry.text) for entry in entries}
    words = [len(texts[int(tag.removeprefix("utt-"))].split()) for tag in found]
    assert words == sorted(words, reverse=True)  # sorted_reverse goes by duration, which goes by words here
    subset = ids_of(zips, vocab_folder, vocab, fixed_random_subset=12)
    assert len(subset) == 12
    assert subset == ids_of(zips, vocab_folder, vocab, fixed_random_subset=12)
    assert subset.items() <= found.items()


def test_the_audio_is_what_was_put_in(tmp_path, entries):
    build_ogg_zip(tmp_path / "dev.zip", entries)
    with zipfile.ZipFile(tmp_path / "dev.zip") as archive:
        index = literal_eval(archive.read("dev.txt").decode())
        assert [line["seq_name"] for line in index] == [entry.seq_tag for entry in entries]
        for line, entry in zip(index, entries):
            assert line["text"] == entry.text
            assert isinstance(line["duration"], float)
            if entry.audio is None:
                assert "file" not in line
                continue
            data = archive.read(f"dev/{line['file']}")
            samples, rate = soundfile.read(io.BytesIO(data))
            original, original_rate = soundfile.read(entry.audio)
            assert rate == original_rate
            assert len(samples) == len(original) == round(line["duration"] * rate)
            assert np.corrcoef(samples, original)[0, 1] > 0.98  # Vorbis is lossy
        assert archive.read("dev/corpus/rec-3.ogg") == (DEMO / "audio" / "acts-11-4-1.ogg").read_bytes()


def test_returnn_decodes_the_audio(tmp_path, entries):
    use_private_cache()
    from returnn.datasets import init_dataset

    build_ogg_zip(tmp_path / "dev.zip", entries[:3])
    dataset = init_dataset(
        {"class": "OggZipDataset", "path": str(tmp_path / "dev.zip"), "audio": {"features": "raw"}, "targets": None}
    )
    dataset.init_seq_order(epoch=1)
    for index in range(3):
        dataset.load_seqs(index, index + 1)
        assert dataset.get_data(index, "data").shape == (800 * (index + 1), 1)


def test_the_same_entries_give_the_same_bytes(tmp_path, entries, monkeypatch):
    build_ogg_zip(tmp_path / "dev.zip", entries)
    first = (tmp_path / "dev.zip").read_bytes()
    # The encoder's serial number comes from the clock in seconds; a second later it would be another one.
    real, calls = ogg._encoded, itertools.count(1)

    def other_serial(*args):
        data, serial = bytearray(real(*args)), next(calls).to_bytes(4, "big")
        for start in [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]:
            data[start + 14 : start + 18] = serial
        return bytes(data)

    monkeypatch.setattr(ogg, "_encoded", other_serial)
    build_ogg_zip(tmp_path / "dev.zip", entries)
    assert (tmp_path / "dev.zip").read_bytes() == first and next(calls) > 1


def broken(tmp_path: Path, entry: Entry, more: list[Entry] | None = None, name: str = "dev.zip") -> None:
    build_ogg_zip(tmp_path / "out" / name, [Entry("a", "text"), entry, *(more or [])])


@pytest.mark.parametrize(
    "entry, error, message",
    [
        (Entry("b", "text", "no/such.flac"), FileNotFoundError, r"no/such.flac: no such audio file \(utterance 'b'\)"),
        (Entry("a", "text"), ValueError, "'a' comes a second time"),
        (Entry("b", " "), ValueError, "'b' has no text"),
        (Entry("", "text"), ValueError, "has no id"),
        (Entry("b", "text", __file__), ValueError, r"test_oggzip.py: not readable as audio .*'b'"),
    ],
)
def test_a_bad_entry_is_one_line_and_leaves_nothing(tmp_path, entry, error, message):
    with pytest.raises(error, match=message) as caught:
        broken(tmp_path, entry)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.zip*"))


def test_no_entries_and_a_wrong_name_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no utterances"):
        build_ogg_zip(tmp_path / "dev.zip", [])
    with pytest.raises(ValueError, match="ends in .zip"):
        broken(tmp_path, Entry("b", "text"), name="dev.ogg")
    silence = tmp_path / "empty.wav"
    soundfile.write(silence, np.zeros(0), 8000)
    with pytest.raises(ValueError, match="length 0"):
        broken(tmp_path, Entry("b", "text", silence))


def test_transcripts_plain_and_zipped(tmp_path):
    content = "u-1 ONE TWO\n\nu-2\tTHREE \n"
    (tmp_path / "a.txt").write_text(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("a.txt", "a.txt.gz"):
        assert read_transcripts(tmp_path / name) == {"u-1": "ONE TWO", "u-2": "THREE"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"u-1 ONE\nu-2\n", "a.txt:2: utterance 'u-2' has no text"),
        ("a.txt", b"u-1 ONE\nu-1 TWO\n", "a.txt:2: utterance 'u-1' comes a second time"),
        ("a.txt", b"u-1 ONE\nu-2 \xff\n", "a.txt:2: byte 0xff is not UTF-8"),
        ("a.txt", b"", "a.txt: no transcripts in 0 lines"),
        ("a.txt.gz", gzip.compress(b"u-1 ONE\n")[:-9], "a.txt.gz:.*broken gzip"),
        ("a.txt.gz", b"u-1 ONE\n", "a.txt.gz:1: broken gzip"),
    ],
)
def test_bad_transcripts_name_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_transcripts(tmp_path / name)


@pytest.mark.skipif(not AUDIO.is_dir(), reason="needs the LibriSpeech audio beside the repository")
def test_real_speech(tmp_path):
    transcripts = read_transcripts(AUDIO / "train.trans.txt.gz")
    assert len(transcripts) == 885
    entries = [Entry(path.stem, transcripts[path.stem], path) for path in sorted(AUDIO.glob("*.flac"))[:5]]
    (tmp_path / "train.txt").write_text("\n".join(transcripts.values()) + "\n")
    vocab = train_vocab([tmp_path / "train.txt"], size=100, out=tmp_path / "vocab")
    build_ogg_zip(tmp_path / "dev.zip", entries)
    assert ids_of([tmp_path / "dev.zip"], tmp_path / "vocab", vocab) == {
        entry.seq_tag: vocab.encode(entry.text) for entry in entries
    }


def test_a_small_set_can_be_read_again_and_again(entries, tmp_path):
    """RETURNN's MetaDataset keeps the block it has read to the end; a validation set of less than a block comes round many times."""
    build_ogg_zip(tmp_path / "dev.zip", entries)
    (tmp_path / "text.txt").write_text(random_text(200))
    vocab = train_vocab([tmp_path / "text.txt"], size=44, out=tmp_path / "vocab")
    opts = ogg_zip_dataset_dict([tmp_path / "dev.zip"], tmp_path / "vocab" / "spm.model")
    batches = ReturnnBatches(opts, num_tokens=vocab.num_pieces)
    first, second, third = ([batch.tokens.tolist() for batch in batches] for _ in range(3))
    assert first == second == third


@pytest.fixture
def recordings(tmp_path) -> Path:
    """a.WAV, b.Flac and a file that is no audio, in two folders; a folder that is named as audio."""
    folder = tmp_path / "audio"
    (folder / "one.wav").mkdir(parents=True)
    sine(folder / "a.wav", 0.1).rename(folder / "a.WAV")
    sine(folder / "one.wav" / "b.flac", 0.2).rename(folder / "one.wav" / "b.Flac")
    (folder / "one.wav" / "b.txt").write_text("B")
    (tmp_path / "texts").write_text("a A\nb B\nc C\n")
    return folder


def test_a_folder_of_audio_whatever_the_case_of_its_names(recordings, tmp_path, capsys):
    oggzip(recordings, tmp_path / "z.zip", tmp_path / "texts", lower=True)
    assert capsys.readouterr().out.endswith("z.zip: 2 utterances; 1 transcripts without audio left out\n")
    with zipfile.ZipFile(tmp_path / "z.zip") as archive:
        index = literal_eval(archive.read("z.txt").decode())
        assert [(line["seq_name"], line["text"]) for line in index] == [("a", "a"), ("b", "b")]
        assert archive.comment.startswith(b"OggZip: 2 utterances, index ")


def test_two_files_of_one_utterance_are_an_error_that_names_both(recordings, tmp_path):
    for name in ("one.wav/a.wav", "a.OGG"):
        sine(recordings / "copy.wav", 0.1).rename(recordings / name)
        with pytest.raises(ValueError, match=r"utterance 'a' is .*; expected one file for each") as caught:
            build_folder_ogg_zip(recordings, tmp_path / "texts", tmp_path / "z.zip")
        assert str(recordings / "a.WAV") in str(caught.value) and str(recordings / name) in str(caught.value)
        (recordings / name).unlink()
    (tmp_path / "texts").write_text("a A\n")
    with pytest.raises(ValueError, match=r"texts: no transcript of 'b' \(.*b.Flac\)"):
        build_folder_ogg_zip(recordings, tmp_path / "texts", tmp_path / "z.zip")
    with pytest.raises(ValueError, match="no .flac, .wav or .ogg file"):
        build_folder_ogg_zip(tmp_path / "texts", tmp_path / "texts", tmp_path / "z.zip")
    assert not (tmp_path / "z.zip").exists()


def test_only_an_earlier_ogg_zip_is_replaced(tmp_path):
    target = tmp_path / "z.zip"
    build_ogg_zip(target, [Entry("a", "it's")])
    build_ogg_zip(target, [Entry("b", "text")])
    good = target.read_bytes()
    with zipfile.ZipFile(tmp_path / "backup.zip", "w") as archive:
        archive.writestr("backup.txt", "[1]")
    (tmp_path / "text.zip").write_text("work of a week")
    target.rename(tmp_path / "other.zip")  # its index has another name: RETURNN would not find it either
    for name in ("backup", "text", "other"):
        before = (tmp_path / f"{name}.zip").read_bytes()
        with pytest.raises(ValueError, match=f"{name}.zip: exists and is no OggZip of that name"):
            build_ogg_zip(tmp_path / f"{name}.zip", [Entry("b", "text")])
        assert (tmp_path / f"{name}.zip").read_bytes() == before
    build_ogg_zip(target, [Entry("b", "text")])
    assert target.read_bytes() == good


def test_a_zip_that_is_not_as_it_was_built_is_refused(tmp_path, vocab_folder, vocab):
    target = tmp_path / "z.zip"
    build_ogg_zip(target, [Entry("a", "the king"), Entry("b", "a stone")])
    good = target.read_bytes()
    check_ogg_zip(target)
    with zipfile.ZipFile(target) as archive:
        comment, lines = archive.comment, archive.read("z.txt").splitlines(keepends=True)
    with zipfile.ZipFile(tmp_path / "short.zip", "w") as archive:
        archive.writestr("short.txt", b"".join(lines[:1] + lines[2:]))
        archive.comment = comment
    (tmp_path / "renamed.zip").write_bytes(good)
    for name, size in (("end", -10), ("half", len(good) // 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "z.zip").write_bytes(good[:size])
    for name, message in (
        ("short", "another index than it was built with"),
        ("end/z", "another index than it was built with"),
        ("half/z", "not a zip that can be read"),
        ("renamed", "no index renamed.txt in it"),
    ):
        with pytest.raises(ValueError, match=rf"{name}.zip: {message}") as caught:
            ids_of([tmp_path / f"{name}.zip"], vocab_folder, vocab)
        assert "\n" not in str(caught.value)


def test_every_way_to_name_the_index_is_checked(tmp_path, vocab_folder, vocab):
    build_ogg_zip(tmp_path / "z.zip", [Entry("a", "the king")])
    with zipfile.ZipFile(tmp_path / "z.zip") as archive:
        content = archive.read("z.txt")
    bad = content.replace(b"0.8", b"99999999999999999999")
    for name, index in (("good", content), ("bad", bad)):
        with gzip.open(tmp_path / f"{name}.txt.gz", "wb") as file:
            file.write(index)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("other.txt", index)
    (tmp_path / "other.zip").symlink_to(tmp_path / "z.zip")
    good, other = str(tmp_path / "good.zip"), str(tmp_path / "other.zip")
    check_ogg_zips([str(tmp_path / "good.txt.gz"), good])
    check_ogg_zips([good], "other")
    check_ogg_zips([other], resolve_symlinks=True)
    for paths, names, message in (
        (["bad.txt.gz", "bad.zip"], None, r"bad\.txt\.gz:2: got"),
        (["bad.zip"], ["other"], r"bad\.zip: other\.txt:2: got"),
        (["other.zip"], None, "no index other.txt"),
        (["good.txt.gz"], None, "an index only"),
        (["good.zip"], ["a", "b"], "2 content names for 1 files"),
        (["good.txt"], None, "expected an OggZip"),
    ):
        with pytest.raises(ValueError, match=message):
            check_ogg_zips([str(tmp_path / path) for path in paths], names)


def test_what_a_killed_process_left_beside_the_zip_goes(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = tmp_path / f".z.zip.{socket.gethostname()}-{gone.pid}-12345678.tmp"
    left.write_bytes(b"half")
    build_ogg_zip(tmp_path / "z.zip", [Entry("a", "text")])
    assert [path.name for path in tmp_path.iterdir()] == ["z.zip"]
