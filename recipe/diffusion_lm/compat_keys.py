"""Every key of an MDLM / ASR-fork configuration tree and what becomes of it. compat.py runs this table over a tree.

    reading = read(tree)
    reading.settings["optim.lr"], reading.notes[0].verdict

A rule gets the reading so far, the key and its value; it puts our settings and returns a verdict (honoured, without effect) with one line
of text, or raises the ValueError that refuses the value. Names of classes (`_target_`) are compared with a list, never imported.
Meaning of the keys: MDLM (Sahoo et al., arXiv 2406.07524), its configuration and the fork that reads RETURNN datasets.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from returnn_bridge.datasets import plain_opts

from diffusion_lm.sampling_names import PREDICTOR_NAMES

MODES = ("train", "ppl_eval", "sample_eval", "rescore")
HONOURED, NO_EFFECT = "honoured", "without effect"


class Note(NamedTuple):
    """The verdict on one key."""

    key: str
    value: Any
    verdict: str  # HONOURED or NO_EFFECT; a refused key is an error instead
    text: str  # our setting, or the reason


@dataclass
class Reading:
    """A tree while it is read: its leaves, our settings by dotted name, where each came from, and the verdicts."""

    leaves: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def mode(self) -> str:
        return str(self.leaves.get("mode"))

    def put(self, target: str, value: Any, key: str) -> None:
        self.settings[target] = value
        self.origin[target] = key


Rule = Callable[[Reading, str, Any], tuple[str, str]]


def refuse(key: str, value: Any, expected: str) -> NoReturn:
    raise ValueError(f"{key}: got {value!r}; {expected}")


def typed(key: str, value: Any, kind: type) -> Any:
    """`value` as int, float, bool or str; only lossless changes. YAML 1.1 reads 3e-4 as a string: that is a number here."""
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        refuse(key, value, f"expected {names[kind]}")
    return value


def to(target: str, kind: type, text: str = "") -> Rule:
    """Honoured: the value is our setting `target`."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        reading.put(target, typed(key, value, kind), key)
        return HONOURED, text or target

    return rule


def nothing(reason: str, kind: type | None = None) -> Rule:
    """Without effect, whatever the value."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if kind is not None:
            typed(key, value, kind)
        return NO_EFFECT, reason

    return rule


def only(
    accepted: Mapping[Any, Any], refused: Mapping[Any, str] | None = None, target: str = "", text: str = ""
) -> Rule:
    """One of a few values. With a target: honoured, and `accepted` maps to our value; else without effect for the reason it maps to."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        known = [item for item in accepted if type(item) is type(value) and item == value]
        if not known:
            why = [item for name, item in (refused or {}).items() if type(name) is type(value) and name == value]
            possible = " or ".join(repr(item).lower() if isinstance(item, bool) else repr(item) for item in accepted)
            refuse(key, value, f"{why[0]}; possible: {possible}" if why else f"expected {possible}")
        if not target:
            return NO_EFFECT, accepted[known[0]]
        reading.put(target, accepted[known[0]], key)
        return HONOURED, text or f"{target} {accepted[known[0]]}"

    return rule


def in_mode(mode: str, rule: Rule) -> Rule:
    """A rule for one mode; in the others the value (checked all the same) has no effect."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        verdict = rule(reading, key, value)
        return verdict if reading.mode == mode else (NO_EFFECT, f"read in mode {mode} only")

    return wrapped


def target_class(names: Mapping[str, str], target: str = "") -> Rule:
    """A `_target_`: one of a list of names that are compared, never imported."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if value not in names:
            refuse(key, value, f"expected {' or '.join(names)}; no other name is looked up or run")
        if target:
            reading.put(target, names[value], key)
        return HONOURED, names[value]

    return rule


def _noise_bound(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    number = typed(key, value, float)
    schedule = reading.leaves.get("noise.type")
    if schedule not in ("linear", "geometric"):
        return NO_EFFECT, f"noise.type {schedule} has no such bound"
    options = reading.settings.setdefault("family.schedule_options", {})
    options[key.removeprefix("noise.")] = number
    reading.origin["family.schedule_options"] = "noise.sigma_min, noise.sigma_max"
    return HONOURED, f"family.schedule_options.{key.removeprefix('noise.')}"


def _backbone(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    other = {"dimamba": "the Mamba network is not in this version", "hf_dit": "code from a model hub is never run"}
    wanted = "ar" if reading.leaves.get("parameterization") == "ar" else "dit"
    if value != wanted:
        refuse(key, value, f"{other.get(value, 'it does not fit the parameterization')}; possible here: {wanted!r}")
    return HONOURED, "the reference transformer, causal" if value == "ar" else "the reference transformer"


def _length(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    length = typed(key, value, int)
    if length < 3:
        refuse(key, value, "expected at least 3, BOS and EOS count in it")
    reading.put("data.max_seq_length", length - 2, key)
    return HONOURED, f"data.max_seq_length {length - 2}: BOS and EOS count in model.length"


def _precision(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    names = {"bf16": "bf16", "bf16-mixed": "bf16", "32": "32", "32-true": "32"}
    if str(value) not in names:
        refuse(key, value, "expected 'bf16' or 32")
    reading.put("trainer.precision", names[str(value)], key)
    return HONOURED, "trainer.precision (of training; scores and perplexities are computed in float32)"


def _accelerator(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    names = {"cuda": "cuda", "gpu": "cuda", "cpu": "cpu"}
    if value not in names:
        refuse(key, value, "expected 'cuda' or 'cpu'")
    reading.put("trainer.accelerator", names[value], key)
    return HONOURED, "trainer.accelerator"


def _clip(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    reading.put("trainer.gradient_clip", 0.0 if value is None else typed(key, value, float), key)
    return HONOURED, "trainer.gradient_clip (global norm)"


def _interval(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Lightning counts micro-batches, we count optimizer steps."""
    accumulate = reading.leaves.get("trainer.accumulate_grad_batches", 1)
    if type(value) is not int or type(accumulate) is not int or accumulate < 1 or value % accumulate:
        refuse(key, value, f"expected a number of batches, a multiple of trainer.accumulate_grad_batches {accumulate}")
    reading.put("trainer.val_check_interval", value // accumulate, key)
    return HONOURED, f"trainer.val_check_interval {value // accumulate} (optimizer steps)"


def _limit(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if type(value) not in (int, float) or value < 0 or (type(value) is float and value > 1):
        refuse(key, value, "expected a number of batches or a share in [0, 1]")
    reading.put("trainer.limit_val_batches", value, key)
    return HONOURED, "trainer.limit_val_batches"


def _strategy(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    prefix = "lightning.pytorch.strategies."
    if value == prefix + "FSDPStrategy":
        refuse(key, value, f"averaging and clipping need whole weights; possible: {prefix}DDPStrategy")
    if value != prefix + "DDPStrategy":
        refuse(key, value, f"expected {prefix}DDPStrategy; no other name is looked up or run")
    several = (reading.leaves.get("trainer.devices", 1), reading.leaves.get("trainer.num_nodes", 1)) != (1, 1)
    reading.put("trainer.strategy", "ddp" if several else "auto", key)
    return HONOURED, "trainer.strategy ddp" if several else "trainer.strategy auto: one process"


def _training_steps(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if value != reading.leaves.get("trainer.max_steps"):
        refuse(key, value, "expected the value of trainer.max_steps, where the cosine ends")
    return HONOURED, "the cosine ends at trainer.max_steps"


def _batching(rule: Rule, *, enabled: bool) -> Rule:
    """For keys that count only with RETURNN's batching on, or only with it off."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        on = typed("returnn_batching_enabled", reading.leaves.get("returnn_batching_enabled", False), bool)
        if on == enabled:
            return rule(reading, key, value)
        typed(key, value, int)
        return NO_EFFECT, f"returnn_batching_enabled is {str(on).lower()}: " + (
            "batches follow returnn_batching" if on else "batches follow loader.batch_size"
        )

    return wrapped


def _batch_size(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    rows = typed(key, value, int)
    reading.put("data.max_seqs", rows, key)
    reading.put("data.batch_size", rows * typed("model.length", reading.leaves.get("model.length", 1024), int), key)
    return HONOURED, "data.max_seqs; data.batch_size is large enough not to bind"


def _global_batch_size(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    names = ("loader.batch_size", "trainer.devices", "trainer.num_nodes", "trainer.accumulate_grad_batches")
    product = 1
    for name in names:
        product *= typed(name, reading.leaves.get(name, 1), int)
    if value != product:
        refuse(key, value, f"expected {product} = " + " * ".join(names))
    return HONOURED, "agrees with loader.batch_size on all devices"


def _eval_rows(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    reading.put("sampling.batch_size", typed(key, value, int), key)
    if reading.mode == "sample_eval":
        return HONOURED, "samples in a batch"
    return NO_EFFECT, "evaluation batches hold a number of tokens; no result depends on them"


def _workers(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    reading.put("data.num_workers", min(1, typed(key, value, int)), key)
    return HONOURED, f"data.num_workers {min(1, value)} (more would each load the whole corpus index)"


def _judge(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    wanted = typed(
        "eval.compute_generative_perplexity", reading.leaves.get("eval.compute_generative_perplexity", False), bool
    )
    if value is not None and Path(typed(key, value, str)).is_dir():
        reading.put("run.judge", value, key)
        return in_mode("sample_eval", lambda *_: (HONOURED, "the model that generative perplexity is measured with"))(
            reading, key, value
        )
    if wanted:
        refuse(
            key,
            value,
            "no such folder, and nothing is downloaded; with eval.compute_generative_perplexity expected an autoregressive model folder",
        )
    return NO_EFFECT, "no folder here, and nothing is downloaded: no generative perplexity"


def _generative(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if typed(key, value, bool) and reading.mode != "sample_eval":
        refuse(key, value, "it is measured in mode sample_eval only; expected false")
    return HONOURED, "asks for generative perplexity" if value else "none asked for"


def _resume_path(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    own = Path(str(reading.leaves.get("checkpointing.save_dir") or ".")) / "checkpoints" / "last.ckpt"
    if value is None or Path(typed(key, value, str)) == own:
        return HONOURED, "the run's own last checkpoint"
    if Path(value).exists():
        refuse(key, value, f"a run continues from its own checkpoint; expected {own} or null")
    return NO_EFFECT, "no such file: a run continues from its own checkpoints/last.ckpt, where there is one"


def _monitor(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    section, _, metric = typed(key, value, str).partition("/")
    names = [f"val_{name}" for name in reading.leaves.get("data.returnn_valid_config") or {}]
    if section not in ("val", *names) or metric not in ("nll", "bpd", "ppl", "loss"):
        refuse(key, value, f"expected {', '.join(['val', *names])} with /nll, /bpd, /ppl or /loss")
    reading.put("trainer.monitor", value, key)
    return HONOURED, "trainer.monitor: best/ is the model of its lowest value"


def _train_data(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    try:
        opts = plain_opts(value) if value is not None else {}
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    reading.put("data.train", opts, key)
    vocabs = list(model_files(opts))
    if vocabs:
        reading.put("data.vocab", vocabs[0], key)
    return HONOURED, "data.train, and data.vocab from its SentencePiece model"


def _valid_data(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if value is not None and (type(value) is not dict or "class" in value):
        refuse(key, type(value).__name__, "expected one dataset dict for each name, e.g. {dev: {class: ...}}")
    sets = {}
    for name, opts in (value or {}).items():
        try:
            sets[str(name)] = plain_opts(opts)
        except ValueError as error:
            raise ValueError(f"{key}.{name}: {error}") from None
    reading.put("data.valid", sets, key)
    return HONOURED, "data.valid; the first set is the one that is monitored"


def model_files(opts: Any) -> Iterator[str]:
    """Every SentencePiece model named in a dataset dict."""
    if isinstance(opts, dict):
        if isinstance(opts.get("model_file"), str):
            yield opts["model_file"]
        for item in opts.values():
            yield from model_files(item)


def _wandb(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    if value is None:
        return HONOURED, "trainer.logger tensorboard"
    if importlib.util.find_spec("wandb") is None:
        return NO_EFFECT, "wandb is not installed: trainer.logger is tensorboard"
    if reading.mode == "train":
        reading.put("trainer.logger", "wandb", key)
    return NO_EFFECT, "trainer.logger is wandb, where a run is named after its folder"


_NOT_YET = "not yet in this version"
_AR = "needs parameterization 'ar'"
_WIDTHS = "the reference network never reads it, nor does this one"
_CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_OWN_FILES = "checkpoints/last.ckpt, best/ and model/ in checkpointing.save_dir, whole or not at all"
_ONE = {1: "one is kept"}
_KEPT = {-1: "one checkpoint is kept, the last"}
_FORK = "the reference run's estimator is used here; `dlm score --estimator` knows sample-norm, global-norm and others"


def _forked(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    refuse(key, value, _FORK)


KEYS: dict[str, Rule] = {
    "mode": only({mode: mode for mode in MODES}, target="run.mode", text="what is run"),
    "diffusion": only({"absorbing_state": "a label that no code reads"}),
    "backbone": _backbone,
    "parameterization": only(
        {"subs": "masked", "ar": "autoregressive"},
        {"d3pm": f"{_NOT_YET} (and it needs T > 0)", "sedd": _NOT_YET},
        "family.name",
    ),
    "time_conditioning": to("family.time_conditioning", bool),
    "T": to("family.T", int),
    "subs_masking": only(
        {False: "it belongs to parameterization d3pm"},
        {True: "it belongs to parameterization d3pm, subs never predicts the mask"},
    ),
    "behaviour_version": only({1: 1}, target="run.behaviour_version", text="recorded in config_tree.txt"),
    "seed": to("seed", int),
    "loader.global_batch_size": _batching(_global_batch_size, enabled=False),
    "loader.eval_global_batch_size": nothing(
        "evaluation batches hold a number of tokens; no result depends on them", int
    ),
    "loader.batch_size": _batching(_batch_size, enabled=False),
    "loader.eval_batch_size": _eval_rows,
    "loader.num_workers": _workers,
    "loader.pin_memory": nothing("padding-free batches are built on their way to the device", bool),
    "sampling.predictor": in_mode(
        "sample_eval", only({name: name for name in PREDICTOR_NAMES}, target="sampling.predictor")
    ),
    "sampling.steps": in_mode("sample_eval", to("sampling.steps", int)),
    "sampling.noise_removal": in_mode("sample_eval", to("sampling.noise_removal", bool)),
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
    "eval.compute_generative_perplexity": _generative,
    "eval.perplexity_batch_size": nothing("batches hold a number of tokens; no result depends on them", int),
    "eval.compute_perplexity_on_sanity": nothing("there is no sanity check run (trainer.num_sanity_val_steps)", bool),
    "eval.gen_ppl_eval_model_name_or_path": _judge,
    "eval.generate_samples": nothing("samples are drawn by mode sample_eval, not while training", bool),
    "optim.weight_decay": to("optim.weight_decay", float),
    "optim.lr": to("optim.lr", float),
    "optim.beta1": to("optim.beta1", float),
    "optim.beta2": to("optim.beta2", float),
    "optim.eps": to("optim.eps", float),
    "trainer._target_": target_class({"lightning.Trainer": "Lightning's trainer"}),
    "trainer.accelerator": _accelerator,
    "trainer.num_nodes": to("trainer.num_nodes", int),
    "trainer.devices": to("trainer.devices", int),
    "trainer.accumulate_grad_batches": to("trainer.accumulate_grad_batches", int),
    "trainer.gradient_clip_val": _clip,
    "trainer.precision": _precision,
    "trainer.num_sanity_val_steps": nothing(
        "no sanity check is run; all text files are checked before the first step", int
    ),
    "trainer.max_steps": to("trainer.max_steps", int),
    "trainer.log_every_n_steps": to("trainer.log_every", int),
    "trainer.limit_train_batches": only(
        {1.0: "all batches are used"}, {1: "the stream of batches never ends; use trainer.max_steps"}
    ),
    "trainer.limit_val_batches": _limit,
    "trainer.val_check_interval": _interval,
    "wandb": _wandb,
    **{f"wandb.{name}": _wandb for name in ("project", "notes", "group", "job_type", "name", "id", "tags")},
    "checkpointing.save_dir": to("run.save_dir", str, "the run's folder (--out, where given, comes first)"),
    "checkpointing.resume_from_ckpt": to("run.resume", bool, "an interrupted run is continued"),
    "checkpointing.resume_ckpt_path": _resume_path,
    "rescore.hypothesis_file": in_mode("rescore", to("rescore.hypothesis_file", str)),
    "rescore.output_dir": in_mode("rescore", to("rescore.output_dir", str, "gets lm_scores.py.gz")),
    "rescore.sampling_number": in_mode(
        "rescore", to("rescore.passes", int, "network passes a hypothesis (estimator plain)")
    ),
    "rescore.batch_size": nothing("batches hold a number of tokens; no score depends on them", int),
    **{f"rescore.{name}": _forked for name in ("fixed_padding", "full_length", "normalize_per_sample", "zero_include")},
    "callbacks.checkpoint_every_n_steps._target_": target_class({_CHECKPOINT: "the rolling checkpoint"}),
    "callbacks.checkpoint_every_n_steps.save_top_k": only(_ONE, _KEPT),
    "callbacks.checkpoint_every_n_steps.save_last": only({True: "always"}, {False: "a run must be able to go on"}),
    "callbacks.checkpoint_every_n_steps.every_n_train_steps": to("trainer.save_every", int),
    "callbacks.checkpoint_monitor._target_": target_class({_CHECKPOINT: "the best model"}),
    "callbacks.checkpoint_monitor.monitor": _monitor,
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
    "data.train": only({"returnn": "data.returnn_train_config"}, target="run.train_data", text="RETURNN datasets"),
    "data.valid": only({"returnn": "data.returnn_valid_config"}, target="run.valid_data", text="RETURNN datasets"),
    "data.tokenizer_name_or_path": nothing("the vocabulary is the SentencePiece model of the RETURNN dataset"),
    "data.cache_dir": nothing("RETURNN reads the text itself, nothing is cached"),
    "data.wrap": only(
        {False: "one sentence a row"}, {True: "RETURNN datasets give sentences, which are scored one by one"}
    ),
    "data.streaming": only(
        {False: "RETURNN datasets are read as they are"}, {True: "it is for data sets that are downloaded"}
    ),
    "data.returnn_train_config": _train_data,
    "data.returnn_valid_config": _valid_data,
    "model.name": nothing("a label", str),
    "model.type": only(
        {"ddit": "a label of the reference transformer"}, {"dimamba": "the Mamba network is not in this version"}
    ),
    "model.hidden_size": to("model.hidden_size", int),
    "model.cond_dim": to("model.cond_dim", int),
    "model.length": _length,
    "model.n_blocks": to("model.num_blocks", int),
    "model.n_heads": to("model.num_heads", int),
    "model.scale_by_sigma": nothing(_WIDTHS, bool),
    "model.dropout": to("model.dropout", float),
    "model.tie_word_embeddings": only(
        {False: "the reference network never ties them, nor does this one"},
        {True: "the reference network ignores it and this one has no tied form"},
    ),
    "strategy._target_": _strategy,
    "strategy.find_unused_parameters": only({False: "every parameter is used"}, {True: "every parameter is used"}),
    "noise.type": only(
        {name: name for name in ("loglinear", "linear", "geometric", "cosine", "cosinesqr")},
        {
            "polynomial": "the reference code has no such schedule",
            "ar": "an autoregressive model has no noise; leave loglinear",
        },
        "family.schedule",
    ),
    "noise.sigma_min": _noise_bound,
    "noise.sigma_max": _noise_bound,
    "lr_scheduler._target_": target_class(
        {
            "transformers.get_constant_schedule_with_warmup": "constant",
            "transformers.get_cosine_schedule_with_warmup": "cosine",
        },
        "optim.schedule",
    ),
    "lr_scheduler.num_warmup_steps": to("optim.warmup_steps", int),
    "lr_scheduler.num_training_steps": _training_steps,
    "lr_scheduler.num_cycles": only({0.5: "half a wave, down to 0"}),
    "returnn_batching_enabled": to(
        "run.returnn_batching", bool, "batches by RETURNN's rule, or loader.batch_size sentences"
    ),
    "returnn_batching.batch_size": _batching(to("data.batch_size", int), enabled=True),
    "returnn_batching.max_seqs": _batching(to("data.max_seqs", int), enabled=True),
}
OPAQUE = ("data.returnn_train_config", "data.returnn_valid_config")  # RETURNN's own dicts: checked by the bridge
SECTIONS = sorted(
    {key.rpartition(".")[0] for key in KEYS if "." in key} | {key.partition(".")[0] for key in KEYS if "." in key}
)
