r"""Damage files in ways that their formats invite: trees of JSON and YAML, lines of text, bytes, members of zip files, HDF datasets.

    files, changed, how = mutate(random.Random("1/nbest_py/17"), {"input.py": b"{'u': [(-1.0, 'a')]}\n"}, donors=[])
    files["input.py"], changed, how                 # the damaged bytes, the name of what was damaged, what was done in words

`files` maps relative names to bytes; None stands for a folder where a file should be. The same generator gives the same damage.
What a file is follows from its name: .json, .jsonl, .yaml, .xml, .safetensors, .zip, .ckpt, .hdf, .gz of any; text otherwise, or bytes
where it is no UTF-8.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Mapping, Sequence

from .mutate_containers import change_checkpoint, change_gzip, change_hdf, change_safetensors, change_xml, change_zip
from .mutate_text import Mutation, change_bytes, change_text, is_text
from .mutate_trees import change_json, change_json_lines, change_yaml

Files = dict[str, bytes | None]


def mutate(
    rng: random.Random, files: Mapping[str, bytes], donors: Sequence[Mapping[str, bytes]]
) -> tuple[Files, str, str]:
    """Damage one file of a case, seldom two. donors: other cases, whose files may take the place of those here."""
    result: Files = dict(files)
    changed, said = "", []
    for _ in range(1 if rng.random() < 0.92 else 2):
        changed = rng.choice(sorted(files))
        content = result[changed]
        if content is None or rng.random() < 0.02:
            result[changed], how = _whole_file(rng, changed, files, donors)
        else:
            result[changed], how = _damaged(rng, changed, content)
        said.append(f"{changed}: {how}")
        if result[changed] is None and rng.random() < 0.5:
            del result[changed]
            return result, changed, f"{changed}: removed"
    return result, changed, "; ".join(said)


def _damaged(rng: random.Random, name: str, content: bytes) -> Mutation:
    said = []
    for _ in range(rng.choices((1, 2, 3, 5), (60, 25, 10, 5))[0]):
        content, how = change_once(rng, name, content)
        said.append(how)
    return content, ", ".join(said)


def change_once(rng: random.Random, name: str, content: bytes) -> Mutation:
    """One change by the format that the name tells, or by the bytes alone."""
    if name.endswith(".gz"):
        if rng.random() < 0.35:
            return change_gzip(rng, content)
        try:
            inner = gzip.decompress(content)
        except Exception:
            return change_bytes(rng, content)
        inner, how = change_once(rng, name.removesuffix(".gz"), inner)
        return gzip.compress(inner, 1, mtime=0), how
    special = next((change for suffix, change in _FORMATS.items() if name.endswith(suffix)), None)
    if special is not None and rng.random() < 0.75:
        try:
            return special(rng, content)
        except Exception as error:  # damaged already: no longer of its format
            return (
                change_bytes(rng, content)
                if not is_text(content)
                else change_text(rng, content, f"({type(error).__name__}) ")
            )
    if is_text(content) and rng.random() < 0.9:
        return change_text(rng, content)
    return change_bytes(rng, content)


def _whole_file(
    rng: random.Random, name: str, files: Mapping[str, bytes], donors: Sequence[Mapping[str, bytes]]
) -> tuple[bytes | None, str]:
    others = [(other, data) for other, data in files.items() if other != name]
    others += [(other, data) for case in donors for other, data in case.items()]
    if others and rng.random() < 0.6:
        other, data = rng.choice(others)
        return data, f"replaced by {other} of another place"
    return rng.choice(
        ((None, "a folder or nothing"), (b"", "empty"), (b"\n", "a line end alone"), (b"\0" * 64, "zeros"))
    )


_FORMATS: dict[str, Callable[[random.Random, bytes], Mutation]] = {
    ".json": change_json,
    ".jsonl": change_json_lines,
    ".jsonl.partial": change_json_lines,
    ".yaml": change_yaml,
    ".xml": change_xml,
    ".safetensors": change_safetensors,
    ".zip": change_zip,
    ".ckpt": change_checkpoint,
    ".hdf": change_hdf,
}
