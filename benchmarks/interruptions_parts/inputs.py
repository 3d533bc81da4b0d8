"""Creates small inputs for every command from the demo data and with `dlm` itself.

    made = prepare(Path("dlm"), Path("data/demo"), Path("out/inputs"))
    made.text, made.lists, made.masked          # files and folders

This takes some ten commands and half a minute.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import os
import random
import struct
import subprocess
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PIECES = 200  # size of the vocabulary
UTTERANCES, HYPOTHESES = 40, 8  # scoring takes 8 utterances at a time: five places to be interrupted at
SMALL_TRAINING = (
    "trainer.max_steps=24",
    "trainer.val_check_interval=8",
    "trainer.save_every=3",
    "trainer.keep_last=2",
    "data.batch_size=400",
    "data.partition_epoch=4",
)


class Inputs:
    """The paths of the inputs."""

    def __init__(self, folder: Path, demo: Path):
        self.folder = folder
        self.corpus = demo / "train.txt.gz"
        self.text, self.valid = folder / "train.txt", folder / "dev.txt"
        self.lists, self.bigram, self.refs = folder / "am.py.gz", folder / "bigram.py.gz", folder / "ref.py.gz"
        self.bliss, self.audio, self.transcripts = folder / "corpus.xml.gz", folder / "audio", folder / "audio.txt"
        self.published = folder / "published"
        self.vocab, self.ngram = folder / "vocab", folder / "3gram.arpa"
        self.masked, self.block = folder / "masked" / "model", folder / "block" / "model"
        self.scored, self.scales = folder / "scored.jsonl", folder / "scales.json"
        self.parts = [folder / f"part{number}.jsonl" for number in (1, 2)]
        self.table = folder / "wer.json"

    @property
    def kept(self) -> list[str]:
        return [str(path) for path in sorted((self.folder / "masked" / "kept").iterdir())]

    def train_settings(self) -> list[str]:
        data = [f"data.vocab={self.vocab}", f"data.text=[{self.text}]", f"data.valid_text.dev={self.valid}"]
        return [*data, *SMALL_TRAINING]


def prepare(dlm: Path, demo: Path, folder: Path) -> Inputs:
    """Create the inputs."""
    folder.mkdir(parents=True)
    made = Inputs(folder, demo)
    with gzip.open(made.corpus, "rt") as file:
        made.text.write_text("".join(line for _, line in zip(range(600), file)))
    made.valid.write_text("".join((demo / "dev.txt").read_text().splitlines(keepends=True)[:40]))
    _cut_lists(demo, made)
    _write_bliss(made)
    _write_audio(made)
    _publish(made.published)

    def run(*command: object) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([dlm, *map(str, command)], env=environment, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise SystemExit(f"preparing: dlm {' '.join(map(str, command))}: status {done.returncode}\n{done.stderr}")

    run("vocab", made.text, "--size", PIECES, "--out", made.vocab)
    run("ngram", made.text, "--order", 3, "--out", made.ngram)
    own = [*made.train_settings(), "trainer.logger=none"]
    run("train", "--preset", "demo_masked:tiny", "--out", made.masked.parent, *own)
    run("train", "--preset", "demo_masked:block4:tiny", "--out", made.block.parent, *own)
    score = ("score", f"am={made.lists}", "--model", f"masked={made.masked}")
    run(*score, "--out", made.scored)
    for number, part in enumerate(made.parts, 1):
        run(*score, "--shard", f"{number}/2", "--out", part)
    # Given, not tuned: an LM as weak as this one would get a scale of 0, and then a race has nothing to measure.
    made.scales.write_text('{"scores": {"am": 1.0, "masked": 1.0}, "words": 0.0, "tokens": {}}\n')
    run("wer", made.scored, "--refs", made.refs, "--scales", f"masked={made.scales}", "--out", made.table)
    return made


def _cut_lists(demo: Path, made: Inputs) -> None:
    tags: Sequence[str] = []
    for name, target in (("dev.nbest", made.lists), ("dev.bigram", made.bigram), ("dev.ref", made.refs)):
        whole = ast.literal_eval(gzip.open(demo / f"{name}.py.gz", "rt").read())
        tags = tags or list(whole)[:UTTERANCES]
        cut = {tag: whole[tag] if isinstance(whole[tag], str) else whole[tag][:HYPOTHESES] for tag in tags}
        with gzip.open(target, "wt") as file:
            file.write(repr(cut))


def _write_bliss(made: Inputs) -> None:
    lines = made.text.read_text().split("\n")[:-1]
    segments = [
        f'<segment name="{n}" start="0" end="1"><orth> {text} </orth></segment>' for n, text in enumerate(lines)
    ]
    with gzip.open(made.bliss, "wt") as file:
        file.write(f'<corpus name="demo"><recording name="r" audio="r.ogg">{"".join(segments)}</recording></corpus>\n')


def _write_audio(made: Inputs) -> None:
    """Write twelve tones of two seconds, as audio that has to be encoded."""
    made.audio.mkdir()
    for number in range(12):
        pitch = 200 + 50 * number
        samples = [int(8000 * math.sin(2 * math.pi * pitch * time / 16000)) for time in range(32000)]
        with wave.open(str(made.audio / f"tone-{number}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    made.transcripts.write_text("".join(f"tone-{number} a tone\n" for number in range(12)))


def _publish(folder: Path, width: int = 24, condition: int = 8, heads: int = 2) -> None:
    """Random weights under the names of MDLM's published folders, one block."""
    folder.mkdir()
    ids = PIECES + 1  # the mask is the last
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (ids, width),
        "sigma_map.mlp.0.weight": (condition, 256),
        "sigma_map.mlp.0.bias": (condition,),
        "sigma_map.mlp.2.weight": (condition, condition),
        "sigma_map.mlp.2.bias": (condition,),
        "blocks.0.norm1.weight": (width,),
        "blocks.0.attn_qkv.weight": (3 * width, width),
        "blocks.0.attn_out.weight": (width, width),
        "blocks.0.norm2.weight": (width,),
        "blocks.0.mlp.0.weight": (4 * width, width),
        "blocks.0.mlp.0.bias": (4 * width,),
        "blocks.0.mlp.2.weight": (width, 4 * width),
        "blocks.0.mlp.2.bias": (width,),
        "blocks.0.adaLN_modulation.weight": (6 * width, condition),
        "blocks.0.adaLN_modulation.bias": (6 * width,),
        "output_layer.norm_final.weight": (width,),
        "output_layer.linear.weight": (ids, width),
        "output_layer.linear.bias": (ids,),
        "output_layer.adaLN_modulation.weight": (2 * width, condition),
        "output_layer.adaLN_modulation.bias": (2 * width,),
    }
    generator = np.random.default_rng(1)
    state = {f"backbone.{name}": generator.normal(0, 0.1, shape).astype("f4") for name, shape in shapes.items()}
    head = width // heads
    state["backbone.rotary_emb.inv_freq"] = (10000.0 ** (-np.arange(0, head, 2) / head)).astype("f4")
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "mdlm", "vocab_size": ids, "model_length": 64, "hidden_dim": width, "cond_dim": condition}
    config |= {"n_blocks": 1, "n_heads": heads, "dropout": 0.1, "time_conditioning": False}
    (folder / "config.json").write_text(json.dumps(config))


def seeded(*parts: object) -> random.Random:
    """A separate random generator for each trial, so that a single trial repeats what it drew among the others."""
    return random.Random("/".join(map(str, parts)))
