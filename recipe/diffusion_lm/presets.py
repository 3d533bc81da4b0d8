"""Named configurations and suffixes that change them, for `dlm train --preset librispeech_masked:ar:bf16`.

    config = build("demo_masked:tiny:bf16")

Suffixes are applied from left to right. Presets and suffixes are functions in two registries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.config import DataConfig, OptimConfig, TrainConfig, TrainerConfig
from returnn_bridge.registry import Registry


def librispeech_masked() -> TrainConfig:
    """The reference experiment: a small DiT (12 x 768), 128 positions, batches of 32,768 tokens and 256 sentences.

    It is meant for a vocabulary of 10,240 pieces.
    """
    return TrainConfig(
        data=DataConfig(partition_epoch=20, num_workers=1),
        model=DiTConfig(),
        family={"name": "masked", "time_conditioning": True},
        optim=OptimConfig(lr=3e-4, warmup_steps=2500),
        trainer=TrainerConfig(max_steps=2_000_000, val_check_interval=10_000, precision="bf16", log_every=10),
    )


def demo_masked() -> TrainConfig:
    """A small masked LM that trains in minutes on two CPU cores, starting from a `demo_ar` model.

    It is trained with at most 45 % of the tokens masked, so score it with the estimators `pll` or `strided`.
    """
    return TrainConfig(
        data=DataConfig(batch_size=4000, max_seqs=128, max_seq_length=96, seq_ordering="laplace:.10000"),
        model=DiTConfig(hidden_size=192, num_blocks=4, num_heads=3, dropout=0.05, adaln=False),
        family={
            "name": "masked",
            "sampling_eps": 0.05,
            "sampling_max": 0.45,
            "weighting": "masked_mean",
            "shift": True,
        },
        optim=OptimConfig(lr=2e-3, weight_decay=0.05, schedule="cosine", warmup_steps=60, beta2=0.98),
        trainer=TrainerConfig(
            max_steps=900,
            val_check_interval=300,
            save_every=150,
            precision="bf16",
            ema=0.99,
            monitor="val/loss",
            log_every=50,
        ),
    )


def demo_ar() -> TrainConfig:
    """The autoregressive model with the network and data of `demo_masked`."""
    config = ar(demo_masked())
    return replace(config, optim=replace(config.optim, lr=3e-3), trainer=replace(config.trainer, max_steps=1300))


def hybrid_tiny() -> TrainConfig:
    """GIDD's TINY (arXiv 2503.04482): 28.4 M parameters in 8 blocks of width 512, context 512, 500,000 steps.

    It is meant for GPT-2's vocabulary. A step takes 512 texts, 64 at a time; on 8 GPUs set trainer.devices=8 and
    trainer.accumulate_grad_batches=1.
    """
    return _gidd(DiTConfig(hidden_size=512, num_blocks=8, num_heads=8, dropout=0.0))


def hybrid_small() -> TrainConfig:
    """GIDD's SMALL: 92.1 M parameters in 12 blocks of width 768; otherwise as hybrid-tiny."""
    return _gidd(DiTConfig(hidden_size=768, num_blocks=12, num_heads=12, dropout=0.0))


def hybrid_base() -> TrainConfig:
    """GIDD's BASE: 321.2 M parameters in 24 blocks of width 1024; otherwise as hybrid-tiny."""
    return _gidd(DiTConfig(hidden_size=1024, num_blocks=24, num_heads=16, dropout=0.0))


def _gidd(model: DiTConfig) -> TrainConfig:
    """The training of GIDD+ with its data rule: random windows of 512 tokens, in validation too."""
    context, rows = 512, 64
    return TrainConfig(
        data=DataConfig(
            batch_size=rows * context,
            max_seqs=rows,
            max_seq_length=context - 2,  # BOS and EOS count in the context
            too_long="crop",
            valid_too_long="crop",
            seq_ordering="random",
        ),
        model=model,
        family={"name": "hybrid"},
        optim=OptimConfig(
            lr=5e-4,
            weight_decay=0.02,
            beta2=0.99,
            eps=1e-9,
            schedule="cosine",
            warmup_steps=10_000,
            final_factor=0.1,
        ),
        trainer=TrainerConfig(
            max_steps=500_000,
            val_check_interval=10_000,
            limit_val_batches=128,
            accumulate_grad_batches=8,
            precision="bf16",
            ema=0.0,
        ),
    )


def adaptive(config: TrainConfig) -> TrainConfig:
    """A masked model that is trained more often on hard tokens (families/adaptive.py); scored like any masked model."""
    return replace(config, family={**config.family, "name": "adaptive"})


def ar(config: TrainConfig) -> TrainConfig:
    """An autoregressive model with the same network size and training."""
    return replace(config, family={"name": "autoregressive"}, trainer=replace(config.trainer, monitor="val/nll"))


def hybrid(config: TrainConfig) -> TrainConfig:
    """Hybrid diffusion (GIDD+): masks and up to 10 % uniform noise, with betas, epsilon and weight decay of GIDD+.

    The presets hybrid-tiny, hybrid-small and hybrid-base have all of its settings.
    """
    return replace(
        config,
        family={"name": "hybrid", **_kept(config)},
        model=_dit(config, adaln=True),
        optim=replace(config.optim, beta2=0.99, eps=1e-9, weight_decay=0.02),
        trainer=replace(config.trainer, monitor="val/nll"),
    )


def uniform(config: TrainConfig) -> TrainConfig:
    """Uniform diffusion (UDLM, Duo): tokens are replaced by random tokens instead of a mask."""
    return replace(
        config,
        family={"name": "uniform", **_kept(config)},
        model=_dit(config, adaln=True),
        trainer=replace(config.trainer, monitor="val/nll"),
    )


def _dit(config: TrainConfig, **changes: Any) -> DiTConfig:
    """The DiT of a configuration with some of its fields changed."""
    if not isinstance(config.model, DiTConfig):
        raise ValueError(f"preset suffix for the network dit, but model.network is {config.model.network!r}")
    return replace(config.model, **changes)


def _kept(config: TrainConfig) -> dict[str, Any]:
    """Family options that a suffix keeps: `shift`, because it belongs to autoregressive initial weights."""
    return {"shift": True} if config.family.get("shift") else {}


def d3pm(config: TrainConfig) -> TrainConfig:
    """The loss of D3PM with 1000 steps, of which SUBS is a special case; it runs the network twice per step."""
    return replace(config, family={**config.family, "parameterization": "d3pm", "T": 1000, "weighting": "nelbo"})


def sedd(config: TrainConfig) -> TrainConfig:
    """The score entropy loss of SEDD."""
    return replace(config, family={**config.family, "parameterization": "sedd", "weighting": "nelbo"})


def _blocks(config: TrainConfig, size: int) -> TrainConfig:
    family = {"name": "block", "block_size": size}
    return replace(config, family=family, trainer=replace(config.trainer, monitor="val/nll"))


def block4(config: TrainConfig) -> TrainConfig:
    """Block diffusion with blocks of 4 tokens from left to right, with the same network and training."""
    return _blocks(config, 4)


def block16(config: TrainConfig) -> TrainConfig:
    """Block diffusion with blocks of 16 tokens."""
    return _blocks(config, 16)


def tiny(config: TrainConfig) -> TrainConfig:
    """A network small enough for tests."""
    return replace(config, model=_dit(config, hidden_size=32, num_blocks=2, num_heads=2, cond_dim=16))


def medium(config: TrainConfig) -> TrainConfig:
    """A network of 24 blocks of width 1024 with 16 heads."""
    return replace(config, model=_dit(config, hidden_size=1024, num_blocks=24, num_heads=16))


def fp32(config: TrainConfig) -> TrainConfig:
    """float32 precision."""
    return replace(config, trainer=replace(config.trainer, precision="32"))


def bf16(config: TrainConfig) -> TrainConfig:
    """bfloat16 mixed precision."""
    return replace(config, trainer=replace(config.trainer, precision="bf16"))


PRESETS: Registry[Callable[[], TrainConfig]] = Registry(
    "preset",
    {
        "demo_ar": demo_ar,
        "demo_masked": demo_masked,
        "hybrid-base": hybrid_base,
        "hybrid-small": hybrid_small,
        "hybrid-tiny": hybrid_tiny,
        "librispeech_masked": librispeech_masked,
    },
)
SUFFIXES: Registry[Callable[[TrainConfig], TrainConfig]] = Registry(
    "preset suffix",
    {f.__name__: f for f in (adaptive, ar, bf16, block16, block4, d3pm, fp32, hybrid, medium, sedd, tiny, uniform)},
)


def build(name: str) -> TrainConfig:
    """The configuration `NAME` or `NAME:SUFFIX:SUFFIX`. ValueError for an unknown name, listing the known ones."""
    preset, *suffixes = name.split(":")
    config = PRESETS[preset]()
    for suffix in suffixes:
        config = SUFFIXES[suffix](config)
    return config
