"""Train a language model: builds vocabulary, data, family, network and trainer from a configuration and runs them.

    result = train(config, "run")           # a second call with the same folder resumes, and ends with the same weights
    result.model                            # run/model, the self-contained folder

A run writes `model/` (averaged weights of the last step), `best/` (those of the best validation), `kept/` (those of
further validations, if configured), `checkpoints/last.ckpt` (to resume), `config.json`, `inputs.json` (sizes and
digests of its input files), `vocab/`, `progress.json`, `scores.tsv` (a line per validation), `sub_epochs.tsv` and
`tensorboard/`, or `wandb/` and `wandb_id`.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_lm.backbones.flex import check_attention
from diffusion_lm.config import TrainConfig, TrainerConfig
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.checkpoint_check import check_checkpoint, not_restored
from diffusion_lm.training.checkpoint_file import CheckpointFile
from diffusion_lm.training.clip_callback import ClipTraining
from diffusion_lm.training.failures import is_out_of_memory, out_of_memory
from diffusion_lm.training.interruption import StopRequest
from diffusion_lm.training.keeper import Keeper
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.loggers import build_logger
from diffusion_lm.training.packed_rows import packed_rows
from diffusion_lm.training.preload import preload, start_from
from diffusion_lm.training.process import prepare_process
from diffusion_lm.training.progress import Progress
from diffusion_lm.training.run_folder import claim, describe_inputs, only_writer
from diffusion_lm.training.validation import validation_end
from returnn_bridge.datamodule import ReturnnDataModule
from returnn_bridge.datasets import lm_dataset_dict
from returnn_bridge.digests import Digests
from returnn_bridge.files import named, one_line, quoted
from returnn_bridge.token_store import TokenStore, find_store
from returnn_bridge.vocab import Vocab, sentence_pieces_file


@dataclass(frozen=True)
class TrainResult:
    """The trained model and the cost of training it."""

    model: Path
    """Folder of the model of the last step."""
    steps: int
    """Optimizer steps since the beginning of the run."""
    tokens: int
    """Training tokens on all ranks since the beginning of the run."""
    seconds: float
    """Wall-clock time of this call's training."""


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    stop_after: int | None = None,
    max_seconds: float | None = None,
    source: str | os.PathLike[str] | None = None,
) -> TrainResult:
    """Train to `trainer.max_steps`, or continue the run in `out`.

    On SIGTERM, on SIGINT, and `max_seconds` after the call, the run is saved and SystemExit is raised (status 143, 130
    and 75); the same call then continues it. ValueError if `out` holds a run of another configuration or of other data,
    if another process trains in it, and for errors in the configuration or the data.

    Args:
        config: the run's configuration.
        out: folder of the run, new or with an earlier part of this run.
        stop_after: step at which this call ends early, with a model.
        max_seconds: time after which this call ends early, with a checkpoint.
        source: file of the configuration, which errors in its settings then name.
    """
    stop = StopRequest(max_seconds)
    folder = Path(out)
    with nullcontext() if source is None else named(source):
        parts = build(config)
    remembered = Digests(sentence_pieces_file(config.data.vocab).with_name(".inputs.verified"))
    inputs = describe_inputs(parts.vocab, parts.data.train_opts, parts.data.valid_opts, remembered)
    # The folder is checked last, so that any other error leaves it untouched.
    with only_writer(folder, config.trainer) as writes:
        checkpoint = claim(folder, config, parts.vocab, inputs, write=writes)
        last_step = min(config.trainer.max_steps, stop_after or config.trainer.max_steps)
        return finish(fit(config, folder, parts, stop, checkpoint, last_step))


@dataclass(frozen=True)
class Parts:
    """The objects of a training, built and checked before its folder is touched."""

    vocab: Vocab
    """Vocabulary of the data and the model."""
    model: LanguageModel
    """Family and network, with their initial weights."""
    data: ReturnnDataModule
    """Batches for training and validation."""
    store: TokenStore | None
    """Token store that the training text is read from, if there is one."""
    clip: ClipTraining | None
    """Search of training times, if the configuration asks for it."""


def build(config: TrainConfig) -> Parts:
    """Build and check all objects of a training. ValueError for errors in configuration, vocabulary or data."""
    options = config.trainer
    vocab = Vocab.load(_required(config.data.vocab, "data.vocab"))
    train_opts, valid_opts = dataset_dicts(config, vocab)
    store = find_store(train_opts, config.data.vocab, config.data.store)
    torch.manual_seed(config.seed)
    try:
        model = LanguageModel.build(config.family, config.model, vocab)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(out_of_memory(None, config.data.batch_size, error)) from None
    if options.strategy == "fsdp" and model.family.has_policy:
        raise ValueError(
            f"family {config.family['name']!r} trains a second network; "
            "expected trainer.strategy 'auto' or 'ddp', got 'fsdp'"
        )
    check_attention(options.attention, head_width=config.model.head_width, accelerator=options.accelerator)
    model.network.configure(attention=options.attention, recompute=options.activation_checkpointing)
    if options.compile:
        model.network.compile_blocks()
    if config.init_from:
        print_once(start_from(model, config.init_from))
    for line in preload(model, config.preload_from_files):
        print_once(line)
    data = ReturnnDataModule(
        train_opts,
        valid_opts,
        batch_size=config.data.batch_size,
        max_seqs=config.data.max_seqs,
        max_seq_length=config.data.max_seq_length,
        num_tokens=vocab.num_pieces,
        num_workers=config.data.num_workers,
        crop=config.seed if config.data.too_long == "crop" else None,
        valid_crop=config.seed if config.data.valid_too_long == "crop" else None,
        packed=packed_rows(config.data, model) if config.data.wrap else None,
        store=None if store is None else str(store.path),
    )
    clip = ClipTraining(options.clip_search, model.family, config.seed) if options.clip_search else None
    return Parts(vocab, model, data, store, clip)


@dataclass(frozen=True)
class Fitted:
    """A training that has reached its last step."""

    trainer: lightning.Trainer
    """Lightning's trainer."""
    module: TrainingModule
    """Network with its optimiser and weight average."""
    keeper: Keeper
    """Callback that has saved models and scores."""
    start: float
    """`time.monotonic()` before the first step."""


def fit(
    config: TrainConfig, folder: Path, parts: Parts, stop: StopRequest, checkpoint: Path | None, last_step: int
) -> Fitted:
    """Train to `last_step`, from `checkpoint` if given.

    ValueError for a damaged checkpoint, a loss that is not finite, or a batch that does not fit into memory.
    """
    options, model, store = config.trainer, parts.model, parts.store
    on_cpu = options.accelerator == "cpu" or not torch.cuda.is_available()
    prepare_process(on_cpu=on_cpu)
    terminal = sys.stderr.isatty()
    keeper, progress = Keeper(folder, config, stop), Progress(options.log_every, print_lines=not terminal)
    steps = validation_end(keeper, progress, parts.clip)
    module = TrainingModule(model, config, parts.data, folder=folder, validation_end=steps)
    if checkpoint is not None:
        check_checkpoint(checkpoint, module.state_dict())
    if store is not None:
        print_once(f"token store {store.path}: {len(store)} sentences, {len(store.ids)} tokens")
    validates = bool(parts.data.valid_opts)
    trainer = lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=_strategy(options),
        # Otherwise CPU threads add to the same element in random order, which changes the rounding.
        deterministic=on_cpu,
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_steps=last_step,
        max_epochs=-1,
        accumulate_grad_batches=options.accumulate_grad_batches,
        val_check_interval=options.val_check_interval * options.accumulate_grad_batches if validates else 1.0,
        # None: Lightning counts steps over the run, because a sub-epoch may be shorter than the interval.
        check_val_every_n_epoch=None if validates else 1,
        limit_val_batches=options.limit_val_batches if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=options.log_every,
        enable_checkpointing=False,  # Keeper writes checkpoints
        plugins=[CheckpointFile()],
        enable_model_summary=False,
        enable_progress_bar=terminal,
        logger=build_logger(options, folder),
        # Their order does not matter: `validation_end` orders all that happens after a validation.
        callbacks=[
            *([parts.clip] if parts.clip else []),
            keeper,
            progress,
            *([RichProgressBar(leave=True)] if terminal else []),
        ],
        use_distributed_sampler=False,
    )
    print_once(
        f"{config.family['name']}: {model.num_parameters / 1e6:.1f} M parameters, {parts.vocab.num_pieces} pieces, "
        f"on {trainer.strategy.root_device}"
    )
    start = time.monotonic()
    try:
        trainer.fit(module, datamodule=parts.data, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    except SystemExit as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):  # Lightning turns a second Ctrl-C into status 1
            raise KeyboardInterrupt from None
        _shut_down_process_group()  # all processes leave at the same step
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ValueError(out_of_memory(module.current, config.data.batch_size, error)) from error
        # Values of another type in a checkpoint are met when they are restored, or in the first step.
        restoring = not module.started or (not module.stepped and isinstance(error, TypeError | LookupError))
        if checkpoint is None or not restoring or isinstance(error, OSError):
            raise
        raise ValueError(not_restored(checkpoint, f"{type(error).__name__}: {one_line(error)}")) from error
    return Fitted(trainer, module, keeper, start)


def finish(fitted: Fitted) -> TrainResult:
    """Write the model of the last step, and print and return the cost of the training."""
    trainer, module, keeper = fitted.trainer, fitted.module, fitted.keeper
    module.check_loss()
    keeper.finish(trainer, module)
    if module.dropped:
        limit = module.config.data.max_seq_length
        print_once(f"{module.dropped} training sentences longer than data.max_seq_length {limit} were dropped")
    tokens, seconds = module.total(module.tokens_seen), time.monotonic() - fitted.start
    result = TrainResult(keeper.folder / "model", trainer.global_step, tokens, seconds)
    print_once(f"{result.model}: {result.steps} steps, {result.tokens:,} tokens, {result.seconds:.0f} s")
    _shut_down_process_group()
    return result


def _shut_down_process_group() -> None:
    """Barrier, then destroy_process_group: without it a rank that exits early can crash the others."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def print_once(line: str) -> None:
    """Print in the first process of the run only."""
    if getattr(rank_zero_only, "rank", 0) == 0:  # Lightning stores the rank as an attribute of this function
        print(line, flush=True)


def dataset_dicts(config: TrainConfig, vocab: Vocab) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """RETURNN dataset dicts for training and, by name, validation; text is encoded with the vocabulary of data.vocab.

    ValueError without training text, and for a validation set that is given twice.
    """
    data = config.data
    spm = sentence_pieces_file(data.vocab)
    if data.text:
        train_opts = lm_dataset_dict(
            list(data.text), str(spm), partition_epoch=data.partition_epoch, seq_ordering=data.seq_ordering
        )
    elif data.train:
        train_opts = dict(data.train)
    else:
        raise ValueError(
            "data.text and data.train are both empty; expected training text, e.g. data.text=[train.txt.gz]"
        )
    for name, opts in data.valid.items():
        if not isinstance(opts, dict):
            raise ValueError(f"data.valid.{name}: got {quoted(opts)}; expected the dict of a RETURNN dataset")
    valid_opts = {name: dict(opts) for name, opts in data.valid.items()}
    for name, path in data.valid_text.items():
        if name in valid_opts:
            raise ValueError(f"validation set {name!r} is in data.valid and in data.valid_text; expected it once")
        valid_opts[name] = lm_dataset_dict([str(path)], str(spm), seq_ordering="default")
    return train_opts, valid_opts


def _strategy(options: TrainerConfig) -> str | Strategy:
    if options.strategy != "fsdp":
        return options.strategy
    # A single checkpoint file, as without FSDP, so that other tools and another number of processes can read it.
    return ModelParallelStrategy(
        data_parallel_size=options.devices * options.num_nodes,
        tensor_parallel_size=1,
        save_distributed_checkpoint=False,
    )


def _required(value: str, key: str) -> str:
    if not value:
        raise ValueError(f"{key} is empty; expected a vocabulary folder, e.g. one that `dlm vocab` wrote")
    return value
