"""Small trainings that several tests start, and what they compare of them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from diffusion_lm import presets
from diffusion_lm.config import apply_overrides

SMALL = [
    "data.batch_size=300",
    "data.max_seqs=20",
    "optim.lr=3e-3",
    "optim.warmup_steps=3",
    "trainer.val_check_interval=7",
]
SMALL += [
    "trainer.max_steps=20",
    "trainer.save_every=4",
    "trainer.log_every=5",
    "trainer.logger=none",
    "data.num_workers=0",
]


def config_of(vocab_folder, text_file, *extra, preset="demo_masked:tiny:fp32"):
    common = [
        f"data.vocab={vocab_folder}",
        f"data.text=[{text_file}]",
        f"data.valid_text={{dev: {text_file}}}",
        "data.partition_epoch=3",
    ]
    return apply_overrides(presets.build(preset), [*common, *SMALL, *extra])


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
