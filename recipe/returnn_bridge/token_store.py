"""A corpus tokenised once: ids in one HDF file that RETURNN's HDFDataset reads as it is and that we map into memory.

    files = ["novels.txt.gz", "transcripts.txt"]
    build_store(files, "vocab", default_store(files, "vocab"))                  # killed at any moment, the same call goes on
    store = find_store(lm_dataset_dict(files, "vocab"), "vocab")                # None without one, ValueError if it is of other content
    order = store.order(sub_epoch, lm_dataset_opts, shard=(0, 1))                # RETURNN's own, from the stored line lengths
    ids, lengths = store.gather(order[:256])

Any number of processes share its pages; none holds an index of its own. The sentences are those of RETURNN's LmDataset on the same
files, numbered as it does, with the length of each line in bytes, by which it sorts.

Layout: inputs [tokens] uint16 or int32, seqLengths [sentences, 2] int32, seqTags [sentences] and the attributes of RETURNN's format;
beside them starts [sentences + 1] int64, lineBytes [sentences] int32 and what the store was made from. All without chunks, so that
they lie in one piece each.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from returnn_bridge.datasets import check_corpus, is_xml, plain_opts
from returnn_bridge.ordering import sub_epoch_order
from returnn_bridge.vocab import Vocab, sentence_pieces_file

FORMAT = "diffusion-lm-tokens 1"
BLOCK = 20_000  # sentences that are encoded at once; what an interruption may cost
_COPY = 1 << 22  # ids that are moved at once


@dataclass(frozen=True)
class TokenStore:
    """Tokens of a corpus, memory-mapped."""

    path: Path
    ids: NDArray[Any]
    """[tokens]"""
    starts: NDArray[np.int64]
    """[sentences + 1]: sentence i is ids[starts[i]:starts[i + 1]]."""
    line_bytes: NDArray[np.int32]
    """[sentences]: what LmDataset takes for the length of a sentence."""
    num_pieces: int

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, corpus_files: Sequence[str] = (), spm_model: str | os.PathLike[str] = ""
    ) -> TokenStore:
        """Map a store; with corpus files and a SentencePiece model it has to be made from them. ValueError naming what differs."""
        import h5py

        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such token store; expected one that `dlm tokenize` wrote")
        try:
            with h5py.File(file, "r") as stored:
                if stored.attrs.get("format") != FORMAT:
                    raise ValueError("no token store")
                sources = json.loads(stored.attrs["sources"])
                places = {name: (stored[name].id.get_offset(), stored[name].shape, stored[name].dtype) for name in _OWN}
                num_pieces = int(stored.attrs["inputPattSize"])
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{file}: {error}; expected a token store that `dlm tokenize` wrote") from None
        if corpus_files and (difference := _difference(sources, describe_sources(corpus_files, spm_model))):
            command = _rebuild_command(file, corpus_files, spm_model)
            raise ValueError(
                f"{file}: made from {difference}; build it again: {command} (or train with data.store=none)"
            )
        ids, starts, line_bytes = (
            np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape) if shape[0] else np.zeros(shape, dtype)
            for offset, shape, dtype in places.values()
        )
        return cls(file, ids, starts, line_bytes, num_pieces)

    def __len__(self) -> int:
        return len(self.line_bytes)

    def order(self, sub_epoch: int, opts: Mapping[str, Any], *, shard: tuple[int, int] = (0, 1)) -> NDArray[np.int64]:
        """Numbers of the sentences of a sub-epoch in the order that the LmDataset of the dict `opts` gives them."""
        return sub_epoch_order(opts, self.line_bytes, sub_epoch=sub_epoch, shard=shard)

    def lengths(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] tokens of each sentence."""
        return self.starts[sentences + 1] - self.starts[sentences]

    def gather(self, sentences: NDArray[np.int64]) -> NDArray[np.int64]:
        """[tokens] the ids of these sentences one behind the other."""
        lengths = self.lengths(sentences)
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(self.starts[sentences] - (ends - lengths), lengths)
        return self.ids[places].astype(np.int64)

    def checksum(self) -> str:
        """sha256 of the ids; compare with the attribute `sha256` of the file."""
        return _digest_of(self.ids)


_OWN = ("inputs", "starts", "lineBytes")


def default_store(corpus_files: Sequence[str | os.PathLike[str]], vocab: str | os.PathLike[str]) -> Path:
    """Where the store of these files is unless one says otherwise: beside the SentencePiece model, named by the files' base names."""
    names = [Path(path).name for path in corpus_files]
    digest = hashlib.sha256("\n".join([str(len(names)), *names]).encode()).hexdigest()
    return sentence_pieces_file(vocab).parent / f"tokens.{digest[:8]}.hdf"


def find_store(opts: Mapping[str, Any], vocab: str | os.PathLike[str], wish: str = "") -> TokenStore | None:
    """The store to read instead of the text of a training dataset dict, or None.

    wish: "" for the one at its default place, if there is one and the dict is of a kind that a store stands for; "none"; or a path.
    FileNotFoundError if there is none at that path; ValueError for one that was made from something else.
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
    """The store at `path`, which has to be that of the LmDataset of the dict `opts`."""
    opts = plain_opts(opts)
    check_kind(opts, path)
    return TokenStore.open(path, corpus_files=_corpus_files(opts), spm_model=opts["orth_vocab"]["model_file"])


def check_kind(opts: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """ValueError for a dataset dict that no store can stand for."""
    if not _stands_for(opts):
        raise ValueError(
            f"{path}: a token store stands for an LmDataset without {', '.join(_CHOOSING)} and with skip_empty_lines;"
            " expected no store for others"
        )


_CHOOSING = ("seq_list_file", "seq_list_filter_file", "unique_seq_tags")  # they choose sentences, or name them


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
    """Tokenise text files (plain or .gz, a sentence a line) into `out`; it appears whole or not at all.

    What is done stays in `out`.partial, and the same call goes on from there. progress: called with the bytes of text per block.
    ValueError for lines that RETURNN would lose (see `check_corpus`) and for an `out` made from something else.
    """
    target = Path(out)
    files = [os.fspath(path) for path in corpus_files]
    if not files:
        raise ValueError("no corpus file given; expected at least one")
    if target.exists():
        return TokenStore.open(target, corpus_files=files, spm_model=spm_model)
    vocab = Vocab.load(sentence_pieces_file(spm_model))
    sources = describe_sources(files, spm_model)
    for path in files:
        if is_xml(path):
            raise ValueError(f"{path}: a Bliss corpus; expected text, which `dlm bliss` makes of it")
        check_corpus(path)
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2") if vocab.num_pieces <= 1 << 16 else np.dtype("<i4")
    done = _resume(partial, sources, dtype)
    with (
        open(partial / "ids", "ab") as ids,
        open(partial / "lengths", "ab") as lengths,
        open(partial / "bytes", "ab") as line_bytes,
    ):
        for block in _blocks(files, skip=done):
            encoded = vocab.encode_batch([line.decode("utf-8").strip() for line in block])
            ids.write(np.fromiter((piece for row in encoded for piece in row), dtype).tobytes())
            lengths.write(np.array([len(row) for row in encoded], "<i4").tobytes())
            line_bytes.write(np.array([len(line) for line in block], "<i4").tobytes())
            for stream in (ids, lengths, line_bytes):
                stream.flush()
                os.fsync(stream.fileno())
            done += len(block)
            _write_state(partial, sources, done, [stream.tell() for stream in (ids, lengths, line_bytes)])
            if progress is not None:
                progress(sum(map(len, block)) + len(block))
    _write_hdf(partial, target, sources, dtype, vocab.num_pieces)
    for name in ("ids", "lengths", "bytes", "state.json"):
        (partial / name).unlink()
    partial.rmdir()
    return TokenStore.open(target, corpus_files=files, spm_model=spm_model)


def describe_sources(corpus_files: Sequence[str], spm_model: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What a store depends on: name, size and a digest of the ends and of 64 places between, of every file; the model first."""
    found = []
    for path in (sentence_pieces_file(spm_model), *map(Path, corpus_files)):
        size = path.stat().st_size
        state = hashlib.sha256()
        with open(path, "rb") as file:
            for place in np.linspace(0, max(0, size - (1 << 16)), 66).astype(np.int64):
                file.seek(int(place))
                state.update(file.read(1 << 16))
        found.append({"file": path.name, "bytes": size, "sha256 of samples": state.hexdigest()})
    return found


def _difference(then: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    """What a store was made from that is not what there is now; "" if it is. A file may have got another name."""
    for number, (old, new) in enumerate(zip(then, now)):
        if {**old, "file": ""} != {**new, "file": ""}:
            sizes = f"{old['bytes']} bytes, now {new['bytes']}" if old["bytes"] != new["bytes"] else "as many bytes"
            return f"other content than {'' if number else 'the vocabulary '}{new['file']} has now ({sizes})"
    return f"{len(then) - 1} corpus files; expected {len(now) - 1}" if len(then) != len(now) else ""


def _rebuild_command(path: Path, corpus_files: Sequence[str], spm_model: str | os.PathLike[str]) -> str:
    out = [] if path == default_store(corpus_files, spm_model) else ["--out", str(path)]
    words = ["dlm", "tokenize", *corpus_files, "--vocab", os.fspath(spm_model), *out]
    return f"rm {shlex.quote(str(path))} && {shlex.join(words)}"


def _lines(path: str) -> Iterator[bytes]:
    """As LmDataset reads them: a .gz without blanks at the ends, a plain file with them; empty lines are skipped."""
    zipped = path.endswith(".gz")
    with gzip.open(path, "rb") if zipped else open(path, "rb") as file:
        for line in file:
            line = line.strip() if zipped else line.removesuffix(b"\n")
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


def _write_state(partial: Path, sources: list[dict[str, Any]], done: int, sizes: list[int]) -> None:
    temporary = partial / "state.tmp"
    temporary.write_text(json.dumps({"sources": sources, "done": done, "sizes": sizes}))
    os.replace(temporary, partial / "state.json")


def _resume(partial: Path, sources: list[dict[str, Any]], dtype: np.dtype[Any]) -> int:
    """Sentences that are done; what was written after the last whole block is cut off."""
    names = ("ids", "lengths", "bytes")
    state: dict[str, Any] = {"sources": sources, "done": 0, "sizes": [0, 0, 0]}
    if (partial / "state.json").is_file():
        state = json.loads((partial / "state.json").read_text())
    if state["sources"] != sources:
        raise ValueError(f"{partial}: an unfinished store of other files; remove it to start again with these")
    for name, size in zip(names, state["sizes"]):
        with open(partial / name, "ab") as file:
            file.truncate(size)
    return int(state["done"])


def _write_hdf(partial: Path, target: Path, sources: list[Any], dtype: np.dtype[Any], num_pieces: int) -> None:
    import h5py

    lengths = np.fromfile(partial / "lengths", "<i4")
    line_bytes = np.fromfile(partial / "bytes", "<i4")
    total = int(lengths.sum(dtype=np.int64))
    digits = len(str(len(lengths)))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with h5py.File(temporary, "w") as out:
        inputs = out.create_dataset("inputs", (total,), dtype)
        state = hashlib.sha256()
        with open(partial / "ids", "rb") as ids:
            for place in range(0, total, _COPY):
                block = np.fromfile(ids, dtype, min(_COPY, total - place))
                inputs[place : place + len(block)] = block
                state.update(block.tobytes())
        starts = np.zeros(len(lengths) + 1, "<i8")
        np.cumsum(lengths, out=starts[1:])
        out.create_dataset("starts", data=starts)
        out.create_dataset("lineBytes", data=line_bytes)
        # RETURNN counts a second stream, "classes", whether it is there or not.
        out.create_dataset("seqLengths", data=np.stack([lengths, np.zeros_like(lengths)], axis=1))
        tags = out.create_dataset("seqTags", (len(lengths),), f"S{5 + digits}")
        for place in range(0, len(lengths), _COPY):
            numbers = range(place, min(place + _COPY, len(lengths)))
            tags[place : numbers.stop] = np.array([b"line-%d" % number for number in numbers], tags.dtype)
        out.attrs.update(
            numTimesteps=total, inputPattSize=num_pieces, numDims=1, numLabels=num_pieces, numSeqs=len(lengths)
        )
        out.attrs.update(format=FORMAT, sources=json.dumps(sources), sha256=state.hexdigest())
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _digest_of(ids: NDArray[Any]) -> str:
    state = hashlib.sha256()
    for place in range(0, len(ids), _COPY):
        state.update(np.ascontiguousarray(ids[place : place + _COPY]).tobytes())
    return state.hexdigest()
