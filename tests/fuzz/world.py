"""What valid inputs are made of: a folder of things that they refer to and that stay whole, and the list of who makes which.

world = World(Path("world"))
world.vocab, world.scores                       # each is made when it is first needed

@maker("vocab")
def _vocab(world): return [Seed({"spm.model": (world.vocab / "spm.model").read_bytes()}, "")]
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .readers import count_characters, product

WORDS = "the a of and king house river said went came great little old man woman child stone tree in to was with he she".split()
AUDIO = Path(__file__).parents[2] / "data" / "demo" / "audio"
MAKERS: dict[str, Callable[[World], list[Seed]]] = {}


@dataclass(frozen=True)
class Seed:
    """A whole input: files by relative name, and which of them (or "", the folder) is read."""

    files: dict[str, bytes]
    main: str


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(3, 9))) for _ in range(count)]


@dataclass(frozen=True)
class World:
    """What inputs refer to."""

    folder: Path

    @cached_property
    def text(self) -> Path:
        path = self.folder / "corpus.txt"
        path.write_text("\n".join(sentences(120)) + "\n")
        return path

    @cached_property
    def vocab(self) -> Path:
        """44 pieces, BOS and EOS among them, as tests/conftest.py has them."""
        text = self.folder / "long.txt"
        text.write_text("\n".join(sentences(600, seed=1)) + "\n")
        product("train_vocab")([text], size=44, out=self.folder / "vocab")
        return self.folder / "vocab"

    @cached_property
    def lists(self) -> list[Any]:
        """Texts with everything that is hard to write, in 20 utterances; references and two scores with details."""
        hypothesis, nbest = product("Hypothesis"), product("NBestList")
        texts = [
            "he hoped",
            'it\'s "so"',
            "",
            "Zoë \U0001f600",
            "back\\slash",
            "tab\there",
            "  blanks  ",
            "a",
            "nan",
            "(x)",
        ]
        found = []
        for number in range(20):
            hyps = tuple(
                hypothesis(
                    f"{texts[(number + rank) % len(texts)]}",
                    {"am": -1.5 - rank - number / 7, "lm.2": -20.25 * rank - 1e-9},
                    {
                        "lm.2": {
                            "num_passes": 3,
                            "num_tokens": 2,
                            "standard_error": 0.25,
                            "target": "elbo",
                            "replicates": [-1.0, -2.5],
                        }
                    },
                )
                for rank in range(1 + number % 3)
            )
            found.append(nbest(f"corpus/rec-{number}/é" if number == 3 else f"corpus/rec-{number}", hyps, "he hoped"))
        product("write_nbest")(self.folder / "lists.jsonl", found)
        references = {utterance.seq_tag: utterance.reference for utterance in found}
        product("write_transcripts")(self.folder / "refs.py", references)
        return found

    @cached_property
    def scores(self) -> Path:
        assert self.lists
        out = self.folder / "scores.jsonl"
        product("score_file")([str(self.folder / "lists.jsonl")], count_characters(), out)
        product("Scales")({"am": 1.0, "lm": 0.25, "lm.2": -0.5}, 1.5).save(self.folder / "scales.json")
        return out

    @cached_property
    def table(self) -> Path:
        scales = product("Scales")
        assert self.scores
        lists = product("read_sources")([str(self.scores)])
        systems = {"first": scales({"am": 0.0}), "am & lm": scales({"am": 1.0, "lm": 0.5})}
        rows = product("evaluate")(lists, systems, baseline="first", seed=1)
        table = product("ResultTable")("WER", rows, baseline="first", scales_from="as given", metadata={"seed": 1})
        table.save(self.folder / "table.json")
        return self.folder / "table.json"

    def network(self, **family: Any) -> Any:
        """A language model with random weights of one small block."""
        import torch

        size = product("DiTConfig")(hidden_size=16, num_blocks=1, num_heads=2, cond_dim=8)
        vocab = product("load_vocab")(self.vocab)
        model = product("LanguageModel").build(family or {"name": "masked"}, size, vocab)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        model.network.eval()
        return model

    @cached_property
    def model(self) -> Path:
        return self.network().save(self.folder / "model")

    @cached_property
    def store(self) -> Path:
        product("build_store")([str(self.text)], self.vocab, self.folder / "tokens.hdf")
        return self.folder / "tokens.hdf"

    def settings(self, preset: str = "demo_masked:tiny:fp32", *more: str) -> dict[str, Any]:
        """A small configuration as a plain tree."""
        given = [f"data.vocab={self.vocab}", f"data.text=[{self.text}]", f"data.valid_text={{dev: {self.text}}}"]
        given += [
            "data.batch_size=300",
            "data.max_seqs=20",
            "trainer.max_steps=3",
            "trainer.logger=none",
            "trainer.accelerator=cpu",
        ]
        given += ["model.hidden_size=16", "model.num_blocks=1", "model.num_heads=2", "trainer.val_check_interval=2"]
        config = product("apply_overrides")(product("build_preset")(preset), [*given, *more])
        return dict(product("to_dict")(config))


def maker(*kinds: str) -> Callable[[Callable[[World], list[Seed]]], Callable[[World], list[Seed]]]:
    def register(make: Callable[[World], list[Seed]]) -> Callable[[World], list[Seed]]:
        MAKERS.update(dict.fromkeys(kinds, make))
        return make

    return register


def single(name: str, *contents: bytes | str) -> list[Seed]:
    """Each content as a file, and the first one packed as well."""
    data = [content.encode() if isinstance(content, str) else content for content in contents]
    return [
        *(Seed({name: content}, name) for content in data),
        Seed({f"{name}.gz": gzip.compress(data[0], mtime=0)}, f"{name}.gz"),
    ]


def folder_files(path: Path) -> dict[str, bytes]:
    """Its files by relative name; the seconds that something took are no part of an input that is the same in every run."""
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return {name: untimed(data) if name.endswith(".cost.json") else data for name, data in files.items()}


def untimed(cost: bytes) -> bytes:
    return json.dumps({**json.loads(cost), "seconds": 0.5}).encode()
