"""The HDF file of a token store: its layout, atomic writing, and reading that checks everything.

    write_token_file("tokens.hdf", dtype, blocks, lengths, line_bytes, num_pieces=10240, sources=described)
    found = read_layout("tokens.hdf")                       # checks the header, reads no element
    ids, starts, line_bytes = found.map("tokens.hdf")       # memory-mapped
    check_content("tokens.hdf", found, ids, starts, line_bytes)

Layout: inputs [tokens] uint16 or int32, seqLengths [sentences, 2] int32, seqTags [sentences] and the attributes of
RETURNN's format; in addition starts [sentences + 1] int64, lineBytes [sentences] int32, the source files, and digests
of inputs, starts and lineBytes. The arrays are not chunked, so that each is contiguous in the file and can be
memory-mapped. Stores of format 1 have no digest of starts and lineBytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from returnn_bridge.files import whole_file
from returnn_bridge.trial import trial

FORMATS = ("diffusion-lm-tokens 1", "diffusion-lm-tokens 2")
BLOCK = 1 << 22  # values that are moved or checked at once
SAMPLED = "sha256 of samples"
"""Key of a source's digest in format 1, which covers both ends of the file and 64 pieces in between."""

_EXPECTED = "expected a token store that `dlm tokenize` wrote"
_TYPES = {"inputs": ("<u2", "<i4"), "starts": ("<i8",), "lineBytes": ("<i4",)}


@dataclass(frozen=True)
class Layout:
    """The header of a token store, checked for consistency and against the size of the file."""

    sources: list[dict[str, Any]]
    """The vocabulary file, then the corpus files: "file", "bytes" and a digest of each."""
    num_pieces: int
    ids_digest: str
    lines_digest: str
    """Digest of starts and lineBytes; "" in format 1."""
    places: dict[str, tuple[int, int, np.dtype[Any]]]
    """For each array its offset in bytes, number of values and type."""

    def map(self, path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """ids, starts and lineBytes, memory-mapped."""
        ids, starts, line_bytes = (
            np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(size,)) if size else np.zeros(0, dtype)
            for offset, size, dtype in self.places.values()
        )
        return ids, starts, line_bytes


def read_layout(path: Path) -> Layout:
    """The header of a store.

    ValueError for another or a truncated file, and for arrays that are not contiguous plain numbers. HDF5 goes round in
    circles in some damaged files, so it reads the header in another process first.
    """
    import h5py

    def read() -> Layout:
        with h5py.File(path, "r") as stored:
            return _layout(stored, path)

    if how := trial(read):
        raise ValueError(f"{path}: HDF5 {how}; {_EXPECTED}")
    try:
        return read()
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
        raise ValueError(f"{path}: {reason}; {_EXPECTED}") from None


def check_content(path: Path, layout: Layout, ids: NDArray[Any], starts: NDArray[Any], line_bytes: NDArray[Any]) -> str:
    """Read the arrays once and return the sha256 of the ids. ValueError if they differ from what was written."""
    problem = ""
    if starts[0] != 0 or starts[-1] != len(ids) or not _ascends(starts):
        problem = f"starts from {starts[0]} to {starts[-1]}; expected them to go up from 0 to {len(ids)}, the tokens"
    elif len(line_bytes) and min(int(part.min()) for part in _parts(line_bytes)) < 1:
        problem = "a sentence of a line without bytes; expected only lines with text"
    if problem:
        raise ValueError(f"{path}: {problem}; build it again with `dlm tokenize`")
    state, lowest, highest = hashlib.sha256(), 0, 0
    for part in _parts(ids):
        state.update(part.tobytes())
        lowest, highest = min(lowest, int(part.min())), max(highest, int(part.max()))
    if lowest < 0 or highest >= layout.num_pieces:
        problem = f"ids from {lowest} to {highest}; expected 0 to {layout.num_pieces - 1}"
    elif len(ids) and not highest:
        problem = f"{len(ids)} ids that are all 0; expected those of a text"
    elif state.hexdigest() != layout.ids_digest:
        problem = f"ids with sha256 {state.hexdigest()[:16]}...; expected {layout.ids_digest[:16]}..."
    elif layout.lines_digest and digest_of(starts, line_bytes) != layout.lines_digest:
        problem = "places of the sentences that are not those written"
    if problem:
        raise ValueError(f"{path}: {problem}; build it again with `dlm tokenize`")
    return state.hexdigest()


def are_sources(tree: Any) -> bool:
    """Whether `tree` is a list of source files as in `Layout.sources`."""
    return isinstance(tree, list) and bool(tree) and all(isinstance(item, dict) and _is_source(item) for item in tree)


def digest_of(*arrays: NDArray[Any]) -> str:
    """The sha256 of the concatenated bytes of arrays."""
    state = hashlib.sha256()
    for array in arrays:
        for part in _parts(array):
            state.update(part.tobytes())
    return state.hexdigest()


def write_token_file(
    target: Path,
    dtype: np.dtype[Any],
    blocks: Iterable[NDArray[Any]],
    lengths: NDArray[np.int32],
    line_bytes: NDArray[np.int32],
    *,
    num_pieces: int,
    sources: str,
) -> None:
    """Write a store atomically. blocks: consecutive parts of the ids, sum(lengths) in total."""
    import h5py

    total = int(lengths.sum(dtype=np.int64))
    digits = len(str(len(lengths)))
    starts = np.zeros(len(lengths) + 1, "<i8")
    np.cumsum(lengths, out=starts[1:])
    with whole_file(target) as temporary, h5py.File(temporary, "w") as out:
        inputs = out.create_dataset("inputs", (total,), dtype)
        state, written = hashlib.sha256(), 0
        for block in blocks:
            inputs[written : written + len(block)] = block
            state.update(block.tobytes())
            written += len(block)
        assert written == total, f"{written} ids for sentences of {total}"
        out.create_dataset("starts", data=starts)
        out.create_dataset("lineBytes", data=line_bytes)
        # The second column is for RETURNN's stream "classes", which it expects even if there is none.
        out.create_dataset("seqLengths", data=np.stack([lengths, np.zeros_like(lengths)], axis=1))
        tags = out.create_dataset("seqTags", (len(lengths),), f"S{5 + digits}")
        for start in range(0, len(lengths), BLOCK):
            numbers = range(start, min(start + BLOCK, len(lengths)))
            tags[start : numbers.stop] = np.array([b"line-%d" % number for number in numbers], tags.dtype)
        out.attrs.update(
            numTimesteps=total, inputPattSize=num_pieces, numDims=1, numLabels=num_pieces, numSeqs=len(lengths)
        )
        lines = digest_of(starts, line_bytes)
        out.attrs.update({"format": FORMATS[-1], "sources": sources, "sha256": state.hexdigest(), LINES: lines})


LINES = "sha256 of starts and lineBytes"


def _layout(stored: Any, path: Path) -> Layout:
    form = _text(stored, "format")
    if form not in FORMATS:
        raise ValueError(f"format {form!r}")
    places = {name: _place(stored, name, types, path.stat().st_size) for name, types in _TYPES.items()}
    tokens, sentences = (places[name][1] for name in ("inputs", "lineBytes"))
    announced = {name: _number(stored, name) for name in ("numTimesteps", "numSeqs", "inputPattSize")}
    counts = (announced["numTimesteps"], announced["numSeqs"], places["starts"][1])
    if counts != (tokens, sentences, sentences + 1):
        raise ValueError(
            f"{tokens} ids of {sentences} sentences, but {counts[0]} tokens, {counts[1]} sentences"
            f" and {counts[2]} starts are announced"
        )
    if announced["inputPattSize"] < 1:
        raise ValueError(f"{announced['inputPattSize']} pieces")
    lines_digest = _text(stored, LINES) if form == FORMATS[1] else ""
    sources = json.loads(_text(stored, "sources"))
    if not are_sources(sources):
        raise ValueError("attribute 'sources' is no list of files")
    return Layout(sources, announced["inputPattSize"], _text(stored, "sha256"), lines_digest, places)


def _is_source(item: dict[str, Any]) -> bool:
    texts = ("file", SAMPLED if SAMPLED in item else "sha256")
    return type(item.get("bytes")) is int and all(isinstance(item.get(key), str) for key in texts)


def _place(stored: Any, name: str, types: tuple[str, ...], file_size: int) -> tuple[int, int, np.dtype[Any]]:
    """(offset in bytes, number of values, type) of an array, from its header only.

    The elements are not read through h5py, because numpy would follow object pointers that a file contains.
    """
    from h5py import h5d, h5l, h5o, h5s, h5t

    key = name.encode()
    if not stored.id.links.exists(key):
        raise ValueError(f"no array {name!r}")
    if stored.id.links.get_info(key).type != h5l.TYPE_HARD:
        raise ValueError(f"array {name!r} is a link to another place")
    data = h5o.open(stored.id, key)
    if not isinstance(data, h5d.DatasetID):
        raise ValueError(f"{name!r} is no array")
    kinds = {"<u2": h5t.STD_U16LE, "<i4": h5t.STD_I32LE, "<i8": h5t.STD_I64LE}
    found = [kind for kind in types if data.get_type().equal(kinds[kind])]
    if not found:
        raise ValueError(f"array {name!r} does not hold {' or '.join(np.dtype(kind).name for kind in types)}")
    space, made = data.get_space(), data.get_create_plist()
    if space.get_simple_extent_type() != h5s.SIMPLE or space.get_simple_extent_ndims() != 1:
        raise ValueError(f"array {name!r} has not one dimension")
    if made.get_layout() != h5d.CONTIGUOUS or made.get_external_count() or made.get_nfilters():
        raise ValueError(f"array {name!r} does not lie in one piece of this file")
    dtype, (size,) = np.dtype(found[0]), space.get_simple_extent_dims()
    if not size:
        return 0, 0, dtype
    offset = data.get_offset()
    if stored.userblock_size or offset is None or not 0 < offset <= file_size - size * dtype.itemsize:
        raise ValueError(f"array {name!r} is not within the file")
    return int(offset), int(size), dtype


def _attribute(stored: Any, name: str, kind: str) -> Any:
    from h5py import h5a, h5s, h5t

    if not h5a.exists(stored.id, name.encode()):
        raise ValueError(f"no attribute {name!r}")
    found = h5a.open(stored.id, name.encode())
    classes = {"text": h5t.STRING, "number": h5t.INTEGER}
    if found.get_type().get_class() != classes[kind] or found.get_space().get_simple_extent_type() != h5s.SCALAR:
        raise ValueError(f"attribute {name!r} is no {kind}")
    return stored.attrs[name]


def _text(stored: Any, name: str) -> str:
    value = _attribute(stored, name, "text")
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _number(stored: Any, name: str) -> int:
    return int(_attribute(stored, name, "number"))


def _parts(array: NDArray[Any]) -> Iterable[NDArray[Any]]:
    plain = np.asarray(array)  # slices of a memory map would be slow
    return (plain[start : start + BLOCK] for start in range(0, len(plain), BLOCK))


def _ascends(starts: NDArray[Any]) -> bool:
    plain = np.asarray(starts)
    return all(
        bool((plain[first + 1 : first + BLOCK + 1] >= plain[first : first + BLOCK][: len(plain) - first - 1]).all())
        for first in range(0, len(plain) - 1, BLOCK)
    )
