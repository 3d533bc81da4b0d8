"""Packed rows: concatenated documents, cut into rows of equal length, as in published perplexities of diffusion models.

    packed = pack(documents, Packing(1024, insert_special=False), bos_id=1, eos_id=2)
    packed.rows, packed.left_over               # tokens after the last full row are left out, and counted

The first token of a row is visible and never scored, be it BOS or the middle of a document; all others are scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Packing:
    """Settings of packing."""

    length: int
    """Tokens of a row, BOS and EOS counted."""
    insert_eos: bool = True
    """Put EOS after every document."""
    insert_special: bool = True
    """Put BOS and EOS around every row."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"packed rows of {self.length} tokens have no room for text; expected longer ones")

    @property
    def width(self) -> int:
        """Tokens of the documents in a row."""
        return self.length - 2 if self.insert_special else self.length


@dataclass(frozen=True)
class Packed:
    """The result of packing."""

    rows: list[list[int]]
    """Ids of each row; no further BOS and EOS are to be added."""
    documents: int
    """Number of documents that were read."""
    left_over: int
    """Number of tokens after the last full row."""


def pack(documents: Iterable[Sequence[int]], how: Packing, *, bos_id: int, eos_id: int) -> Packed:
    """Pack documents into rows of exactly `how.length` ids. ValueError if the documents do not fill one row."""
    stream: list[int] = []
    count = 0
    for document in documents:
        count += 1
        stream += document
        if how.insert_eos:
            stream.append(eos_id)
    width = how.width
    chunks = [stream[start : start + width] for start in range(0, len(stream) - width + 1, width)]
    if not chunks:
        raise ValueError(
            f"{count} documents of {len(stream)} tokens do not fill a packed row of {how.length}; "
            "expected more text, or data.wrap=false"
        )
    rows = [[bos_id, *chunk, eos_id] for chunk in chunks] if how.insert_special else chunks
    return Packed(rows, count, len(stream) - width * len(chunks))
