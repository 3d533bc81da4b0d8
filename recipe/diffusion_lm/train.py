"""Train a language model: the composition root, where vocabulary, data, family, network and trainer meet.

    result = train(config, "run")          # again with the same folder: continues where it was, to the same weights
    result.model                            # run/model, the self-contained folder

What a run leaves: `model/` (averaged weights of the last step), `best/` (of the best validation), `checkpoints/last.ckpt` (to resume),
`config.json`, `progress.json`, `scores.tsv` (one line a validation) and `tensorboard/`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from diffusion_lm.bad_batch import is_out_of_memory, out_of_memory
from diffusion_lm.config import TrainConfig, to_dict
from diffusion_lm.interruption import StopRequest
from diffusion_lm.lit_module import TrainingModule
from diffusion_lm.model import LanguageModel
from returnn_bridge.batching import Position
from returnn_bridge.datamodule import ReturnnDataModule
from returnn_bridge.datasets import lm_dataset_dict
from returnn_bridge.token_store import find_store
from returnn_bridge.vocab import MODEL_FILE, Vocab


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model is and what it cost."""

    model: Path
    steps: int
    tokens: int
    seconds: float


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    stop_after: int | None = None,
    max_seconds: float | None = None,
) -> TrainResult:
    """Train to `trainer.max_steps`, or continue the run in `out`. `stop_after` ends this call early, with a model, at that step.

    On SIGTERM, and `max_seconds` after the call, the run is saved and SystemExit raised (status 143 and 75): the same call goes on.
    Raises ValueError when `out` holds a run of another configuration, and for what is wrong in the configuration or the data.
    """
    stop = StopRequest(max_seconds)
    folder = Path(out)
    vocab = Vocab.load(_required(config.data.vocab, "data.vocab"))
    train_opts, valid_opts = dataset_dicts(config, vocab)
    store = find_store(train_opts, config.data.vocab, config.data.store)
    torch.manual_seed(config.seed)
    model = LanguageModel.build(config.family, config.model, vocab)
    if config.init_from:
        _start_from(model, config.init_from)
    data = ReturnnDataModule(
        train_opts,
        valid_opts,
        batch_size=config.data.batch_size,
        max_seqs=config.data.max_seqs,
        max_seq_length=config.data.max_seq_length,
        num_tokens=vocab.num_pieces,
        num_workers=config.data.num_workers,
        store=None if store is None else str(store.path),
    )
    # Last of all that can be wrong: a folder with a configuration in it takes no other.
    _claim(folder, config)
    vocab.save(folder / "vocab")
    module = TrainingModule(model, config, data)
    print(
        f"{config.family['name']}: {model.num_parameters / 1e6:.1f} M parameters, {vocab.num_pieces} pieces",
        flush=True,
    )
    if store is not None:
        print(f"token store {store.path}: {len(store)} sentences, {len(store.ids)} tokens", flush=True)
    keeper = Keeper(folder, config, stop)
    module.after_validation, module.folder = keeper.after_validation, folder
    options = config.trainer
    _quiet()
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, tells nothing
    trainer = lightning.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        # Of several CPU threads that add to one place the order is left to chance otherwise.
        deterministic=options.accelerator == "cpu" or not torch.cuda.is_available(),
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        max_steps=min(options.max_steps, stop_after or options.max_steps),
        max_epochs=-1,
        accumulate_grad_batches=options.accumulate_grad_batches,
        val_check_interval=options.val_check_interval * options.accumulate_grad_batches if valid_opts else 1.0,
        check_val_every_n_epoch=None
        if valid_opts
        else 1,  # count steps over the whole run: a sub-epoch may be shorter than the interval
        limit_val_batches=options.limit_val_batches if valid_opts else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=options.log_every,
        enable_checkpointing=False,  # Keeper writes them, whole or not at all
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        logger=_logger(config, folder),
        callbacks=[keeper, RichProgressBar(leave=True) if sys.stderr.isatty() else PlainProgress(options.log_every)],
        use_distributed_sampler=False,
    )
    start = time.monotonic()
    resume = folder / "checkpoints" / "last.ckpt"
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume.is_file() else None, weights_only=True)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(out_of_memory(module.current, config.data.batch_size, error)) from error
    keeper.finish(trainer, module)
    if module.dropped:
        print(
            f"{module.dropped} training sentences longer than data.max_seq_length {config.data.max_seq_length} were dropped"
        )
    return TrainResult(folder / "model", trainer.global_step, module.tokens_seen, time.monotonic() - start)


def dataset_dicts(config: TrainConfig, vocab: Vocab) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """RETURNN dataset dicts for training and, by name, validation. Every dict encodes with the run's own vocabulary file."""
    data = config.data
    spm = Path(data.vocab) / MODEL_FILE if Path(data.vocab).is_dir() else Path(data.vocab)
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
    valid_opts = {name: dict(opts) for name, opts in data.valid.items()}
    for name, path in data.valid_text.items():
        if name in valid_opts:
            raise ValueError(f"validation set {name!r} is in data.valid and in data.valid_text; expected it once")
        valid_opts[name] = lm_dataset_dict([str(path)], str(spm), seq_ordering="default")
    return train_opts, valid_opts


class Keeper(Callback):
    """Writes the resume checkpoint, the model folders and the scores file, each whole or not at all."""

    def __init__(self, folder: Path, config: TrainConfig, stop: StopRequest):
        self.folder, self.config, self.stop = folder, config, stop
        self.best = float("inf")
        self.saved_step = -1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.stop.listen()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        step, options = trainer.global_step, self.config.trainer
        if pl_module.batches_done % options.accumulate_grad_batches:
            return  # gradients of half a step would be lost
        # When a validation comes now, the checkpoint comes after it: a resume must not lose or repeat it.
        if pl_module.data.valid_names and options.limit_val_batches and step % options.val_check_interval == 0:
            return
        # All ranks have to leave at the same step; the signal may have reached one of them.
        leaving = (
            trainer.strategy.reduce_boolean_decision(bool(self.stop.reason), all=False) and step < trainer.max_steps
        )
        if leaving or step % options.save_every == 0:
            self._save(trainer, pl_module)
        if leaving:
            raise self.stop.leave(step, say=trainer.is_global_zero)

    def after_validation(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Called by the module once the training weights are back in place."""
        self._save(trainer, module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val")}
        monitor = self.config.trainer.monitor
        if monitor not in metrics:
            raise ValueError(f"trainer.monitor {monitor!r} is not measured; known: {', '.join(sorted(metrics))}")
        if trainer.is_global_zero:
            self._append_scores(trainer, pl_module, metrics)
        if metrics[monitor] < self.best:
            self.best = metrics[monitor]
            self._export(trainer, pl_module, "best")  # the module has the averaged weights in place during validation

    def finish(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """After the last step: the checkpoint and `model/`."""
        if trainer.global_step != self.saved_step:
            self._save(trainer, module)
        if module.ema is not None:
            module.ema.swap(module.network)
        self._export(trainer, module, "model")

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self.saved_step = trainer.global_step
        target = self.folder / "checkpoints" / "last.ckpt"
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(".last.ckpt.writing")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, target)
            progress = {"step": trainer.global_step, "max_steps": self.config.trainer.max_steps}
            _write_whole(self.folder / "progress.json", json.dumps(progress) + "\n")

    def _export(self, trainer: lightning.Trainer, module: TrainingModule, name: str) -> None:
        """A model folder. The caller sees to it that the averaged weights are in place: those are the ones to score with."""
        if not trainer.is_global_zero:
            return
        facts = {
            "steps": trainer.global_step,
            "tokens": module.tokens_seen * trainer.world_size,
            "seed": self.config.seed,
            "ema": self.config.trainer.ema,
            "torch": torch.__version__,
        }
        module.model.save(self.folder / name, facts=facts)

    def _append_scores(self, trainer: lightning.Trainer, module: TrainingModule, metrics: dict[str, float]) -> None:
        """One line a validation, in the manner of RETURNN's score file. A step measured again after a resume is replaced."""
        path = self.folder / "scores.tsv"
        names = sorted(key for key in metrics if key.startswith("val_"))
        header = "\t".join(["step", "sub_epoch", "tokens", "learning_rate", *names])
        position: Position = module.data.position
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        fields = [str(trainer.global_step), str(position.sub_epoch), str(module.tokens_seen), f"{rate:.6g}"]
        line = "\t".join(fields + [f"{metrics[name]:.6f}" for name in names])
        lines = path.read_text().splitlines()[1:] if path.is_file() else []
        kept = [old for old in lines if int(old.split("\t", 1)[0]) < trainer.global_step]
        _write_whole(path, "\n".join([header, *kept, line]) + "\n")


class PlainProgress(Callback):
    """A line now and then where there is no terminal to draw a bar on."""

    def __init__(self, every: int):
        self.every = every
        self.start = time.monotonic()
        self.tokens = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.start, self.tokens = time.monotonic(), pl_module.tokens_seen

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        if trainer.global_step % self.every == 0 and trainer.is_global_zero:
            rate = (pl_module.tokens_seen - self.tokens) / (time.monotonic() - self.start)
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            print(f"step {trainer.global_step}/{trainer.max_steps}  loss {loss:.3f}  {rate:,.0f} tokens/s", flush=True)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            values = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
            print(
                f"step {trainer.global_step}  "
                + "  ".join(f"{key} {value:.4f}" for key, value in sorted(values.items())),
                flush=True,
            )


def _start_from(model: LanguageModel, folder: str) -> None:
    """Weights of another model under the same names and shapes; the vocabularies must agree."""
    source = LanguageModel.load(folder)
    if source.vocab.model_proto != model.vocab.model_proto:
        raise ValueError(f"init_from {folder}: its vocabulary is another one; expected the vocabulary of data.vocab")
    own, other = model.network.state_dict(), source.network.state_dict()
    shared = {name: value for name, value in other.items() if name in own and own[name].shape == value.shape}
    if not shared:
        raise ValueError(
            f"init_from {folder}: no weight has the name and shape of one here; expected a network of the same size"
        )
    fresh = sorted(set(own) - set(shared))
    model.network.load_state_dict(shared, strict=False)
    if not any("modulation" in name for name in shared):
        model.network.open_gates()  # closed, as they are at random weights, they would hide what was taken
    print(
        f"started from {folder}: {len(shared)} weights taken, {len(fresh)} fresh {fresh[:3] if fresh else ''}".rstrip()
    )


def _claim(folder: Path, config: TrainConfig) -> None:
    """Write config.json, or check that the run already there, if it has come to a checkpoint, has the same one."""
    path = folder / "config.json"
    tree = to_dict(config)
    if path.is_file() and (folder / "checkpoints" / "last.ckpt").is_file():
        old, new = _deciding(json.loads(path.read_text())), _deciding(tree)
        if old != new:
            changed = [key for key in sorted({**old, **new}) if old.get(key) != new.get(key)]
            raise ValueError(
                f"{folder} holds a run of another configuration ({', '.join(changed[:5])} differ); expected the same one, or a new folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(path, json.dumps(tree, indent=1) + "\n")


def _deciding(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings, by dotted name, that a run can not change: batches are the same bit for bit with and without a token store."""
    return {key: value for key, value in _flat(tree).items() if key != "data.store"}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for key, value in tree.items():
        items.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return items


def _logger(config: TrainConfig, folder: Path) -> Logger | bool:
    if config.trainer.logger == "none":
        return False
    if config.trainer.logger == "wandb":
        try:
            return WandbLogger(project="diffusion-lm", name=folder.name, save_dir=str(folder))
        except ModuleNotFoundError:
            raise ValueError(
                "trainer.logger wandb: the package is not installed; pip install wandb, or trainer.logger=tensorboard"
            ) from None
    return TensorBoardLogger(str(folder), name="tensorboard", version="")


def _quiet() -> None:
    """Lightning's hints about worker counts and hardware; our own lines say what matters."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def _required(value: str, key: str) -> str:
    if not value:
        raise ValueError(f"{key} is empty; expected a vocabulary folder, e.g. one that `dlm vocab` wrote")
    return value


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
