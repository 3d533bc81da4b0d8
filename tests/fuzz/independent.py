"""Readers that share no code with the product: what a file says by Python's own parser, the json and XML modules, numpy or h5py.

lists_of_py(path, world)                    # an exception where the file is none
"""

from __future__ import annotations

import ast
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

SENTENCES = ["the king said", "", "the old king", "a queen said the king", "king"]


def lists_of_py(path: Path, world: Path) -> list[Any]:
    return [
        [tag, None, [[text, {"am": float(score)}, {}] for score, text in checked_pairs(entries)]]
        for tag, entries in python_dict(path).items()
    ]


def checked_pairs(entries: Any) -> list[tuple[float, str]]:
    if not isinstance(entries, list) or not entries:
        raise ValueError("no list")
    for entry in entries:
        score, text = entry
        if not isinstance(entry, tuple) or isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError("no (score, text)")
        if not isinstance(text, str) or not (math.isfinite(score) or score == -math.inf):
            raise ValueError("no (score, text)")
    return entries


def python_dict(path: Path) -> dict[str, Any]:
    """A Python literal by Python's own parser, with the names nan and inf."""
    tree = ast.parse(f"(\n{text_of(path)}\n)", mode="eval").body  # in brackets, where indentation means nothing
    if not isinstance(tree, ast.Dict):
        raise ValueError("no dict")
    keys = [literal(key) for key in tree.keys]
    if len(set(keys)) < len(keys) or not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys")
    return dict(zip(keys, map(literal, tree.values), strict=True))


def literal(node: Any) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = literal(node.operand)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("sign")
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Name) and node.id in ("nan", "inf"):
        return float(node.id)
    if isinstance(node, ast.Tuple):
        return tuple(map(literal, node.elts))
    if isinstance(node, ast.List):
        return [literal(item) for item in node.elts]
    if isinstance(node, ast.Constant):
        return node.value
    raise ValueError(type(node).__name__)


def data_of(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.name.endswith(".gz") else data


def text_of(path: Path) -> str:
    return data_of(path).decode("utf-8-sig")


def json_of(text: str) -> Any:
    """JSON whose keys are different ones."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def json_lines_of(path: Path) -> list[Any]:
    lines = text_of(path).split("\n")
    return [json_of(line.removesuffix("\r")) for line in (lines if lines[-1] else lines[:-1])]


def lists_of_json_lines(path: Path, world: Path) -> list[Any]:
    found = []
    for number, data in enumerate(json_lines_of(path)):
        if number == 0 and "format" in data:
            continue
        hyps = [
            [hyp["text"], {name: log_of(value) for name, value in hyp["scores"].items()}, hyp.get("details") or {}]
            for hyp in data["hyps"]
        ]
        found.append([data["id"], data.get("ref"), hyps])
    return found


def log_of(value: Any) -> float:
    """A score of a JSON line: null stands for the logarithm of 0."""
    return -math.inf if value is None else float(value)


def lists_of_mlm(path: Path, world: Path) -> list[Any]:
    found = []
    for tag, value in json_of(text_of(path)).items():
        ranks = sorted((int(key.removeprefix("hyp_")), hyp) for key, hyp in value.items() if key != "ref")
        hyps: list[Any] = [[hyp["text"], {"am": float(hyp["score"])}, {}] for _, hyp in ranks]
        found.append([tag, value.get("ref"), hyps])
    return found


def lists_of_flat(path: Path, world: Path) -> list[Any]:
    found = []
    for tag, value in json_of(text_of(path)).items():
        hyps: list[Any] = [
            [hyp["text"], {k.removesuffix("_score"): float(v) for k, v in hyp.items() if k != "text"}, {}]
            for hyp in value["hyps"]
        ]
        found.append([tag, value.get("ref"), hyps])
    return found


def refs_of_py(path: Path, world: Path) -> list[Any]:
    found = python_dict(path)
    if not all(isinstance(text, str) for text in found.values()):
        raise ValueError("no texts")
    return [list(pair) for pair in found.items()]


def refs_of_lines(parse: Callable[[str], tuple[str, str] | None]) -> Callable[[Path, Path], list[Any]]:
    def read(path: Path, world: Path) -> list[Any]:
        lines = text_of(path).split("\n")
        found = [parse(line.removesuffix("\r")) for line in (lines if lines[-1] else lines[:-1])]
        pairs = [list(pair) for pair in found if pair is not None]
        if len({tag for tag, _ in pairs}) < len(pairs):
            raise ValueError("a tag twice")
        return pairs

    return read


def kaldi_line(line: str) -> tuple[str, str]:
    line = line.strip(" \t") if line[:1] not in " \t" else ""
    if not line:
        raise ValueError("no tag")
    place = min((found for blank in " \t" if (found := line.find(blank)) >= 0), default=len(line))
    return line[:place], line[place:].strip(" \t")


def trn_line(line: str) -> tuple[str, str] | None:
    if line.startswith(";;"):
        return None
    text, tag = line.rstrip(" \t")[:-1].rsplit("(", 1)
    return tag, text.strip(" \t")


def refs_of_json(path: Path, world: Path) -> list[Any]:
    found = json_of(text_of(path))
    return [[tag, value["ref"] if isinstance(value, dict) else value] for tag, value in found.items()]


def refs_of_json_lines(path: Path, world: Path) -> list[Any]:
    lines = json_lines_of(path)
    return [[data["id"], data["ref"]] for data in (lines[1:] if "format" in lines[0] else lines)]


def texts_of(lists: list[Any]) -> list[Any]:
    return [[tag, [hyp[0] for hyp in hyps]] for tag, _, hyps in lists]


def texts_by(reference: Callable[[Path, Path], list[Any]]) -> Callable[[Path, Path], Any]:
    return lambda path, world: texts_of(reference(path, world))


def sealed_lists(path: Path, world: Path) -> Any:
    """What the file says; and behind an untouched header, which holds number and digest of the lines, what was written."""
    first, *_ = data_of(path).split(b"\n", 1)
    own, *_ = (world / "scores.jsonl").read_bytes().split(b"\n", 1)
    return lists_of_json_lines(world / "scores.jsonl" if first == own else path, world)


def texts_of_world(path: Path, world: Path) -> Any:
    return texts_of(lists_of_json_lines(world / "lists.jsonl", world))


def scales_of(path: Path, world: Path) -> Any:
    value = json_of(text_of(path))
    return {"scores": value["scores"], "words": value.get("words", 0.0), "tokens": value.get("tokens", {})}


def table_of(path: Path, world: Path) -> Any:
    return [[row["system"], row["wer_percent"]] for row in json_of(text_of(path))["rows"]]


def weights_of(path: Path, world: Path) -> Any:
    """safetensors by hand, with numpy."""
    import numpy as np

    data = (path / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json_of(data[8 : 8 + size].decode()), data[8 + size :]
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        piece = body[start:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(piece, "<u2").astype("<u4") << 16).view("<f4")
        else:
            dtype = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "u1", "BOOL": "?"}[entry["dtype"]]
            values = np.frombuffer(piece, dtype).astype("<f4")
        assert math.prod(entry["shape"]) == len(values)
        found[name] = values.tolist()
    return found


def tokenizer_of(path: Path, world: Path) -> Any:
    if (path / "tokenizer.json").is_file():
        model = json.loads((path / "tokenizer.json").read_text("utf-8"))["model"]
        return [sorted(model["vocab"].items()), [p if isinstance(p, list) else p.split(" ") for p in model["merges"]]]
    lines = text_of(path / "merges.txt").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    lines = lines[1:] if lines[0].startswith("#version") else lines
    last = {line: place for place, line in enumerate(lines) if line}  # of a pair that comes twice the last one counts
    merges = [line.split(" ") for place, line in enumerate(lines) if last.get(line) == place]
    return [sorted(json_of(text_of(path / "vocab.json")).items()), merges]


def ngram_scores(path: Path, world: Path) -> Any:
    """ARPA with backing off, by the book."""
    known: dict[tuple[str, ...], tuple[float, float]] = {}
    order = 0
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data  # KenLM looks at the content, not at the name
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        line = line.rstrip("\r")
        if line.startswith("\\") and line.rstrip().endswith("-grams:"):
            order = int(line[1:].split("-")[0])
        elif order and line.strip() and not line.startswith("\\"):
            fields = line.replace("\t", " ").split(" ")
            fields = [field for field in fields if field]
            if len(fields) not in (order + 1, order + 2):  # KenLM takes other white space as well
                raise ValueError("fields")
            if max(abs(float(fields[0])), abs(float(fields[-1]) if len(fields) > order + 1 else 0.0)) > 1000:
                raise ValueError("numbers that float32 has fewer digits of than are compared")
            if tuple(fields[1 : order + 1]) in known:
                raise ValueError("an n-gram twice")
            backoff = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
            known[tuple(fields[1 : order + 1])] = float(fields[0]), backoff
    longest = order

    def log10(history: tuple[str, ...], word: str) -> float:
        if (*history, word) in known:
            return known[(*history, word)][0]
        if not history:
            return known.get(("<unk>",), (-100.0, 0.0))[0]
        return known.get(history, (0.0, 0.0))[1] + log10(history[1:], word)

    found = []
    for sentence in SENTENCES:
        words = ["<s>", *(word if (word,) in known else "<unk>" for word in sentence.split()), "</s>"]
        total = sum(
            log10(tuple(words[max(0, place - longest + 1) : place]), words[place]) for place in range(1, len(words))
        )
        found.append(round(total * math.log(10), 3))
    return found


def text_lines(path: Path, world: Path) -> Any:
    return [line.strip() for line in text_of(path).split("\n") if line.strip()]


def segments_of(path: Path, world: Path) -> Any:
    """The whole tree at once, from the top."""
    from xml.etree import ElementTree

    found: list[Any] = []

    def walk(element: Any, names: tuple[str, ...]) -> None:
        number = 0
        for child in element:
            if child.tag in ("corpus", "subcorpus", "recording", "segment"):
                number += child.tag == "segment"
                own = child.get("name") or (str(number) if child.tag == "segment" else "")
                if (child.tag == "segment") != (element.tag == "recording"):
                    raise ValueError(f"<{child.tag}> in <{element.tag}>")
                if child.tag == "segment":
                    text = " ".join(" ".join("".join(orth.itertext()) for orth in child.findall("orth")).split())
                    end = float(child.get("end", "inf"))
                    start = float(child.get("start", "0"))
                    found.append(["/".join((*names, own)), text, start, None if math.isinf(end) else end])
                walk(child, (*names, own))
            else:
                walk(child, names)

    top = ElementTree.Element("top")
    top.append(ElementTree.fromstring(data_of(path)))
    walk(top, ())
    return found


def utterances_of(path: Path, world: Path) -> Any:
    pairs = [line.split(maxsplit=1) for line in text_of(path).split("\n") if line.strip()]
    return [[tag, text.strip()] for tag, text in pairs]


def store_values(path: Path, world: Path) -> Any:
    """As h5py reads it."""
    import h5py
    import numpy as np

    with h5py.File(path, "r") as file:
        starts = file["starts"][...]
        ids, line_bytes = file["inputs"][...], file["lineBytes"][...]
        return [ids.tolist(), np.diff(starts).tolist(), line_bytes.tolist(), int(file.attrs["inputPattSize"])]
