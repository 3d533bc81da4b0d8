"""A small n-gram model as ARPA and as KenLM's binary file, which its Python module can read and not write.

arpa(order=3); kenlm_binary(order=3)                # the same probabilities
"""

from __future__ import annotations

import struct

GRAMS: dict[tuple[str, ...], tuple[float, float]] = {
    **{("<unk>",): (-2.0, 0.0), ("<s>",): (-99.0, -0.5), ("</s>",): (-1.0, 0.0), ("the",): (-0.5, -0.25)},
    **{("king",): (-0.75, -0.125), ("said",): (-1.25, -0.5), ("old",): (-1.5, 0.0)},
    **{("<s>", "the"): (-0.25, -0.125), ("the", "king"): (-0.5, -0.25), ("king", "said"): (-0.5, 0.0)},
    **{("said", "</s>"): (-0.125, 0.0), ("the", "old"): (-0.75, 0.0)},
    **{("<s>", "the", "king"): (-0.25, 0.0), ("the", "king", "said"): (-0.125, 0.0)},
}


def arpa(order: int) -> str:
    counts = [sum(len(gram) == size for gram in GRAMS) for size in range(1, order + 1)]
    lines = ["\\data\\", *(f"ngram {size}={count}" for size, count in enumerate(counts, 1)), ""]
    for size in range(1, order + 1):
        lines.append(f"\\{size}-grams:")
        for gram, (log_prob, backoff) in GRAMS.items():
            if len(gram) == size:
                lines.append(f"{log_prob}\t{' '.join(gram)}" + (f"\t{backoff}" if size < order else ""))
        lines.append("")
    return "\n".join([*lines, "\\end\\", ""])


def kenlm_binary(order: int) -> bytes:
    """KenLM's file of a model with hash tables ("probing"), format version 5; its Python module can read it and write none."""
    magic = b"mmap lm http://kheafield.com/code format version 5\n\0".ljust(56, b"\0")
    sanity = magic + struct.pack("<fff", 0.0, 1.0, -0.5) + struct.pack("<III", 1, 0xFFFFFFFF, 0) + struct.pack("<Q", 1)
    multiplier = 1.5
    grams = [{gram: value for gram, value in GRAMS.items() if len(gram) == size} for size in range(1, order + 1)]
    counts = [len(found) for found in grams]
    fixed = struct.pack("<B3xfiB3xI", order, multiplier, 0, 1, 0)
    header = sanity + fixed + struct.pack(f"<{order}Q", *counts)
    header += b"\0" * (-len(header) % 8)

    def table(entries: dict[int, bytes], count: int) -> bytes:
        """Open addressing: each entry in the first free place from key % places on."""
        empty = b"\0" * (8 + len(next(iter(entries.values()))))
        places = [empty] * max(count + 1, int(multiplier * count))
        for key, payload in entries.items():
            place = key % len(places)
            while places[place] != empty:
                place = (place + 1) % len(places)
            places[place] = struct.pack("<Q", key) + payload
        return b"".join(places)

    def value(gram: tuple[str, ...]) -> tuple[float, float]:
        """Without its sign where a longer n-gram ends in this one: that is how KenLM knows to look for it."""
        log_prob, backoff = GRAMS[gram]
        longer = any(other[1:] == gram for found in grams[len(gram) :] for other in found)
        return abs(log_prob) if longer else log_prob, backoff

    # <unk> has the id 0 and no place in the table, which is made for as many as there are with it.
    words = [gram[0] for gram in grams[0]]
    ids = {word: number for number, word in enumerate(words)}
    known = {murmur(word.encode()): struct.pack("<I", ids[word]) for word in words[1:]}
    vocabulary = struct.pack("<II", 0, len(words)) + table(known, len(words))
    vocabulary += b"\0" * (-len(vocabulary) % 8)
    search = b"".join(struct.pack("<ff", *value(gram)) for gram in grams[0]) + b"\0" * 8
    for size in range(2, order + 1):
        entries = {}
        for gram in grams[size - 1]:
            key = ids[gram[-1]]
            for word in reversed(gram[:-1]):
                key = ((key * 8978948897894561157) ^ ((1 + ids[word]) * 17894857484156487943)) & (1 << 64) - 1
            entries[key] = struct.pack("<f", value(gram)[0]) if size == order else struct.pack("<ff", *value(gram))
        search += table(entries, len(entries))
    return header + vocabulary + search + b"".join(word.encode() + b"\0" for word in words)


def murmur(data: bytes, seed: int = 0) -> int:
    """MurmurHash64A."""
    mask, m = (1 << 64) - 1, 0xC6A4A7935BD1E995
    value = (seed ^ (len(data) * m)) & mask
    whole = len(data) // 8 * 8
    for place in range(0, whole, 8):
        k = (int.from_bytes(data[place : place + 8], "little") * m) & mask
        k = ((k ^ (k >> 47)) * m) & mask
        value = ((value ^ k) * m) & mask
    if len(data) > whole:
        value = ((value ^ int.from_bytes(data[whole:], "little")) * m) & mask
    value = ((value ^ (value >> 47)) * m) & mask
    return value ^ (value >> 47)
