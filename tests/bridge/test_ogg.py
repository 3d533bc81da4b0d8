"""Audio as Ogg Vorbis: nothing of it is lost, and a header is not believed."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from returnn_bridge.audio import ogg
from returnn_bridge.audio.ogg import as_ogg


@pytest.fixture
def samples() -> np.ndarray:
    return 0.5 * np.sin(np.arange(16_000) / 7)


@pytest.fixture
def wav(tmp_path, samples) -> Path:
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    return tmp_path / "a.wav"


@pytest.mark.parametrize("block", [700, 1 << 20])
def test_blocks_hold_all_of_the_audio(wav, samples, block, monkeypatch):
    monkeypatch.setattr(ogg, "_BLOCK", block)
    data, duration = as_ogg(wav)
    found, rate = soundfile.read(io.BytesIO(data))
    assert (len(found), rate, duration) == (16_000, 8000, 2.0)
    assert np.abs(found - samples).max() < 0.05


@pytest.mark.parametrize("rate, channels", [(67_116_864, 1), (200_001, 1), (8000, 256)])
def test_what_the_encoder_does_not_have_is_refused(wav, rate, channels):
    header = bytearray(wav.read_bytes())
    header[22:36] = struct.pack("<HIIHH", channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2, 16)
    wav.write_bytes(header)
    with pytest.raises(ValueError, match=rf"a\.wav: {rate} Hz and {channels} channels; expected"):
        as_ogg(wav)


def test_frames_that_only_the_header_has_are_refused(tmp_path, samples):
    path = tmp_path / "a.flac"
    soundfile.write(path, samples, 8000)
    whole = path.read_bytes()
    absurd = bytearray(whole)
    absurd[21] |= 0xF  # the high bits of the number of frames
    for damaged in (absurd, whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"a\.flac: (ends \d+ frames before its header says|not readable as audio)"
        ):
            as_ogg(path)


def test_an_ogg_file_is_copied_whole_or_refused(wav, tmp_path):
    data, _ = as_ogg(wav)
    path = tmp_path / "a.ogg"
    path.write_bytes(data)
    assert as_ogg(path) == (data, 2.0)
    last = data.rindex(b"OggS")
    for damaged in (data[:-1], data[:last], data + b"x", data[:-50] + bytes([data[-50] ^ 1]) + data[-49:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.ogg: (.*expected a complete Ogg file|audio of length 0)"):
            as_ogg(path)
