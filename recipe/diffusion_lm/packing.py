"""Packed rows: documents one behind the other, cut into rows of one length. That is how published perplexities of diffusion models are measured.

    packed = pack(documents, Packing(1024, insert_special=False), bos_id=1, eos_id=2)
    packed.rows, packed.left_over               # what does not fill a row is left out, and counted

The first token of a row is seen and never scored, whatever it is (BOS, or the middle of a document); all others are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Packing:
    """How rows are made."""

    length: int
    """Tokens of a row, BOS and EOS counted."""
    insert_eos: bool = True
    """Put EOS behind every document."""
    insert_special: bool = True
    """Put BOS and EOS around every row."""


@dataclass(frozen=True)
class Packed:
    rows: list[list[int]]
    """Complete rows: no frame is put around them."""
    documents: int
    """Number of documents that were read."""
    left_over: int
    """Tokens behind the last whole row."""


def pack(documents: Iterable[Sequence[int]], how: Packing, *, bos_id: int, eos_id: int) -> Packed:
    """Rows of exactly `how.length` ids. ValueError if the documents do not fill one."""
    stream: list[int] = []
    count = 0
    for document in documents:
        count += 1
        stream += document
        if how.insert_eos:
            stream.append(eos_id)
    width = how.length - 2 if how.insert_special else how.length
    chunks = [stream[start : start + width] for start in range(0, len(stream) - width + 1, width)]
    if not chunks:
        raise ValueError(
            f"{count} documents of {len(stream)} tokens do not fill a packed row of {how.length}; expected more text, or data.wrap=false"
        )
    rows = [[bos_id, *chunk, eos_id] for chunk in chunks] if how.insert_special else chunks
    return Packed(rows, count, len(stream) - width * len(chunks))
