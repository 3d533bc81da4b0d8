"""Valid inputs of every kind, small, most of them written by the product's own writers.

    seeds = seeds_of("nbest_py", World(Path("world")))
    seeds[0].files, seeds[0].main                   # {"input.py": b"..."}, "input.py"; main "" stands for the folder

Here those of lists, references and scores; generate_models.py has configurations, models, n-grams and training data.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json

from .readers import Stopped, count_characters, product
from .world import MAKERS, Seed, World, folder_files, maker, single, untimed


def seeds_of(kind: str, world: World) -> list[Seed]:
    """All seeds of a kind, always the same ones."""
    from . import generate_models  # noqa: F401  # it registers its makers

    with contextlib.redirect_stdout(io.StringIO()):
        return MAKERS[kind](world)


@maker("nbest_py", "score_py")
def _nbest_py(world: World) -> list[Seed]:
    path = world.folder / "seed.py"
    product("write_nbest")(path, world.lists[:6], score="am")
    by_hand = (
        "# a comment\n{'u1': [(-1.5, 'a' ' b'), (+2, \"it's\"),], \"u2\": [\n (nan if False else 0, r'x')]}"
    ).replace("nan if False else 0", "-.5e1")
    escapes = "{'u\\x31': [(-1_0.5, 'a\\\nb\\t\\u00e9'), (1e-3 , '''it's\n''')],\f}\n"
    return single("input.py", path.read_bytes(), by_hand, escapes)


@maker("nbest_jsonl", "score_jsonl")
def _nbest_jsonl(world: World) -> list[Seed]:
    path = world.folder / "seed.jsonl"
    product("write_nbest")(path, world.lists[:5], metadata={"seed": 1, "note": "é"})
    plain = (
        '{"id": "u1", "hyps": [{"text": "a b", "scores": {"am": -3}}]}\r\n'
        '{"id": "u2", "ref": null, "hyps": [{"text": "", "scores": {"am": 1e-5}}]}'
    )
    return single("input.jsonl", path.read_bytes(), plain, _unsealed(path.read_bytes()))


def _unsealed(data: bytes) -> bytes:
    """A header without number and digest of the lines, as other programs would write it: what stands behind is looked at in earnest."""
    first, rest = data.split(b"\n", 1)
    header = {key: value for key, value in json.loads(first).items() if key not in ("utterances", "sha256")}
    return json.dumps(header).encode() + b"\n" + rest


@maker("nbest_mlm")
def _nbest_mlm(world: World) -> list[Seed]:
    path = world.folder / "seed.json"
    product("write_nbest")(path, world.lists[:6], score="am")
    return single(
        "input.json",
        path.read_bytes(),
        '{"u": {"hyp_2": {"score": 1, "text": "b"}, "hyp_1": {"score": 2.5, "text": "a"}}}',
    )


@maker("nbest_flat")
def _nbest_flat(world: World) -> list[Seed]:
    tree = {
        f"u{number}": {
            "ref": "a b",
            "hyps": [{"text": f"a {rank}", "am_score": -3.4, "lm_score": -9, "x": rank} for rank in range(2)],
        }
        for number in range(3)
    }
    return single("input.json", json.dumps(tree), json.dumps({"u": {"hyps": [{"text": "é"}]}}, ensure_ascii=False))


@maker("refs_py")
def _refs_py(world: World) -> list[Seed]:
    assert world.lists
    return single("input.py", (world.folder / "refs.py").read_bytes(), "{'a': 'x', 'b': \"it's\" ' so',\n 'c': ''}")


@maker("refs_kaldi")
def _refs_kaldi(world: World) -> list[Seed]:
    return single("input.txt", "utt-1 he hoped  there\nutt-2\nutt-3\tZoë went \nutt-4 (a) 'b'\n", "a b\nc d")


@maker("refs_trn")
def _refs_trn(world: World) -> list[Seed]:
    return single("input.trn", ";; comment\nhe hoped (utt-1)\n(utt-2)\nZoë went  (utt-3) \n", "a b (c)\nd (e-f_g)")


@maker("refs_json")
def _refs_json(world: World) -> list[Seed]:
    path = world.folder / "refs.json"
    product("write_nbest")(path, world.lists[:4], score="am")
    return single("input.json", '{"a": "x y", "b": ""}', path.read_bytes())


@maker("refs_jsonl")
def _refs_jsonl(world: World) -> list[Seed]:
    path = world.folder / "refs.jsonl"
    product("write_nbest")(path, world.lists[:4])
    return single("input.jsonl", _unsealed(path.read_bytes()), path.read_bytes())


@maker("scored")
def _scored(world: World) -> list[Seed]:
    cost = untimed(world.scores.with_name("scores.jsonl.cost.json").read_bytes())
    lines = world.scores.read_bytes()
    return [
        Seed({"input.jsonl": _unsealed(lines), "input.jsonl.cost.json": cost}, "input.jsonl"),
        Seed({"input.jsonl": lines, "input.jsonl.cost.json": cost}, "input.jsonl"),
        Seed({"input.jsonl.gz": gzip.compress(lines, mtime=0), "input.jsonl.gz.cost.json": cost}, "input.jsonl.gz"),
    ]


@maker("wer")
def _wer(world: World) -> list[Seed]:
    return _scored(world)[:1]


@maker("wer_refs")
def _wer_refs(world: World) -> list[Seed]:
    assert world.scores
    return _refs_py(world)[:1]


@maker("score_resume")
def _resume(world: World) -> list[Seed]:
    """What processes leave that were killed after the first and the second group; the second time in the middle of a line."""
    whole = world.scores.read_bytes()
    found = [
        Seed(
            {
                "out.jsonl": whole,
                "out.jsonl.cost.json": untimed(world.scores.with_name("scores.jsonl.cost.json").read_bytes()),
            },
            "out.jsonl",
        )
    ]
    for utterances in (8, 16):
        folder = world.folder / f"stopped_{utterances}"
        with contextlib.suppress(Stopped):
            product("score_file")(
                [str(world.folder / "lists.jsonl")], count_characters(utterances), folder / "out.jsonl"
            )
        files = folder_files(folder)
        (unfinished,) = (name for name in files if name.endswith(".partial"))
        files[unfinished] += b'{"id": "corpus/rec-1' if utterances == 16 else b""
        found.append(Seed(files, "out.jsonl"))
    return found


@maker("score_merge")
def _parts(world: World) -> list[Seed]:
    assert world.lists
    files = {}
    for place in range(2):
        out = world.folder / f"part{place}.jsonl"
        product("score_file")([str(world.folder / "lists.jsonl")], count_characters(), out, shard=(place, 2))
        files[out.name] = out.read_bytes()
        cost = out.with_name(out.name + ".cost.json")
        files[cost.name] = untimed(cost.read_bytes())
    return [Seed(files, "")]


@maker("scales")
def _scales(world: World) -> list[Seed]:
    product("Scales")({"am": 1.0, "masked": 0.6}, 1.5, {"masked": -0.25}).save(world.folder / "seed.scales.json")
    return single("scales.json", (world.folder / "seed.scales.json").read_bytes(), '{"scores": {"am": 1}}')


@maker("overview")
def _overview(world: World) -> list[Seed]:
    return [Seed({"table.json": world.table.read_bytes()}, "table.json")]


@maker("race")
def _race(world: World) -> list[Seed]:
    scales = product("Scales")({"am": 1.0, "lm": 0.5}, 0.5).to_json()
    rungs = [
        {"beta": [0.5, -0.25, 0.125], "errors": [-1.0, 0.25, 0.5], "excess": 0.1},
        {"beta": [0.5, -0.25, 0.125, 1.0], "errors": [1.0], "excess": 1e-9},
    ]
    values = {
        "format": "diffusion-lm-race",
        "version": 1,
        "name": "lm",
        "given": ["am"],
        "scales": scales,
        "confidence": 0.95,
    }
    values["format"] = product("race_format")
    return [Seed({"race.json": json.dumps({**values, "rungs": rungs}).encode()}, "race.json")]
