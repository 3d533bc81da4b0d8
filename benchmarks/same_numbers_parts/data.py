"""Small data, cut from the demo's: text, lists, references; the shipped model, and foreign configuration trees."""

from __future__ import annotations

import ast
import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

UTTERANCES, HYPOTHESES = 12, 8


def make_data(demo: Path, folder: Path) -> str:
    """Write missing files only, so that file times stay; return a digest of all files."""
    with gzip.open(demo / "train.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line for _, line in zip(range(2000), file)]
    sentences = [line for line in lines if len(line) < 200]
    train = "".join(sentences[:300])
    dev = (demo / "dev.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:24]
    files: dict[str, bytes] = {
        "train.txt": train.encode(),
        "train.txt.gz": gzip.compress(train.encode(), mtime=0),
        "more.txt": "".join(sentences[300:360]).encode(),
        "dev.txt": "".join(dev).encode(),
        "dev.xml": _bliss([line.strip() for line in dev]).encode(),
    }
    for part in ("dev", "test"):
        lists = {name: _read(demo / f"{part}.{name}.py.gz") for name in ("nbest", "bigram", "ref")}
        tags = list(lists["nbest"])[:UTTERANCES]
        files[f"{part}.ref.py"] = repr({tag: lists["ref"][tag] for tag in tags}).encode()
        for source, name in (("nbest", "am"), ("bigram", "bigram")):
            cut = {tag: lists[source][tag][:HYPOTHESES] for tag in tags}
            # An empty hypothesis and one that is there twice.
            cut[tags[0]] = [*cut[tags[0]], (-99.5, ""), cut[tags[0]][1]]
            files[f"{part}.{name}.py"] = repr(cut).encode()
            if name == "am":
                files[f"{part}.short.py"] = repr(_texts(cut, lambda words: words[:2])).encode()
                files[f"{part}.pieces.py"] = repr(_texts(cut, lambda words: ["▁" + word for word in words])).encode()
    for tree in sorted(Path(__file__).parent.glob("*.yaml")):
        files[tree.name] = tree.read_bytes()
    for file_of_model in sorted((demo / "masked-long").iterdir()):
        files[f"masked-long/{file_of_model.name}"] = file_of_model.read_bytes()
    (folder / "masked-long").mkdir(parents=True, exist_ok=True)
    state = hashlib.sha256()
    for name, content in sorted(files.items()):
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
        state.update(name.encode() + hashlib.sha256(content).digest())
    return state.hexdigest()


def _read(path: Path) -> Any:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return ast.literal_eval(file.read())


def _texts(lists: Mapping[str, Any], change: Any) -> dict[str, Any]:
    return {tag: [(score, " ".join(change(text.split()))) for score, text in rows] for tag, rows in lists.items()}


def _bliss(texts: list[str]) -> str:
    segments = "".join(
        f'<segment name="{place}" start="{place}" end="{place + 1}"><orth>{escape(text)}</orth></segment>\n'
        for place, text in enumerate(texts)
    )
    return f'<corpus name="dev"><recording name="r" audio="none.wav">\n{segments}</recording></corpus>\n'
