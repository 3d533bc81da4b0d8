"""Measures tokens per second of a training step of each family, and the ratio to the masked family.

    python benchmarks/families.py --vocab vocab --text train.txt.gz

A step is forward and backward pass, in bf16 with one thread.
"""

from __future__ import annotations

import argparse
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

import torch

from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.draws import draw_noise
from diffusion_lm.families import build_family
from diffusion_lm.model import LanguageModel, special_ids
from returnn_bridge.vocab import Vocab, read_lines

FAMILIES: dict[str, dict[str, Any]] = {
    "masked": {"name": "masked"},
    "autoregressive": {"name": "autoregressive"},
    "hybrid": {"name": "hybrid"},
    "uniform": {"name": "uniform"},
    "block 4": {"name": "block", "block_size": 4},
    "block 16": {"name": "block", "block_size": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--sentences", type=int, default=110)
    parser.add_argument("--repeats", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    vocab = Vocab.load(options.vocab)
    rows = vocab.encode_batch(list(islice(read_lines([options.text]), 4000)))
    rows = sorted((row for row in rows if 8 <= len(row) <= 60), key=len)[1000 : 1000 + options.sentences]
    tokens, rates = sum(map(len, rows)), {}
    print("| family | tokens/s | of masked |\n|---|---|---|")
    for label, family in FAMILIES.items():
        conditioned = build_family(family, special_ids(vocab)).time_conditioning
        model = LanguageModel.build(family, DiTConfig(256, 4, 4, 64, 0.0, adaln=conditioned), vocab)
        sentences, seconds = model.frame(rows), []
        for number in range(options.repeats + 2):  # the first two are warm-up
            draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(number), stratified=True)
            began = perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.family.training_loss(model.network, sentences, draw)
            (loss.loss.sum() / loss.weight).backward()
            seconds.append(perf_counter() - began)
        rates[label] = tokens / median(seconds[2:])
        print(f"| {label} | {rates[label]:,.0f} | {rates[label] / rates['masked']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
