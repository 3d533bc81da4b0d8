"""Rules for keys of an MDLM / ASR-fork tree that depend on other keys or have another meaning here.

    verdict, text = interval(reading, "trainer.val_check_interval", 10000)         # batches there, optimizer steps here

A function with the name of a key is the rule of that key. rules.py describes rules; table.py lists all keys.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from diffusion_lm.config import WANDB_KEYS
from diffusion_lm.foreign.data import reads_valid
from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Reading, Rule, refuse, typed


def noise_bound(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for noise.sigma_min and noise.sigma_max, which only two schedules have."""
    number = typed(key, value, float)
    schedule = reading.leaves.get("noise.type")
    if schedule not in ("linear", "geometric"):
        return NO_EFFECT, f"noise.type {schedule} has no such bound"
    options = reading.settings.setdefault("family.schedule_options", {})
    options[key.removeprefix("noise.")] = number
    reading.origin["family.schedule_options"] = "noise.sigma_min, noise.sigma_max"
    return HONOURED, f"family.schedule_options.{key.removeprefix('noise.')}"


def backbone(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for backbone: the one reference transformer, causal for parameterization ar."""
    other = {"dimamba": "the Mamba network is not in this version", "hf_dit": "code from a model hub is never run"}
    wanted = "ar" if reading.leaves.get("parameterization") == "ar" else "dit"
    if value != wanted:
        refuse(
            key, value, f"{other.get(str(value), 'it does not fit the parameterization')}; possible here: {wanted!r}"
        )
    return HONOURED, "the reference transformer, causal" if value == "ar" else "the reference transformer"


def parameterization(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for parameterization, which selects the family and its training loss."""
    names = {"subs": "masked", "d3pm": "masked", "sedd": "masked", "ar": "autoregressive"}
    if not isinstance(value, str) or value not in names:
        refuse(key, value, f"expected one of {', '.join(names)}")
    reading.put("family.name", names[value], key)
    if value in ("subs", "ar"):
        return HONOURED, f"family.name {names[value]}"
    reading.put("family.parameterization", value, key)
    return HONOURED, f"family.parameterization {value}: another training loss; scores are those of the denoiser in it"


def subs_masking(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    wanted, discrete = typed(key, value, bool), reading.leaves.get("parameterization") == "d3pm"
    if wanted and not discrete:
        refuse(
            key, value, "it belongs to parameterization d3pm, the others never predict the mask; possible here: false"
        )
    if not discrete:
        return NO_EFFECT, "it belongs to parameterization d3pm, the others never predict the mask"
    if wanted:
        reading.put("family.subs_masking", True, key)
    return HONOURED, "family.subs_masking"


def length(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for model.length, which counts BOS and EOS; our largest length does not."""
    length = typed(key, value, int)
    if length < 3:
        refuse(key, value, "expected at least 3, BOS and EOS count in it")
    if reading.mode == "ppl_eval" and reading.leaves.get("data.wrap") is not True:
        return NO_EFFECT, "sentences of any length are evaluated whole"
    if reading.mode == "sample_eval" and reads_valid(reading):
        return NO_EFFECT, "samples have the lengths of data.valid"
    reading.put("data.max_seq_length", length - 2, key)
    return HONOURED, f"data.max_seq_length {length - 2}: BOS and EOS count in model.length"


def precision(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for trainer.precision, with Lightning's names for the two precisions."""
    names = {"bf16": "bf16", "bf16-mixed": "bf16", "32": "32", "32-true": "32"}
    if str(value) not in names:
        refuse(key, value, "expected 'bf16' or 32")
    reading.put("trainer.precision", names[str(value)], key)
    return HONOURED, "trainer.precision (of training; scores and perplexities are computed in float32)"


def accelerator(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for trainer.accelerator, with both names of a GPU."""
    names = {"cuda": "cuda", "gpu": "cuda", "cpu": "cpu"}
    if not isinstance(value, str) or value not in names:
        refuse(key, value, "expected 'cuda' or 'cpu'")
    reading.put("trainer.accelerator", names[value], key)
    return HONOURED, "trainer.accelerator"


def clip(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for trainer.gradient_clip_val; null is no clipping."""
    reading.put("trainer.gradient_clip", 0.0 if value is None else typed(key, value, float), key)
    return HONOURED, "trainer.gradient_clip (global norm)"


def interval(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for trainer.val_check_interval: Lightning counts micro-batches, we count optimizer steps."""
    accumulate = reading.leaves.get("trainer.accumulate_grad_batches", 1)
    if type(value) is not int or type(accumulate) is not int or accumulate < 1 or value % accumulate:
        refuse(key, value, f"expected a number of batches, a multiple of trainer.accumulate_grad_batches {accumulate}")
    reading.put("trainer.val_check_interval", value // accumulate, key)
    return HONOURED, f"trainer.val_check_interval {value // accumulate} (optimizer steps)"


def limit(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for trainer.limit_val_batches: a number of batches, or a share as a float."""
    if type(value) not in (int, float) or value < 0 or (type(value) is float and value > 1):
        refuse(key, value, "expected a number of batches or a share in [0, 1]")
    reading.put("trainer.limit_val_batches", value, key)
    return HONOURED, "trainer.limit_val_batches"


def strategy(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for strategy._target_: two known class names, neither of which is imported."""
    names = {"DDPStrategy": "ddp", "FSDPStrategy": "fsdp"}
    known = {f"lightning.pytorch.strategies.{name}": ours for name, ours in names.items()}
    if not isinstance(value, str) or value not in known:
        refuse(key, value, f"expected {' or '.join(known)}; no other name is looked up or run")
    several = (reading.leaves.get("trainer.devices", 1), reading.leaves.get("trainer.num_nodes", 1)) != (1, 1)
    ours = known[value] if several else "auto"
    reading.put("trainer.strategy", ours, key)
    return HONOURED, f"trainer.strategy {ours}" if several else "trainer.strategy auto: one process"


def training_steps(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for the length of the cosine schedule, which is always that of the training."""
    if value != reading.leaves.get("trainer.max_steps"):
        refuse(key, value, "expected the value of trainer.max_steps, where the cosine ends")
    return HONOURED, "the cosine ends at trainer.max_steps"


def batching(rule: Rule, *, enabled: bool) -> Rule:
    """Apply a rule only if RETURNN's batching is on (`enabled`) or off (not `enabled`)."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        on = typed("returnn_batching_enabled", reading.leaves.get("returnn_batching_enabled", False), bool)
        if on == enabled:
            return rule(reading, key, value)
        return NO_EFFECT, f"returnn_batching_enabled is {str(on).lower()}: " + (
            "batches follow returnn_batching" if on else "batches follow loader.batch_size"
        )

    return wrapped


def batch_size(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for loader.batch_size in sequences, where ours is in tokens."""
    rows = typed(key, value, int)
    reading.put("data.max_seqs", rows, key)
    reading.put("data.batch_size", rows * typed("model.length", reading.leaves.get("model.length", 1024), int), key)
    return HONOURED, "data.max_seqs; data.batch_size is large enough not to bind"


def global_batch_size(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for loader.global_batch_size, which must agree with the keys that it follows from."""
    names = ("loader.batch_size", "trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches")
    product = 1
    for name in names:
        product *= typed(name, reading.leaves.get(name, 1), int)
    if value != product:
        refuse(key, value, f"expected {product} = " + " * ".join(names))
    return HONOURED, "agrees with loader.batch_size on all devices"


def semi_ar(rule: Rule) -> Rule:
    """Apply a rule only if sampling.semi_ar is on."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if reading.leaves.get("sampling.semi_ar") is True:
            return rule(reading, key, value)
        return NO_EFFECT, "it belongs to sampling.semi_ar true"

    return wrapped


def workers(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for loader.num_workers: at most one, because each would load the whole corpus index."""
    reading.put("data.num_workers", min(1, typed(key, value, int)), key)
    return HONOURED, f"data.num_workers {min(1, value)} (more would each load the whole corpus index)"


def judge(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for the model that measures generative perplexity: a local path, or nothing is measured."""
    wanted = typed(
        "eval.compute_generative_perplexity", reading.leaves.get("eval.compute_generative_perplexity", False), bool
    )
    if value is not None and os.path.exists(typed(key, value, str)):
        reading.put("run.judge", value, key)
        return HONOURED, "the model that generative perplexity is measured with"
    if wanted:
        refuse(
            key,
            value,
            "no such file or folder, and nothing is downloaded; with eval.compute_generative_perplexity "
            "expected a local language model",
        )
    return NO_EFFECT, "nothing there, and nothing is downloaded: no generative perplexity"


def generative(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for eval.compute_generative_perplexity, which needs samples."""
    if typed(key, value, bool) and reading.mode != "sample_eval":
        refuse(key, value, "it is measured in mode sample_eval only; expected false")
    return NO_EFFECT, "mode sample_eval measures it with eval.gen_ppl_eval_model_name_or_path, where that is there"


def resume_path(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for checkpointing.resume_ckpt_path: a run only continues from its own last checkpoint."""
    own = Path(str(reading.leaves.get("checkpointing.save_dir") or ".")) / "checkpoints" / "last.ckpt"
    if not value or Path(typed(key, value, str)) == own:
        return HONOURED, "the run's own last checkpoint"
    if os.path.exists(value):
        refuse(key, value, f"a run continues from its own checkpoint; expected {own} or null")
    return NO_EFFECT, "no such file: a run continues from its own checkpoints/last.ckpt, where there is one"


def monitor(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for callbacks.checkpoint_monitor.monitor: SET/METRIC with the name of a validation set."""
    section, _, metric = typed(key, value, str).partition("/")
    sets = reading.leaves.get("data.returnn_valid_config")
    names = [f"val_{name}" for name in sets] if isinstance(sets, dict) else []
    if section not in ("val", *names) or metric not in ("nll", "bpd", "ppl", "loss"):
        refuse(key, value, f"expected {', '.join(['val', *names])} with /nll, /bpd, /ppl or /loss")
    reading.put("trainer.monitor", value, key)
    return HONOURED, "trainer.monitor: best/ is the model of its lowest value"


def wandb(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for section wandb and its keys: options of Weights & Biases, if it is installed."""
    if value is None:
        return (HONOURED, "trainer.logger tensorboard") if key == "wandb" else (NO_EFFECT, "empty")
    if importlib.util.find_spec("wandb") is None:
        return NO_EFFECT, "wandb is not installed: trainer.logger is tensorboard"
    name = key.removeprefix("wandb.")
    if name not in WANDB_KEYS:
        refuse(key, value, "expected a section of keys, or null")
    reading.put("trainer.logger", "wandb", key)
    options = reading.settings.setdefault("trainer.wandb", {})
    options[name] = value
    reading.origin["trainer.wandb"] = "wandb"
    return HONOURED, f"trainer.wandb.{name}"
