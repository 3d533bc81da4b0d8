"""The table of all keys of a foreign configuration tree: a row (rows.py) for each.

    KEYS["optim.lr"].modes              # ("train",): in the other modes the key has no effect
    KEYS["model.n_blocks"].compared     # ("model.num_blocks",): in the other modes the loaded model must agree

The keys are those of the configuration of MDLM (Sahoo et al., arXiv 2406.07524) and of its fork that reads RETURNN
datasets. The keys that BD3-LM adds are in bd3lm.py.
"""

from __future__ import annotations

from diffusion_lm.config import WANDB_KEYS
from diffusion_lm.foreign.bd3lm import KEYS as BLOCK_KEYS
from diffusion_lm.foreign.bd3lm import by_algo, noise_removal, tied
from diffusion_lm.foreign.data import of_part, of_valid, text_or_returnn, tokenizer, train_data, valid_data, wrap
from diffusion_lm.foreign.rows import EVALUATION, MODES, PPL, RESCORE, SAMPLE, TRAIN, VALIDATION, Row
from diffusion_lm.foreign.rules import nothing, only, refused, target_class, to
from diffusion_lm.foreign.special import (
    accelerator,
    backbone,
    batch_size,
    batching,
    clip,
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
    semi_ar,
    strategy,
    subs_masking,
    training_steps,
    wandb,
    workers,
)
from diffusion_lm.sampling.masked import PREDICTORS

_UNREAD = "the reference network never reads it, nor does this one"
_CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"
_OWN_FILES = "checkpoints/last.ckpt, best/ and model/ in checkpointing.save_dir, whole or not at all"
_TOKENS = "batches of evaluations hold a number of tokens; no result depends on them"
_ONE = {1: "one is kept"}
_KEPT = {-1: "one checkpoint is kept, the last"}
_FORK = "the reference run's estimator is used here; `dlm score --estimator` knows sample-norm, global-norm and others"


KEYS: dict[str, Row] = {
    "mode": Row(only({mode: mode for mode in MODES}, target="run.mode")),
    "diffusion": Row(only({"absorbing_state": "a label that no code reads"})),
    "backbone": Row(backbone, TRAIN, ("model.network",)),
    "parameterization": Row(parameterization, TRAIN, ("family.name", "family.parameterization")),
    "time_conditioning": Row(to("family.time_conditioning", bool), TRAIN, ("family.time_conditioning",)),
    "T": Row(to("family.T", int), TRAIN, ("family.T",)),
    "subs_masking": Row(subs_masking, TRAIN, ("family.subs_masking",)),
    "behaviour_version": Row(only({1: 1}, target="run.behaviour_version")),
    "seed": Row(to("seed", int)),
    "loader.global_batch_size": Row(batching(global_batch_size, enabled=False), TRAIN),
    "loader.eval_global_batch_size": Row(nothing(_TOKENS, int)),
    "loader.batch_size": Row(of_part(batching(batch_size, enabled=False)), VALIDATION),
    "loader.eval_batch_size": Row(to("sampling.batch_size", int, "samples in a batch"), SAMPLE),
    "loader.num_workers": Row(workers, TRAIN),
    "loader.pin_memory": Row(nothing("padding-free batches are built on their way to the device", bool)),
    "sampling.predictor": Row(only({name: name for name in PREDICTORS}, target="sampling.predictor"), SAMPLE),
    "sampling.steps": Row(to("sampling.steps", int), SAMPLE),
    "sampling.noise_removal": Row(by_algo(to("sampling.noise_removal", bool), noise_removal), SAMPLE),
    "sampling.num_sample_batches": Row(
        to("sampling.num_batches", int, "batches of loader.eval_batch_size samples"), SAMPLE
    ),
    "sampling.num_sample_log": Row(to("sampling.num_shown", int, "samples that are printed; all are written"), SAMPLE),
    "sampling.semi_ar": Row(to("sampling.semi_autoregressive", bool), SAMPLE),
    "sampling.stride_length": Row(semi_ar(to("sampling.stride", int)), SAMPLE),
    "sampling.num_strides": Row(semi_ar(to("sampling.num_strides", int)), SAMPLE),
    "training.ema": Row(to("trainer.ema", float), TRAIN),
    "training.antithetic_sampling": Row(
        to("family.antithetic_sampling", bool, "family.antithetic_sampling: strata permuted over the batch"), TRAIN
    ),
    "training.importance_sampling": Row(to("family.importance_sampling", bool), TRAIN),
    "training.sampling_eps": Row(to("family.sampling_eps", float), TRAIN, ("family.sampling_eps",)),
    "training.change_of_variables": Row(to("family.change_of_variables", bool), TRAIN, ("family.change_of_variables",)),
    "eval.checkpoint_path": Row(to("run.model", str, "the model folder"), EVALUATION),
    "eval.disable_ema": Row(
        only(
            {False: "model/ holds the averaged weights, and those are scored with"},
            {True: "model/ holds the averaged weights only; train with training.ema=0 for the last ones"},
        )
    ),
    "eval.compute_generative_perplexity": Row(generative),
    "eval.perplexity_batch_size": Row(nothing(_TOKENS, int)),
    "eval.compute_perplexity_on_sanity": Row(
        nothing("there is no sanity check run (trainer.num_sanity_val_steps)", bool)
    ),
    "eval.gen_ppl_eval_model_name_or_path": Row(judge, SAMPLE),
    "eval.generate_samples": Row(nothing("samples are drawn by mode sample_eval, not while training", bool)),
    "optim.weight_decay": Row(to("optim.weight_decay", float), TRAIN),
    "optim.lr": Row(to("optim.lr", float), TRAIN),
    "optim.beta1": Row(to("optim.beta1", float), TRAIN),
    "optim.beta2": Row(to("optim.beta2", float), TRAIN),
    "optim.eps": Row(to("optim.eps", float), TRAIN),
    "trainer._target_": Row(target_class({"lightning.Trainer": "Lightning's trainer"}), TRAIN),
    "trainer.accelerator": Row(accelerator),
    "trainer.num_nodes": Row(to("trainer.num_nodes", int), TRAIN),
    "trainer.devices": Row(to("trainer.devices", int), TRAIN),
    "trainer.accumulate_grad_batches": Row(to("trainer.accumulate_grad_batches", int), TRAIN),
    "trainer.gradient_clip_val": Row(clip, TRAIN),
    "trainer.precision": Row(precision, TRAIN),
    "trainer.num_sanity_val_steps": Row(
        nothing("no sanity check is run; all text files are checked before the first step", int)
    ),
    "trainer.max_steps": Row(to("trainer.max_steps", int), TRAIN),
    "trainer.log_every_n_steps": Row(to("trainer.log_every", int), TRAIN),
    "trainer.limit_train_batches": Row(
        only({1.0: "all batches are used"}, {1: "the stream of batches never ends; use trainer.max_steps"})
    ),
    "trainer.limit_val_batches": Row(of_valid(limit), VALIDATION),
    "trainer.val_check_interval": Row(interval, TRAIN),
    "wandb": Row(wandb, TRAIN),
    **{f"wandb.{name}": Row(wandb, TRAIN) for name in WANDB_KEYS},
    "checkpointing.save_dir": Row(to("run.save_dir", str, "the run's folder (--out, where given, comes first)")),
    "checkpointing.resume_from_ckpt": Row(to("run.resume", bool, "an interrupted run is continued"), TRAIN),
    "checkpointing.resume_ckpt_path": Row(resume_path, TRAIN),
    "rescore.hypothesis_file": Row(to("rescore.hypothesis_file", str), RESCORE),
    "rescore.output_dir": Row(to("rescore.output_dir", str, "gets lm_scores.py.gz"), RESCORE),
    "rescore.sampling_number": Row(to("rescore.passes", int, "network passes a hypothesis (estimator plain)"), RESCORE),
    "rescore.batch_size": Row(nothing(_TOKENS, int)),
    **{
        f"rescore.{name}": Row(refused(_FORK))
        for name in ("fixed_padding", "full_length", "normalize_per_sample", "zero_include")
    },
    "callbacks.checkpoint_every_n_steps._target_": Row(target_class({_CHECKPOINT: "the rolling checkpoint"}), TRAIN),
    "callbacks.checkpoint_every_n_steps.save_top_k": Row(by_algo(only(_ONE, _KEPT), only(_ONE | _KEPT))),
    "callbacks.checkpoint_every_n_steps.save_last": Row(only({True: "always"}, {False: "a run must be able to go on"})),
    "callbacks.checkpoint_every_n_steps.every_n_train_steps": Row(to("trainer.save_every", int), TRAIN),
    "callbacks.checkpoint_monitor._target_": Row(target_class({_CHECKPOINT: "the best model"}), TRAIN),
    "callbacks.checkpoint_monitor.monitor": Row(monitor, TRAIN),
    "callbacks.checkpoint_monitor.mode": Row(
        only({"min": "lower is better for every metric"}, {"max": "lower is better for every metric"})
    ),
    "callbacks.checkpoint_monitor.save_top_k": Row(only(_ONE)),
    "callbacks.checkpoint_monitor.save_last": Row(nothing("the rolling checkpoint is the last one", bool)),
    "callbacks.checkpoint_monitor.filename": Row(nothing(_OWN_FILES, str)),
    **{
        f"callbacks.{name}.{key}": Row(nothing(_OWN_FILES))
        for name in ("checkpoint_every_n_steps", "checkpoint_monitor")
        for key in ("dirpath", "verbose", "auto_insert_metric_name")
    },
    "callbacks.learning_rate_monitor._target_": Row(
        target_class({"lightning.pytorch.callbacks.LearningRateMonitor": "the learning rate stands in scores.tsv"}),
        TRAIN,
    ),
    "callbacks.learning_rate_monitor.logging_interval": Row(
        nothing("the learning rate stands in scores.tsv, one line a validation", str)
    ),
    "data.train": Row(text_or_returnn("train", "laplace:.1000"), TRAIN),
    "data.valid": Row(of_valid(text_or_returnn("valid", "default")), VALIDATION),
    "data.tokenizer_name_or_path": Row(tokenizer, TRAIN, ("data.vocab",)),
    "data.cache_dir": Row(nothing("RETURNN reads the text itself, nothing is cached")),
    "data.wrap": Row(wrap, (*TRAIN, *PPL)),
    "data.streaming": Row(
        only({False: "RETURNN datasets are read as they are"}, {True: "it is for data sets that are downloaded"})
    ),
    "data.returnn_train_config": Row(train_data, TRAIN),
    "data.returnn_valid_config": Row(of_valid(valid_data), VALIDATION),
    "model.name": Row(nothing("a label", str)),
    "model.type": Row(
        only({"ddit": "a label of the reference transformer"}, {"dimamba": "the Mamba network is not in this version"})
    ),
    "model.hidden_size": Row(to("model.hidden_size", int), TRAIN, ("model.hidden_size",)),
    "model.cond_dim": Row(to("model.cond_dim", int), TRAIN, ("model.cond_dim",)),
    "model.length": Row(length, VALIDATION),
    "model.n_blocks": Row(to("model.num_blocks", int), TRAIN, ("model.num_blocks",)),
    "model.n_heads": Row(to("model.num_heads", int), TRAIN, ("model.num_heads",)),
    "model.scale_by_sigma": Row(nothing(_UNREAD, bool)),
    "model.dropout": Row(to("model.dropout", float), TRAIN),
    "model.tie_word_embeddings": Row(
        by_algo(
            only(
                {False: "the reference network never ties them, nor does this one"},
                {True: "the reference network ignores it and this one has no tied form"},
            ),
            tied,
        )
    ),
    "strategy._target_": Row(strategy, TRAIN),
    "strategy.find_unused_parameters": Row(only({False: "every parameter is used"}, {True: "every parameter is used"})),
    "strategy.sharding_strategy": Row(
        only(dict.fromkeys(("FULL_SHARD", "SHARD_GRAD_OP"), "how weights are sharded changes no result"))
    ),
    "noise.type": Row(
        only(
            {name: name for name in ("loglinear", "linear", "geometric", "cosine", "cosinesqr")},
            {
                "polynomial": "the reference code has no such schedule",
                "ar": "an autoregressive model has no noise; leave loglinear",
            },
            "family.schedule",
        ),
        TRAIN,
        ("family.schedule",),
    ),
    "noise.sigma_min": Row(noise_bound, TRAIN, ("family.noise.sigma_min",)),
    "noise.sigma_max": Row(noise_bound, TRAIN, ("family.noise.sigma_max",)),
    "lr_scheduler._target_": Row(
        target_class(
            {
                "transformers.get_constant_schedule_with_warmup": "constant",
                "transformers.get_cosine_schedule_with_warmup": "cosine",
            },
            "optim.schedule",
        ),
        TRAIN,
    ),
    "lr_scheduler.num_warmup_steps": Row(to("optim.warmup_steps", int), TRAIN),
    "lr_scheduler.num_training_steps": Row(training_steps, TRAIN),
    "lr_scheduler.num_cycles": Row(only({0.5: "half a wave, down to 0"})),
    "returnn_batching_enabled": Row(
        of_part(to("run.returnn_batching", bool, "batches by RETURNN's rule, or loader.batch_size sentences")),
        VALIDATION,
    ),
    "returnn_batching.batch_size": Row(of_part(batching(to("data.batch_size", int), enabled=True)), VALIDATION),
    "returnn_batching.max_seqs": Row(of_part(batching(to("data.max_seqs", int), enabled=True)), VALIDATION),
    **BLOCK_KEYS,
}
OPAQUE = ("data.returnn_train_config", "data.returnn_valid_config")  # RETURNN's own dicts: checked by the bridge
OPTIONAL = (  # they repeat other keys, or stand beside some values only
    "lr_scheduler.num_training_steps",
    "lr_scheduler.num_cycles",
    "strategy.sharding_strategy",
)
SECTIONS = {key[:index] for key in KEYS for index, letter in enumerate(key) if letter == "."}
