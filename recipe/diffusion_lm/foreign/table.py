"""The table of all keys of a foreign configuration tree with their rules, and `read`, which applies it to a tree.

    reading = read(tree)
    reading.settings["optim.lr"], reading.notes[0].verdict

The keys are those of the configuration of MDLM (Sahoo et al., arXiv 2406.07524) and of its fork that reads RETURNN
datasets. The keys that BD3-LM adds are in bd3lm.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusion_lm.foreign.algo import is_exact
from diffusion_lm.foreign.bd3lm import KEYS as BLOCK_KEYS
from diffusion_lm.foreign.bd3lm import by_algo, check_algo, has_algo, noise_removal, tied
from diffusion_lm.foreign.data import text_or_returnn, tokenizer, wrap
from diffusion_lm.foreign.rules import (
    HONOURED,
    NO_EFFECT,
    Note,
    Reading,
    Rule,
    in_mode,
    nothing,
    only,
    refuse,
    refused,
    target_class,
    to,
)
from diffusion_lm.foreign.special import (
    accelerator,
    backbone,
    batch_size,
    batching,
    clip,
    eval_rows,
    generative,
    global_batch_size,
    interval,
    judge,
    length,
    limit,
    monitor,
    noise_bound,
    parameterization,
    precision,
    resume_path,
    strategy,
    subs_masking,
    train_data,
    training_steps,
    valid_data,
    wandb,
    workers,
)
from diffusion_lm.sampling.masked import PREDICTORS

MODES = ("train", "ppl_eval", "sample_eval", "rescore")
_UNREAD = "the reference network never reads it, nor does this one"
_CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_OWN_FILES = "checkpoints/last.ckpt, best/ and model/ in checkpointing.save_dir, whole or not at all"
_ONE = {1: "one is kept"}
_KEPT = {-1: "one checkpoint is kept, the last"}
_FORK = "the reference run's estimator is used here; `dlm score --estimator` knows sample-norm, global-norm and others"


KEYS: dict[str, Rule] = {
    "mode": only({mode: mode for mode in MODES}, target="run.mode"),
    "diffusion": only({"absorbing_state": "a label that no code reads"}),
    "backbone": backbone,
    "parameterization": parameterization,
    "time_conditioning": to("family.time_conditioning", bool),
    "T": to("family.T", int),
    "subs_masking": subs_masking,
    "behaviour_version": only({1: 1}, target="run.behaviour_version"),
    "seed": to("seed", int),
    "loader.global_batch_size": batching(global_batch_size, enabled=False),
    "loader.eval_global_batch_size": nothing(
        "evaluation batches hold a number of tokens; no result depends on them", int
    ),
    "loader.batch_size": batching(batch_size, enabled=False),
    "loader.eval_batch_size": eval_rows,
    "loader.num_workers": workers,
    "loader.pin_memory": nothing("padding-free batches are built on their way to the device", bool),
    "sampling.predictor": in_mode(
        "sample_eval", only({name: name for name in PREDICTORS}, target="sampling.predictor")
    ),
    "sampling.steps": in_mode("sample_eval", to("sampling.steps", int)),
    "sampling.noise_removal": by_algo(in_mode("sample_eval", to("sampling.noise_removal", bool)), noise_removal),
    "sampling.num_sample_batches": in_mode(
        "sample_eval", to("sampling.num_batches", int, "batches of loader.eval_batch_size samples")
    ),
    "sampling.num_sample_log": in_mode(
        "sample_eval", to("sampling.num_shown", int, "samples that are printed; all are written")
    ),
    "sampling.semi_ar": in_mode("sample_eval", to("sampling.semi_autoregressive", bool)),
    "sampling.stride_length": in_mode("sample_eval", to("sampling.stride", int)),
    "sampling.num_strides": in_mode("sample_eval", to("sampling.num_strides", int)),
    "training.ema": to("trainer.ema", float),
    "training.antithetic_sampling": to(
        "family.antithetic_sampling", bool, "family.antithetic_sampling: strata permuted over the batch"
    ),
    "training.importance_sampling": to("family.importance_sampling", bool),
    "training.sampling_eps": to("family.sampling_eps", float),
    "training.change_of_variables": to("family.change_of_variables", bool),
    "eval.checkpoint_path": to("run.model", str, "the model folder that the other modes read"),
    "eval.disable_ema": only(
        {False: "model/ holds the averaged weights, and those are scored with"},
        {True: "model/ holds the averaged weights only; train with training.ema=0 for the last ones"},
    ),
    "eval.compute_generative_perplexity": generative,
    "eval.perplexity_batch_size": nothing("batches hold a number of tokens; no result depends on them", int),
    "eval.compute_perplexity_on_sanity": nothing("there is no sanity check run (trainer.num_sanity_val_steps)", bool),
    "eval.gen_ppl_eval_model_name_or_path": judge,
    "eval.generate_samples": nothing("samples are drawn by mode sample_eval, not while training", bool),
    "optim.weight_decay": to("optim.weight_decay", float),
    "optim.lr": to("optim.lr", float),
    "optim.beta1": to("optim.beta1", float),
    "optim.beta2": to("optim.beta2", float),
    "optim.eps": to("optim.eps", float),
    "trainer._target_": target_class({"lightning.Trainer": "Lightning's trainer"}),
    "trainer.accelerator": accelerator,
    "trainer.num_nodes": to("trainer.num_nodes", int),
    "trainer.devices": to("trainer.devices", int),
    "trainer.accumulate_grad_batches": to("trainer.accumulate_grad_batches", int),
    "trainer.gradient_clip_val": clip,
    "trainer.precision": precision,
    "trainer.num_sanity_val_steps": nothing(
        "no sanity check is run; all text files are checked before the first step", int
    ),
    "trainer.max_steps": to("trainer.max_steps", int),
    "trainer.log_every_n_steps": to("trainer.log_every", int),
    "trainer.limit_train_batches": only(
        {1.0: "all batches are used"}, {1: "the stream of batches never ends; use trainer.max_steps"}
    ),
    "trainer.limit_val_batches": limit,
    "trainer.val_check_interval": interval,
    "wandb": wandb,
    **{f"wandb.{name}": wandb for name in ("project", "notes", "group", "job_type", "name", "id", "tags")},
    "checkpointing.save_dir": to("run.save_dir", str, "the run's folder (--out, where given, comes first)"),
    "checkpointing.resume_from_ckpt": to("run.resume", bool, "an interrupted run is continued"),
    "checkpointing.resume_ckpt_path": resume_path,
    "rescore.hypothesis_file": in_mode("rescore", to("rescore.hypothesis_file", str)),
    "rescore.output_dir": in_mode("rescore", to("rescore.output_dir", str, "gets lm_scores.py.gz")),
    "rescore.sampling_number": in_mode(
        "rescore", to("rescore.passes", int, "network passes a hypothesis (estimator plain)")
    ),
    "rescore.batch_size": nothing("batches hold a number of tokens; no score depends on them", int),
    **{
        f"rescore.{name}": refused(_FORK)
        for name in ("fixed_padding", "full_length", "normalize_per_sample", "zero_include")
    },
    "callbacks.checkpoint_every_n_steps._target_": target_class({_CHECKPOINT: "the rolling checkpoint"}),
    "callbacks.checkpoint_every_n_steps.save_top_k": by_algo(only(_ONE, _KEPT), only(_ONE | _KEPT)),
    "callbacks.checkpoint_every_n_steps.save_last": only({True: "always"}, {False: "a run must be able to go on"}),
    "callbacks.checkpoint_every_n_steps.every_n_train_steps": to("trainer.save_every", int),
    "callbacks.checkpoint_monitor._target_": target_class({_CHECKPOINT: "the best model"}),
    "callbacks.checkpoint_monitor.monitor": monitor,
    "callbacks.checkpoint_monitor.mode": only(
        {"min": "lower is better for every metric"}, {"max": "lower is better for every metric"}
    ),
    "callbacks.checkpoint_monitor.save_top_k": only(_ONE),
    "callbacks.checkpoint_monitor.save_last": nothing("the rolling checkpoint is the last one", bool),
    "callbacks.checkpoint_monitor.filename": nothing(_OWN_FILES, str),
    **{
        f"callbacks.{name}.{key}": nothing(_OWN_FILES)
        for name in ("checkpoint_every_n_steps", "checkpoint_monitor")
        for key in ("dirpath", "verbose", "auto_insert_metric_name")
    },
    "callbacks.learning_rate_monitor._target_": target_class(
        {"lightning.pytorch.callbacks.LearningRateMonitor": "the learning rate stands in scores.tsv"}
    ),
    "callbacks.learning_rate_monitor.logging_interval": nothing(
        "the learning rate stands in scores.tsv, one line a validation", str
    ),
    "data.train": text_or_returnn("train", "laplace:.1000"),
    "data.valid": text_or_returnn("valid", "default"),
    "data.tokenizer_name_or_path": tokenizer,
    "data.cache_dir": nothing("RETURNN reads the text itself, nothing is cached"),
    "data.wrap": wrap,
    "data.streaming": only(
        {False: "RETURNN datasets are read as they are"}, {True: "it is for data sets that are downloaded"}
    ),
    "data.returnn_train_config": train_data,
    "data.returnn_valid_config": valid_data,
    "model.name": nothing("a label", str),
    "model.type": only(
        {"ddit": "a label of the reference transformer"}, {"dimamba": "the Mamba network is not in this version"}
    ),
    "model.hidden_size": to("model.hidden_size", int),
    "model.cond_dim": to("model.cond_dim", int),
    "model.length": length,
    "model.n_blocks": to("model.num_blocks", int),
    "model.n_heads": to("model.num_heads", int),
    "model.scale_by_sigma": nothing(_UNREAD, bool),
    "model.dropout": to("model.dropout", float),
    "model.tie_word_embeddings": by_algo(
        only(
            {False: "the reference network never ties them, nor does this one"},
            {True: "the reference network ignores it and this one has no tied form"},
        ),
        tied,
    ),
    "strategy._target_": strategy,
    "strategy.find_unused_parameters": only({False: "every parameter is used"}, {True: "every parameter is used"}),
    "noise.type": only(
        {name: name for name in ("loglinear", "linear", "geometric", "cosine", "cosinesqr")},
        {
            "polynomial": "the reference code has no such schedule",
            "ar": "an autoregressive model has no noise; leave loglinear",
        },
        "family.schedule",
    ),
    "noise.sigma_min": noise_bound,
    "noise.sigma_max": noise_bound,
    "lr_scheduler._target_": target_class(
        {
            "transformers.get_constant_schedule_with_warmup": "constant",
            "transformers.get_cosine_schedule_with_warmup": "cosine",
        },
        "optim.schedule",
    ),
    "lr_scheduler.num_warmup_steps": to("optim.warmup_steps", int),
    "lr_scheduler.num_training_steps": training_steps,
    "lr_scheduler.num_cycles": only({0.5: "half a wave, down to 0"}),
    "returnn_batching_enabled": to(
        "run.returnn_batching", bool, "batches by RETURNN's rule, or loader.batch_size sentences"
    ),
    "returnn_batching.batch_size": batching(to("data.batch_size", int), enabled=True),
    "returnn_batching.max_seqs": batching(to("data.max_seqs", int), enabled=True),
    **BLOCK_KEYS,
}
OPAQUE = ("data.returnn_train_config", "data.returnn_valid_config")  # RETURNN's own dicts: checked by the bridge
OPTIONAL = ("lr_scheduler.num_training_steps", "lr_scheduler.num_cycles")  # they repeat other keys
SECTIONS = {key[:index] for key in KEYS for index, letter in enumerate(key) if letter == "."}


def read(tree: Mapping[str, Any]) -> Reading:
    """Apply the table to a tree. ValueError that names the key for an unknown key or a refused value."""
    reading = Reading(dict(_leaves(tree, "")))
    if reading.leaves.get("mode") not in MODES:
        refuse("mode", reading.leaves.get("mode"), f"expected one of {', '.join(MODES)}")
    if has_algo(reading):
        check_algo(reading)
    for key, value in reading.leaves.items():
        if isinstance(value, str) and "${" in value:
            refuse(key, value, "expected a resolved tree, as the run printed it")
        verdict, text = KEYS[key](reading, key, value)
        if key not in OPAQUE or not value:
            reading.notes.append(Note(key, value, verdict, text))
            continue
        for inner, item in _leaves(value, f"{key}.", known=False):
            unread = inner.rpartition(".")[2] in ("seq_end_symbol", "unknown_symbol")
            outcome = (NO_EFFECT, "RETURNN ignores it beside orth_vocab") if unread else (HONOURED, text)
            reading.notes.append(Note(inner, item, *outcome))
    if "ar" in (reading.leaves.get("parameterization"), reading.leaves.get("algo.name")):
        _without_noise(reading, ["family.name"], "an autoregressive model has no noise")
    elif is_exact(reading):
        _without_noise(
            reading, ["family.name", "family.block_size"], "with block_size 1 every token is masked, nothing is drawn"
        )
    return reading


def _leaves(tree: Mapping[str, Any], prefix: str, *, known: bool = True) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for each leaf of a tree. known: raise ValueError for keys that are not in the table."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and (key in SECTIONS or not known):
            yield from _leaves(value, f"{key}.", known=known)
        elif not known or key in KEYS:
            yield key, value
        elif key in SECTIONS and value is not None:
            refuse(key, value, "expected a section of keys")
        elif key not in SECTIONS:  # an empty section counts as absent
            if str(name) == "_target_":
                refuse(key, value, "nothing is built here; a _target_ is compared with a list, never imported")
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {key!r}; the nearest known one is {near!r}")


def _without_noise(reading: Reading, kept: Sequence[str], reason: str) -> None:
    """Drop the noise settings of a model without noise, except those in `kept`, and note that their keys have no
    effect.
    """
    dropped = {target for target in reading.settings if target.startswith("family.") and target not in kept}
    dropped |= {"sampling.predictor", "sampling.steps", "sampling.noise_removal"} & reading.settings.keys()
    keys = {reading.origin[target] for target in dropped} - {reading.origin[target] for target in kept}
    for target in dropped:
        del reading.settings[target]
    reading.notes = [
        note._replace(verdict=NO_EFFECT, text=reason) if note.key in keys else note for note in reading.notes
    ]
