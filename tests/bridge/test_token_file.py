"""A token store that is not what was written is refused in one line, before anything in it is followed or believed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from conftest import random_text
from returnn_bridge import digests, token_store, trial
from returnn_bridge.digests import Digests
from returnn_bridge.files import lock
from returnn_bridge.token_store import TokenStore, build_store, describe_sources

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path) -> list[str]:
    (tmp_path / "a.txt").write_text(random_text(300, seed=6))
    return [str(tmp_path / "a.txt")]


@pytest.fixture
def path(corpus, vocab_folder, tmp_path) -> Path:
    return build_store(corpus, vocab_folder, tmp_path / "corpus.hdf").path


def replaced(file, name, **how) -> None:
    """The array made anew in another way."""
    values = how.pop("data", file[name][...])
    del file[name]
    file.create_dataset(name, data=values, **how)


def object_pointers(file) -> None:
    """Elements of a type that numpy takes for pointers to Python objects: a memory map of them jumps where the file says."""
    del file["inputs"]
    data = file.create_dataset("inputs", (4,), h5py.vlen_dtype(np.int64))
    for place in range(4):
        data[place] = [1, 2, 3]


def references(file) -> None:
    del file["starts"]
    file.create_dataset("starts", (4,), h5py.ref_dtype)


def soft_link(file) -> None:
    file.move("inputs", "elsewhere")
    file["inputs"] = h5py.SoftLink("/elsewhere")


def external_link(file) -> None:
    del file["inputs"]
    file["inputs"] = h5py.ExternalLink("/etc/hostname", "/inputs")


def external_storage(file) -> None:
    size = len(file["inputs"])
    del file["inputs"]
    file.create_dataset("inputs", (size,), "<u2", external=[("/etc/hostname", 0, 2 * size)])


def virtual(file) -> None:
    file.move("inputs", "elsewhere")
    layout = h5py.VirtualLayout(file["elsewhere"].shape, "<u2")
    layout[:] = h5py.VirtualSource(file["elsewhere"])
    file.create_virtual_dataset("inputs", layout)


def group(file) -> None:
    del file["inputs"]
    file.create_group("inputs")


def attribute(name, value=None):
    def spoil(file) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value(file) if callable(value) else value

    return spoil


def sequences(file) -> None:
    values = np.empty(1, object)
    values[0] = np.arange(3)
    del file.attrs["sources"]
    file.attrs.create("sources", values, dtype=h5py.vlen_dtype(np.int64))


SPOILED = {
    "pointers for ids": (object_pointers, "array 'inputs' does not hold uint16 or int32"),
    "references for places": (references, "array 'starts' does not hold int64"),
    "floats": (lambda file: replaced(file, "inputs", dtype="<f4"), "array 'inputs' does not hold uint16 or int32"),
    "big-endian": (lambda file: replaced(file, "lineBytes", dtype=">i4"), "array 'lineBytes' does not hold int32"),
    "chunks": (lambda file: replaced(file, "inputs", chunks=(16,)), "array 'inputs' does not lie in one piece"),
    "compressed": (
        lambda file: replaced(file, "starts", compression="gzip"),
        "array 'starts' does not lie in one piece",
    ),
    "two dimensions": (lambda file: replaced(file, "inputs", data=np.ones((4, 3), "<u2")), "has not one dimension"),
    "a soft link": (soft_link, "array 'inputs' is a link to another place"),
    "an external link": (external_link, "array 'inputs' is a link to another place"),
    "another file's bytes": (external_storage, "array 'inputs' does not lie in one piece of this file"),
    "a virtual array": (virtual, "array 'inputs' does not lie in one piece of this file"),
    "a group": (group, "'inputs' is no array"),
    "no array": (lambda file: file.pop("starts"), "no array 'starts'"),
    "no attribute": (attribute("sha256"), "no attribute 'sha256'"),
    "a reference attribute": (attribute("format", lambda file: file.ref), "attribute 'format' is no text"),
    "sequences as attribute": (sequences, "attribute 'sources' is no text"),
    "text for a number": (attribute("numSeqs", "300"), "attribute 'numSeqs' is no number"),
    "another format": (attribute("format", "diffusion-lm-tokens 3"), "format 'diffusion-lm-tokens 3'"),
    "sources that are none": (attribute("sources", '{"a": 1}'), "attribute 'sources' is no list of files"),
    "sources that are no JSON": (attribute("sources", "[" * 100_000), "expected a token store"),
    "fewer sentences": (
        lambda file: replaced(file, "lineBytes", data=file["lineBytes"][:-1]),
        r"\d+ ids of 299 sentences, but \d+ tokens, 300 sentences and 301 starts are announced",
    ),
    "fewer announced": (attribute("numSeqs", 299), "300 sentences, but .* 299 sentences"),
    "fewer ids": (lambda file: replaced(file, "inputs", data=file["inputs"][:-1]), "tokens, 300 sentences"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_no_plain_store_is_refused_before_an_element_is_read(path, corpus, vocab_folder, name):
    spoil, message = SPOILED[name]
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(ValueError, match=message) as caught:
        TokenStore.open(path, corpus_files=corpus, spm_model=vocab_folder)
    assert "\n" not in str(caught.value) and "corpus.hdf: " in str(caught.value)
    assert "expected a token store that `dlm tokenize` wrote" in str(caught.value)


def swap(file, name, place, value) -> None:
    values = file[name][...]
    values[place] = value
    file[name][...] = values


CHANGED = {
    "a changed id": (lambda file: swap(file, "inputs", 7, file["inputs"][7] ^ 1), "ids with sha256"),
    "ids of zeros": (lambda file: swap(file, "inputs", slice(None), 0), r"\d+ ids that are all 0"),
    "an id beyond the pieces": (lambda file: swap(file, "inputs", 7, 44), "ids from 0 to 44; expected 0 to 43"),
    "starts that go back": (lambda file: swap(file, "starts", 5, file["starts"][7]), "expected them to go up from 0"),
    "a far start": (lambda file: swap(file, "starts", 5, 1 << 60), "expected them to go up from 0"),
    "another end": (lambda file: swap(file, "starts", -1, file["starts"][-1] - 1), "expected them to go up from 0"),
    "another beginning": (lambda file: swap(file, "starts", 0, -1), "starts from -1 to"),
    "a moved boundary": (lambda file: swap(file, "starts", 5, file["starts"][5] - 1), "places of the sentences"),
    "another length": (lambda file: swap(file, "lineBytes", 5, 1000), "places of the sentences"),
    "an empty line": (lambda file: swap(file, "lineBytes", 5, 0), "a sentence of a line without bytes"),
    "another digest": (attribute("sha256", "0" * 64), "expected 0000000000000000"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_content_is_found_when_a_store_is_opened(path, corpus, vocab_folder, name):
    spoil, message = CHANGED[name]
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(ValueError, match=message) as caught:
        TokenStore.open(path, corpus_files=corpus, spm_model=vocab_folder)
    assert "\n" not in str(caught.value) and "corpus.hdf: " in str(caught.value)


def test_zeros_with_a_digest_that_fits_are_refused(path):
    """As a store would be that was made of a stream that lost its ids."""
    with h5py.File(path, "r+") as file:
        swap(file, "inputs", slice(None), 0)
        file.attrs["sha256"] = token_store.digest_of(file["inputs"][...])
    with pytest.raises(ValueError, match="all 0; expected those of a text"):
        TokenStore.open(path)


def test_a_file_that_was_cut_off_is_refused(path):
    content = path.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="expected a token store"):
            TokenStore.open(path)


def test_a_header_that_hdf5_never_returns_from_is_refused(path, monkeypatch):
    """A heap with an object of no size: HDF5 goes from it to itself."""
    data = path.read_bytes()
    heap = data.index(b"GCOL") + 16
    path.write_bytes(data[:heap] + bytes(16) + data[heap + 16 :])
    monkeypatch.setattr(trial, "_SECONDS", 1)
    with pytest.raises(ValueError, match=r"corpus\.hdf: HDF5 does not end with it; expected a token store"):
        TokenStore.open(path)


def test_sources_are_compared_whole(vocab_folder, tmp_path):
    """A change of as many bytes is seen wherever it is, also between the places that format 1 looks at."""
    text = bytearray(b"the king\n" * 600_000)
    (tmp_path / "a.txt").write_bytes(text)
    found = [describe_sources([str(tmp_path / "a.txt")], vocab_folder, Digests(tmp_path / "memory"))]
    text[70_000] ^= 1
    (tmp_path / "a.txt").write_bytes(text)
    found.append(describe_sources([str(tmp_path / "a.txt")], vocab_folder, Digests(tmp_path / "memory")))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def as_format_1(path: Path, corpus: list[str], vocab_folder: Path) -> None:
    described = [
        {"file": file.name, "bytes": file.stat().st_size, "sha256 of samples": token_store._sampled(file)}
        for file in (vocab_folder / "spm.model", *map(Path, corpus))
    ]
    with h5py.File(path, "r+") as file:
        del file.attrs["sha256 of starts and lineBytes"]
        file.attrs.update({"format": "diffusion-lm-tokens 1", "sources": json.dumps(described)})


def test_stores_of_format_1_stay_valid_and_bound_to_their_text(path, corpus, vocab_folder):
    as_format_1(path, corpus, vocab_folder)
    assert len(build_store(corpus, vocab_folder, path)) == 300
    Path(corpus[0]).write_text(Path(corpus[0]).read_text().replace("king", "ring"))
    with pytest.raises(ValueError, match=r"made from other content than a.txt has now \(as many bytes\)"):
        build_store(corpus, vocab_folder, path)


def test_a_large_store_is_read_once(path, corpus, vocab_folder, monkeypatch):
    def again() -> int:
        """How many files were read whole by opening the store."""
        calls = []
        with monkeypatch.context() as patch:
            checked, summed = token_store.check_content, digests.sha256_of
            patch.setattr(token_store, "check_content", lambda *given: calls.append(path) or checked(*given))
            patch.setattr(Digests.of, "__defaults__", (lambda file: calls.append(file) or summed(file),))
            TokenStore.open(path, corpus_files=corpus, spm_model=vocab_folder)
        return len(calls)

    files = [path, *map(Path, corpus), vocab_folder / "spm.model"]
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr(digests, "_SETTLED", 10**18)
    assert (again(), again()) == (3, 3), "files that have just been written may change without another time"
    monkeypatch.setattr(digests, "_SETTLED", -(10**15))
    assert (again(), again()) == (3, 0)
    for file in files[:2]:
        state = file.stat()
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert (again(), again()) == (1, 0)
    with h5py.File(path, "r+") as file:
        swap(file, "inputs", 7, file["inputs"][7] ^ 1)
    os.utime(path, ns=(state.st_atime_ns, path.stat().st_mtime_ns))
    with pytest.raises(ValueError, match="ids with sha256"):
        again()
    path.with_name(".corpus.hdf.verified").write_text("[]")
    with pytest.raises(ValueError, match="ids with sha256"):
        again()


def test_one_process_at_a_time_builds_a_store(corpus, vocab_folder, tmp_path):
    out = tmp_path / "corpus.hdf"
    with lock(out), pytest.raises(ValueError, match=rf"corpus.hdf: process {os.getpid()} on .* is writing it"):
        build_store(corpus, vocab_folder, out)
    assert not out.exists() and not (tmp_path / "corpus.hdf.partial").exists()
    assert len(build_store(corpus, vocab_folder, out)) == 300


def test_a_store_that_another_process_has_just_made_is_taken(corpus, vocab_folder, tmp_path, monkeypatch):
    """Between the first look and the lock."""
    out, real, made = tmp_path / "corpus.hdf", token_store.lock, []

    def late(target):
        if not made:
            made.append(1)
            build_store(corpus, vocab_folder, out)
        return real(target)

    monkeypatch.setattr(token_store, "lock", late)
    monkeypatch.setattr(token_store, "_build", lambda *given, build=token_store._build: made.append(2) or build(*given))
    assert len(build_store(corpus, vocab_folder, out)) == 300
    assert made == [1, 2]


CHILD = """
import sys, os, signal
from returnn_bridge import token_store
def trace(frame, event, argument):
    global left
    if "returnn_bridge" not in frame.f_code.co_filename and "shutil" not in frame.f_code.co_filename:
        return None
    left -= event == "line"
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return trace
text, vocab, out, left = *sys.argv[1:4], int(sys.argv[4])
real = token_store.write_token_file
def then_count(*given, **named):
    real(*given, **named)
    sys.settrace(trace)
    sys._getframe(1).f_trace = trace
token_store.write_token_file = then_count
token_store.build_store([text], vocab, out)
"""


@pytest.mark.parametrize("lines", [1, 240, 270, 300, 330, 360])
def test_killed_while_it_clears_up_nothing_wrong_is_left(corpus, vocab_folder, path, tmp_path, lines):
    good = path.read_bytes()
    out = tmp_path / "other" / "corpus.hdf"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'recipe'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, corpus[0], str(vocab_folder), str(out), str(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    out.unlink(missing_ok=True)  # as the message about a stale store says
    assert len(build_store(corpus, vocab_folder, out)) == 300
    assert out.read_bytes() == good
    assert sorted(found.name for found in out.parent.iterdir() if not found.name.endswith(".lock")) == ["corpus.hdf"]


@pytest.mark.parametrize(
    "lost",
    ["ids", "lengths", "bytes", "half of ids", "state", "a bit of ids", "a bit of lengths", "a bit of bytes", "count"],
)
def test_streams_that_are_not_as_they_were_written_are_made_again(
    corpus, vocab_folder, path, tmp_path, monkeypatch, capsys, lost
):
    good = path.read_bytes()
    monkeypatch.setattr(token_store, "BLOCK", 100)
    out = tmp_path / "other" / "corpus.hdf"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(corpus, vocab_folder, out, progress=stop)
    partial = out.with_name("corpus.hdf.partial")
    if lost == "half of ids":
        os.truncate(partial / "ids", (partial / "ids").stat().st_size // 2)
    elif lost == "state":
        (partial / "state.json").write_text('{"sources": 1}')
    elif lost == "count":
        state = json.loads((partial / "state.json").read_text())
        (partial / "state.json").write_text(json.dumps({**state, "done": 1 << 31}))
    elif lost.startswith("a bit of "):
        stream = partial / lost.removeprefix("a bit of ")
        data = stream.read_bytes()
        stream.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    else:
        (partial / lost).unlink()
    assert len(build_store(corpus, vocab_folder, out)) == 300
    assert out.read_bytes() == good
    (line,) = capsys.readouterr().err.splitlines()
    assert "tokenising from the start" in line


def test_text_that_changes_meanwhile_is_an_error(corpus, vocab_folder, tmp_path):
    out = tmp_path / "corpus.hdf"

    def edit(_: int) -> None:
        with open(corpus[0], "a") as file:
            file.write("the king\n")

    with pytest.raises(ValueError, match="a.txt: changed while it was tokenised"):
        build_store(corpus, vocab_folder, out, progress=edit)
    assert len(build_store(corpus, vocab_folder, out)) == 301
