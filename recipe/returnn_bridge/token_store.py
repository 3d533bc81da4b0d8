"""Token stores: a corpus tokenised once into an HDF file that is memory-mapped, and that RETURNN's HDFDataset can read.

    files = ["novels.txt.gz", "transcripts.txt"]
    build_store(files, "vocab", default_store(files, "vocab"))          # after an interruption the same call continues
    store = find_store(lm_dataset_dict(files, "vocab"), "vocab")        # None without one, ValueError for other content
    order = store.order(sub_epoch, lm_dataset_opts, shard=(0, 1))       # RETURNN's order, from the stored line lengths
    ids, lengths = store.gather(order[:256]), store.lengths(order[:256])

All processes of a machine share the memory pages of a store. Its sentences and their numbers are those of RETURNN's
LmDataset on the same files; the length of each line in bytes, by which LmDataset sorts, is stored too. The layout is in
token_file.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from returnn_bridge.datasets import check_corpus, is_xml, plain_opts
from returnn_bridge.digests import Digests
from returnn_bridge.files import (
    iterate_raw_lines,
    lock,
    naming,
    quoted,
    read_json_object,
    sweep,
    temporary_path,
    write_text,
)
from returnn_bridge.ordering import sub_epoch_order
from returnn_bridge.token_file import BLOCK as MOVED
from returnn_bridge.token_file import SAMPLED, are_sources, check_content, digest_of, read_layout, write_token_file
from returnn_bridge.vocab import Vocab, sentence_pieces_file

BLOCK = 20_000  # sentences that are encoded at once; an interruption loses at most one block
_STREAMS = ("ids", "lengths", "bytes")


@dataclass(frozen=True)
class TokenStore:
    """The memory-mapped tokens of a corpus."""

    path: Path
    ids: NDArray[Any]
    """[tokens]"""
    starts: NDArray[np.int64]
    """[sentences + 1]; sentence i is ids[starts[i]:starts[i + 1]]."""
    line_bytes: NDArray[np.int32]
    """[sentences], the length of each line in bytes, by which LmDataset sorts."""
    num_pieces: int

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, corpus_files: Sequence[str] = (), spm_model: str | os.PathLike[str] = ""
    ) -> TokenStore:
        """Map a store. If corpus files and a SentencePiece model are given, check that it was built from them.

        ValueError that names the difference. All arrays are read once, to check the starts, the range and the sha256 of
        the ids. For stores and corpus files of 256 MB or more the result is cached in `.NAME.verified` (see
        digests.py), so that later starts check sizes and times only.
        """
        file = Path(path)
        if not os.path.isfile(file):  # unlike Path.is_file also for a name that no file system could hold
            raise FileNotFoundError(
                f"{quoted(os.fspath(file))}: no such token store; expected one that `dlm tokenize` wrote"
            )
        layout = read_layout(file)
        digests = _digests(file)
        if corpus_files and (difference := _difference(layout.sources, corpus_files, spm_model, digests)):
            command = _rebuild_command(file, corpus_files, spm_model)
            raise ValueError(
                f"{file}: made from {difference}; build it again: {command} (or train with data.store=none)"
            )
        arrays = layout.map(file)
        digests.of(file, lambda _: check_content(file, layout, *arrays))
        return cls(file, *arrays, layout.num_pieces)

    def __len__(self) -> int:
        return len(self.line_bytes)

    def order(self, sub_epoch: int, opts: Mapping[str, Any], *, shard: tuple[int, int] = (0, 1)) -> NDArray[np.int64]:
        """Sentence indices [n] of a sub-epoch in the order of the LmDataset dict `opts`."""
        return sub_epoch_order(opts, self.line_bytes, sub_epoch=sub_epoch, shard=shard)

    def lengths(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the number of tokens of each sentence."""
        return self.starts[sentences + 1] - self.starts[sentences]

    def gather(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """[tokens] the concatenated ids of these sentences."""
        lengths = self.lengths(sentences)
        ends = np.cumsum(lengths)
        offsets = np.repeat(self.starts[sentences] - (ends - lengths), lengths)
        return self.ids[np.arange(ends[-1] if len(ends) else 0) + offsets].astype(np.int64)

    def checksum(self) -> str:
        """The sha256 of the ids, which should equal the attribute `sha256` of the file."""
        return digest_of(self.ids)


def default_store(corpus_files: Sequence[str | os.PathLike[str]], vocab: str | os.PathLike[str]) -> Path:
    """The default path of the store of these files.

    It is beside the SentencePiece model; its name contains a digest of the base names of the files.
    """
    names = [Path(path).name for path in corpus_files]
    digest = hashlib.sha256("\n".join([str(len(names)), *names]).encode()).hexdigest()
    return sentence_pieces_file(vocab).parent / f"tokens.{digest[:8]}.hdf"


def find_store(opts: Mapping[str, Any], vocab: str | os.PathLike[str], wish: str = "") -> TokenStore | None:
    """The store to read instead of the text of a training dataset dict, or None.

    wish: a path; "none" for no store; "" for the store at the default path, if it exists and can replace the dataset.
    FileNotFoundError for a missing path, ValueError for a store that was built from other files.
    """
    if wish == "none":
        return None
    if wish:
        return store_of(opts, wish)
    opts = plain_opts(opts)
    if not _stands_for(opts):
        return None
    path = default_store(_corpus_files(opts), vocab)
    return store_of(opts, path) if path.exists() else None


def store_of(opts: Mapping[str, Any], path: str | os.PathLike[str]) -> TokenStore:
    """The store at `path`. ValueError unless it was built from the files of the LmDataset dict `opts`."""
    opts = plain_opts(opts)
    check_kind(opts, path)
    return TokenStore.open(path, corpus_files=_corpus_files(opts), spm_model=opts["orth_vocab"]["model_file"])


def check_kind(opts: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """ValueError for a dataset dict that a token store cannot replace."""
    if not _stands_for(opts):
        raise ValueError(
            f"{path}: a token store stands for an LmDataset without {', '.join(_CHOOSING)} and with skip_empty_lines;"
            " expected no store for others"
        )


_CHOOSING = ("seq_list_file", "seq_list_filter_file", "unique_seq_tags")  # select sentences or need their tags


def _stands_for(opts: Mapping[str, Any]) -> bool:
    plain = opts["class"] == "LmDataset" and not any(opts.get(name) for name in _CHOOSING)
    return plain and bool(opts.get("skip_empty_lines", True))


def _corpus_files(opts: Mapping[str, Any]) -> list[str]:
    files = opts["corpus_file"]
    return [files] if isinstance(files, str) else list(files)


def build_store(
    corpus_files: Sequence[str | os.PathLike[str]],
    spm_model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Any = None,
) -> TokenStore:
    """Tokenise text files (plain or .gz, one sentence per line) into `out`, which is written atomically.

    Finished blocks are kept in `out`.partial, from which the same call continues after an interruption.
    progress: called with the number of bytes of text after each block.
    ValueError for lines that RETURNN would lose (see `check_corpus`), for an existing `out` of other files, if another
    process is building it, and for text that changes meanwhile.
    """
    target = Path(out)
    files = [os.fspath(path) for path in corpus_files]
    if not files:
        raise ValueError("no corpus file given; expected at least one")
    partial = target.with_name(target.name + ".partial")
    sweep(target)
    sweep(partial)
    if target.exists() and not partial.exists():  # works without write permission
        return TokenStore.open(target, corpus_files=files, spm_model=spm_model)
    with lock(target):
        if not target.exists():
            with naming(target):
                _build(files, spm_model, target, partial, progress)
        store = TokenStore.open(target, corpus_files=files, spm_model=spm_model)
        _remove(partial)
    return store


def _build(
    files: list[str], spm_model: str | os.PathLike[str], target: Path, partial: Path, progress: Any = None
) -> None:
    vocab_file = sentence_pieces_file(spm_model)
    before = _states([vocab_file, *files])
    vocab = Vocab.load(vocab_file)
    for path in files:
        if is_xml(path):
            raise ValueError(f"{path}: a Bliss corpus; expected text, which `dlm bliss` makes of it")
        check_corpus(path)
    sources = describe_sources(files, spm_model, _digests(target))
    partial.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2") if vocab.num_pieces <= 1 << 16 else np.dtype("<i4")
    done, running = _resume(partial, files, spm_model, dtype, _digests(target))
    with (
        open(partial / "ids", "ab") as ids,
        open(partial / "lengths", "ab") as lengths,
        open(partial / "bytes", "ab") as line_bytes,
    ):
        streams = (ids, lengths, line_bytes)
        for block in _blocks(files, skip=done):
            encoded = vocab.encode_batch([line.decode("utf-8").strip() for line in block])
            arrays = (
                np.fromiter((piece for row in encoded for piece in row), dtype),
                np.array([len(row) for row in encoded], "<i4"),
                np.array([len(line) for line in block], "<i4"),
            )
            for stream, digest, array in zip(streams, running, arrays):
                stream.write(array.tobytes())
                digest.update(array.tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            done += len(block)
            state = {
                "sources": sources,
                "done": done,
                "sizes": [stream.tell() for stream in streams],
                "sha256": [digest.hexdigest() for digest in running],
            }
            write_text(partial / "state.json", json.dumps(state))
            if progress is not None:
                progress(sum(map(len, block)) + len(block))
    if changed := [name for name, state in _states([vocab_file, *files]).items() if before[name] != state]:
        _remove(partial)
        raise ValueError(f"{changed[0]}: changed while it was tokenised; expected it to stay as it is, start again")
    write_token_file(
        target,
        dtype,
        _stored_ids(partial / "ids", dtype),
        np.fromfile(partial / "lengths", "<i4"),
        np.fromfile(partial / "bytes", "<i4"),
        num_pieces=vocab.num_pieces,
        sources=json.dumps(sources),
    )


def describe_sources(
    corpus_files: Sequence[str], spm_model: str | os.PathLike[str], digests: Digests
) -> list[dict[str, Any]]:
    """Name, size and sha256 of every source file of a store, the vocabulary first."""
    return [
        {"file": path.name, "bytes": path.stat().st_size, "sha256": digests.of(path)}
        for path in (sentence_pieces_file(spm_model), *map(Path, corpus_files))
    ]


def _difference(
    then: list[dict[str, Any]], corpus_files: Sequence[str], spm_model: str | os.PathLike[str], digests: Digests
) -> str:
    """The first difference between recorded sources and current files, or "". Names of files may differ."""
    paths = [sentence_pieces_file(spm_model), *map(Path, corpus_files)]
    for number, (old, path) in enumerate(zip(then, paths)):
        size = path.stat().st_size
        if old["bytes"] != size:
            how = f"{old['bytes']} bytes, now {size}"
        elif (_sampled(path) != old[SAMPLED]) if SAMPLED in old else (digests.of(path) != old["sha256"]):
            how = "as many bytes"
        else:
            continue
        return f"other content than {'' if number else 'the vocabulary '}{path.name} has now ({how})"
    return f"{len(then) - 1} corpus files; expected {len(paths) - 1}" if len(then) != len(paths) else ""


def _sampled(path: Path) -> str:
    """The digest of a file in stores of format 1, which covers its ends and 64 pieces in between."""
    size = path.stat().st_size
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for offset in np.linspace(0, max(0, size - (1 << 16)), 66).astype(np.int64):
            file.seek(int(offset))
            state.update(file.read(1 << 16))
    return state.hexdigest()


def _digests(store: Path) -> Digests:
    return Digests(store.with_name(f".{store.name}.verified"))


def _states(paths: Sequence[str | os.PathLike[str]]) -> dict[str, tuple[int, int, int]]:
    states = {os.fspath(path): os.stat(path) for path in paths}
    return {name: (state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states.items()}


def _rebuild_command(path: Path, corpus_files: Sequence[str], spm_model: str | os.PathLike[str]) -> str:
    out = [] if path == default_store(corpus_files, spm_model) else ["--out", str(path)]
    words = ["dlm", "tokenize", *corpus_files, "--vocab", os.fspath(spm_model), *out]
    return f"rm {shlex.quote(str(path))} && {shlex.join(words)}"


def _lines(path: str) -> Iterator[bytes]:
    """Non-empty lines as LmDataset reads them: stripped in a .gz, with outer blanks in a plain file."""
    zipped = path.endswith(".gz")
    for _, raw in iterate_raw_lines(path):
        line = raw.strip() if zipped else raw.removesuffix(b"\n")
        if line:
            yield line


def _blocks(files: Sequence[str], skip: int) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for number, line in enumerate(line for path in files for line in _lines(path)):
        if number < skip:
            continue
        block.append(line)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _resume(
    partial: Path, files: Sequence[str], spm_model: str | os.PathLike[str], dtype: np.dtype[Any], digests: Digests
) -> tuple[int, list[Any]]:
    """The number of sentences that are done, and the sha256 objects of the three streams so far.

    Data after the last complete block is cut off; inconsistent streams are discarded with a warning.
    """
    state_file = partial / "state.json"
    done, sizes, running = 0, [0, 0, 0], [hashlib.sha256() for _ in _STREAMS]
    if state_file.is_file():
        try:
            state = read_json_object(state_file)
            other = are_sources(state["sources"]) and _difference(state["sources"], files, spm_model, digests)
            if not other:
                done, sizes, running = _checked_state(partial, state, dtype)
        except (OSError, KeyError, ValueError) as error:
            print(f"warning: {partial}: not what was left there ({error}); tokenising from the start", file=sys.stderr)
            state_file.unlink()  # before the streams are truncated, so that it never describes missing data
        else:
            if other:
                raise ValueError(f"{partial}: an unfinished store of other files; remove it to start again with these")
    for name, size in zip(_STREAMS, sizes):
        with open(partial / name, "ab") as file:
            file.truncate(size)
    return done, running


def _checked_state(partial: Path, state: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[int, list[int], list[Any]]:
    """(sentences, bytes of each stream, sha256 objects of these bytes) of a saved state.

    ValueError for an invalid state, and for streams that are shorter or other than when it was saved.
    """
    done, sizes, digests = state["done"], state["sizes"], state["sha256"]
    if not are_sources(state["sources"]):
        raise ValueError("sources that are none")
    numbers = [done, *sizes] if isinstance(sizes, list) and len(sizes) == len(_STREAMS) else []
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{done!r} sentences in streams of {sizes!r} bytes")
    if sizes[0] % dtype.itemsize or sizes[1:] != [4 * done, 4 * done]:
        raise ValueError(f"streams of {sizes} bytes for {done} sentences")
    running = [_digest_of_start(partial / name, size) for name, size in zip(_STREAMS, sizes)]
    if digests != [digest.hexdigest() for digest in running]:
        raise ValueError("streams with other bytes than were written")
    return done, sizes, running


def _digest_of_start(path: Path, size: int) -> Any:
    """The sha256 object of the first bytes of a file. ValueError if it has fewer."""
    digest, left = hashlib.sha256(), size
    with open(path, "rb") as file:
        while left and (data := file.read(min(left, MOVED))):
            digest.update(data)
            left -= len(data)
    if left:
        raise ValueError(f"stream {path.name!r} of {size - left} bytes, expected {size}")
    return digest


def _stored_ids(path: Path, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    with open(path, "rb") as file:
        while len(block := np.fromfile(file, dtype, MOVED)):
            yield block


def _remove(partial: Path) -> None:
    """Rename the folder before deleting it, because a partly deleted one would look like an unfinished store."""
    if partial.exists():
        renamed = temporary_path(partial)
        os.replace(partial, renamed)
        shutil.rmtree(renamed)
