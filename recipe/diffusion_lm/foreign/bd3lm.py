"""Keys of BD3-LM trees (Arriola et al., arXiv 2503.09573) that MDLM trees lack, such as section `algo` and block_size.

    reading.leaves["algo.name"]         # bd3lm: family block; mdlm, sedd: masked; ar: autoregressive

Such a tree has under `algo` some keys that an MDLM tree has at its top level and under `sampling` (MOVED). Values
follow the reference configuration and code. Rules that both kinds of trees share are in special.py.
"""

from __future__ import annotations

import os
from typing import Any

from diffusion_lm.families.block_likelihood import LARGEST_BLOCK
from diffusion_lm.foreign import algo as algo_rules
from diffusion_lm.foreign import clip_search as clip
from diffusion_lm.foreign.algo import FAMILIES, algo, is_exact
from diffusion_lm.foreign.data import insert
from diffusion_lm.foreign.rows import PPL, SAMPLE, TRAIN, Row
from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Reading, Rule, nothing, refuse, typed

# Keys of MDLM trees that are not allowed beside algo, and the keys that replace them.
MOVED = {
    "backbone": "algo.backbone",
    "parameterization": "algo.parameterization",
    "time_conditioning": "algo.time_conditioning",
    "T": "algo.T",
    "subs_masking": "algo.parameterization",
    "sampling.predictor": "algo.sampler",
    "sampling.steps": "algo.T",
    "sampling.semi_ar": "algo.sampler",
    "sampling.stride_length": "algo.sampler",
    "sampling.num_strides": "algo.sampler",
    "training.importance_sampling": "training.sampling_eps_min and training.sampling_eps_max",
    "training.change_of_variables": "training.sampling_eps_min and training.sampling_eps_max",
}

# Keys of the fork that reads RETURNN datasets: optional in a tree with algo.
_FORK = [
    "behaviour_version",
    "sampling.num_sample_log",
    "eval.compute_generative_perplexity",
    "returnn_batching_enabled",
    "data.returnn_train_config",
    "data.returnn_valid_config",
    "returnn_batching.batch_size",
    "returnn_batching.max_seqs",
]


def has_algo(reading: Reading) -> bool:
    """Whether the tree is a BD3-LM tree."""
    return any(key in KEYS for key in reading.leaves)


def check_algo(reading: Reading) -> None:
    """Raise ValueError for a BD3-LM tree without a known algo.name, in mode rescore, or with keys that only MDLM trees
    have.
    """
    name = reading.leaves.get("algo.name")
    if not isinstance(name, str) or name not in FAMILIES:
        refuse("algo.name", name, f"expected one of {', '.join(FAMILIES)}")
    if reading.mode == "rescore":
        refuse(
            "mode",
            "rescore",
            "BD3-LM has train, ppl_eval and sample_eval; `dlm score` scores hypotheses with its models",
        )
    for key, instead in MOVED.items():
        if key in reading.leaves:
            refuse(key, reading.leaves[key], f"it has no place beside algo.name; expected {instead} to say it")


def not_missed(reading: Reading) -> set[str]:
    """Keys that trees of this kind lack or may leave out."""
    return {*MOVED, *_FORK} if has_algo(reading) else set(KEYS)


def _block_size(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    size, length = typed(key, value, int), reading.leaves.get("model.length")
    if size < 1 or type(length) is not int or length % size:
        refuse(key, value, f"expected a divisor of model.length {length}")
    if algo(reading) == "bd3lm":
        reading.put("family.block_size", size, key)
        return HONOURED, "family.block_size"
    if algo(reading) == "ar":
        return NO_EFFECT, "an autoregressive model has no blocks"
    if size != length:
        refuse(key, value, f"algo.name {algo(reading)} has one block; expected model.length {length}, or no such key")
    return NO_EFFECT, f"algo.name {algo(reading)} has one block"


def _clipping(target: str, kind: type, usual: Any) -> Rule:
    """Rule for an end of the interval of training times, which only block models have; `usual` is its default."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        found = typed(key, value, kind)
        if algo(reading) == "bd3lm":
            reading.put(target, found, key)
            return HONOURED, target
        if found != usual:
            refuse(key, value, f"it belongs to algo.name bd3lm; expected {str(usual).lower()}")
        return NO_EFFECT, "it belongs to algo.name bd3lm"

    return rule


def _resample(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    interval = [
        reading.leaves.get(f"training.sampling_eps_{end}", usual) for end, usual in (("min", 1e-3), ("max", 1.0))
    ]
    if typed(key, value, bool) and algo(reading) == "bd3lm" and interval == [1e-3, 1.0]:
        return NO_EFFECT, "the interval of training times is the whole one: there is nothing to redraw"
    return _clipping("family.resample", bool, False)(reading, key, value)


def _from_pretrained(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if value is None:
        return HONOURED, "fresh weights"
    if not os.path.isdir(typed(key, value, str)):
        refuse(
            key,
            value,
            "no such folder, and nothing is downloaded; expected a model folder (`dlm pretrained` makes one), or null",
        )
    reading.put("init_from", value, key)
    return HONOURED, "init_from"


def _eval_nll(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    typed(key, value, bool)
    if algo(reading) == "ar":
        return NO_EFFECT, "an autoregressive model is always measured exactly"
    if algo(reading) != "bd3lm":
        return NO_EFFECT, f"algo.name {algo(reading)} is measured by its bound"
    if is_exact(reading):
        text = "with one token a block the bound is the exact value, and is computed so"
        return (HONOURED if value else NO_EFFECT), text
    size = reading.leaves.get("block_size")
    if value and type(size) is int and size > LARGEST_BLOCK:
        refuse(
            key,
            value,
            f"the exact value takes 2^block_size - 1 = {2**size - 1:,} runs a row, and blocks of at most "
            f"{LARGEST_BLOCK} tokens are measured so; expected false, for the bound alone",
        )
    reading.put("run.likelihood", value, key)
    return HONOURED, "the exact value beside the bound" if value else "the bound alone"


def _first_hitting(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    typed(key, value, bool)
    if algo(reading) == "ar":
        return NO_EFFECT, "an autoregressive model draws token by token"
    if algo(reading) == "bd3lm":
        reading.put("sampling.first_hitting", value, key)
        return HONOURED, "one run for every token" if value else "ancestral, in algo.T steps a block"
    if value:
        refuse(key, value, "it is the sampler of blocks; expected false, and algo.T for the number of steps")
    return HONOURED, "ancestral, in algo.T steps"


def _nucleus(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    share = typed(key, value, float)
    if not 0 < share <= 1:
        refuse(key, value, "expected a share in (0, 1]")
    if algo(reading) != "bd3lm" and share != 1:
        refuse(key, value, "it belongs to algo.name bd3lm; expected 1.0")
    reading.put("sampling.nucleus_p", share, key)
    return HONOURED, "of the most probable symbols, those with this much probability"


def _kv_cache(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if typed(key, value, bool) and algo(reading) not in ("bd3lm", "ar"):
        refuse(key, value, "it belongs to algo.name bd3lm and ar; expected false")
    return NO_EFFECT, "keys and values of finished blocks are always kept: the same samples in less time"


def _var_length(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    typed(key, value, bool)
    if algo(reading) not in ("bd3lm", "ar"):
        return NO_EFFECT, "samples have the lengths of data.valid"
    reading.put("sampling.fixed_length", not value, key)
    if value:
        return HONOURED, "a sample ends with its EOS, at model.length at the latest"
    return HONOURED, "a sample has model.length tokens, EOS between documents among them; none is drawn again"


def _attention(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if value not in ("flash_attn", "sdpa", "flex"):
        refuse(key, value, "expected 'flash_attn', 'sdpa' or 'flex'")
    if value != "flex":
        return NO_EFFECT, "torch's own attention: the function is the same"
    if reading.leaves.get("trainer.accelerator") == "cpu":
        return NO_EFFECT, "flex attention can not be trained on a CPU; torch's own: the function is the same"
    reading.put("trainer.attention", value, key)
    return HONOURED, "trainer.attention flex"


def _adaln(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if typed(key, value, bool) and algo(reading) == "ar":
        refuse(key, value, "a causal network has no noise level to be told; expected false")
    return NO_EFFECT, "a causal network has none" if algo(
        reading
    ) == "ar" else "a network that is not causal always has it"


def by_algo(plain: Rule, other: Rule) -> Rule:
    """Combine a rule for MDLM trees (`plain`) and a rule for BD3-LM trees (`other`)."""
    return lambda reading, key, value: (other if "algo.name" in reading.leaves else plain)(reading, key, value)


def _noise_removal(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    typed(key, value, bool)
    if reading.leaves.get("algo.sampler") == "analytic":
        reading.put("sampling.noise_removal", value, key)
        return HONOURED, "sampling.noise_removal"
    return NO_EFFECT, "read by algo.sampler analytic only; the others leave no mask"


noise_removal: Rule = _noise_removal
tied: Rule = nothing("the reference network keeps both tables apart whatever it says, and so does this one", bool)

KEYS: dict[str, Row] = {
    "block_size": Row(_block_size, TRAIN, ("family.block_size",)),
    "sampling.var_length": Row(_var_length, SAMPLE),
    "sampling.logdir": Row(nothing("samples.txt is written into checkpointing.save_dir", str)),
    "sampling.nucleus_p": Row(_nucleus, SAMPLE),
    "sampling.first_hitting": Row(_first_hitting, SAMPLE),
    "sampling.kv_cache": Row(_kv_cache),
    "training.coeff_clip": Row(nothing("a leftover that the reference code never reads", float)),
    "training.resample": Row(_resample, TRAIN),
    "training.sampling_eps_min": Row(_clipping("family.sampling_min", float, 1e-3), TRAIN),
    "training.sampling_eps_max": Row(_clipping("family.sampling_max", float, 1.0), TRAIN),
    "training.from_pretrained": Row(_from_pretrained, TRAIN),
    "training.eval_nll": Row(_eval_nll, PPL),
    **{
        f"data.insert_{name}_{what}": Row(insert, (*TRAIN, *PPL))
        for name in ("train", "valid")
        for what in ("eos", "special")
    },
    "model.adaln": Row(_adaln),
    "model.attn_backend": Row(_attention, TRAIN),
    "algo.name": Row(algo_rules.name, TRAIN, ("family.name", "family.parameterization")),
    "algo.backbone": Row(algo_rules.backbone),
    "algo.parameterization": Row(algo_rules.parameterization),
    "algo.time_conditioning": Row(algo_rules.time_conditioning, TRAIN, ("family.time_conditioning",)),
    "algo.T": Row(algo_rules.steps, SAMPLE),
    "algo.causal_attention": Row(
        algo_rules.flag({"bd3lm": False, "mdlm": False, "sedd": False}, "who sees whom follows from algo.name")
    ),
    "algo.dropout": Row(nothing("the reference network reads model.dropout, and so does this one", float)),
    "algo.ignore_bos": Row(algo_rules.ignore_bos, TRAIN, ("family.score_eos",)),
    "algo.cross_attn": Row(
        algo_rules.flag(
            {"bd3lm": True, "mdlm": False, "sedd": False, "ar": False}, "noised blocks see the clean ones before them"
        )
    ),
    "algo.var_min": Row(clip.var_min, TRAIN),
    "algo.clip_search_delta": Row(clip.delta, TRAIN),
    "algo.clip_search_widths": Row(clip.widths, TRAIN),
    "algo.fix_clipping": Row(clip.fixed, TRAIN),
    "algo.sampler": Row(algo_rules.sampler, SAMPLE),
    "algo.mdlm_loss_scale": Row(algo_rules.loss_scale, TRAIN, ("family.noise.eps",)),
}
