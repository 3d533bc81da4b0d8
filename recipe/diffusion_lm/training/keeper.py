"""The callback that writes a run's results: the resume checkpoint, model folders and scores files.

    keeper = Keeper(folder, config, stop)       # a callback; keeper.finish(trainer, module) after the last step

`scores.tsv` has a line for every validation; `sub_epochs.tsv` one for every sub-epoch, with the mean training loss.
`kept/step.N` are models of validations, the last `trainer.keep_last` and the best `trainer.keep_best`, for `dlm
average`.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save as serialize

from diffusion_lm.config import TrainConfig
from diffusion_lm.model_folder import made_by
from diffusion_lm.training.interruption import StopRequest
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.sharding import full_state
from returnn_bridge.batching import Position
from returnn_bridge.files import iterate_lines, quoted, write_text


class Keeper(Callback):
    """Writes the resume checkpoint, the model folders and the scores files; each replaces its older version atomically.

    `append_scores`, `export_best`, `export_kept` and `save` are steps of `validation_end` (validation.py), which
    defines their order and the weights they see.
    """

    def __init__(self, folder: Path, config: TrainConfig, stop: StopRequest):
        self.folder, self.config, self.stop = folder, config, stop
        self.best = float("inf")
        self.saved_step = -1
        self.kept: dict[int, float] = {}  # step of a kept model -> its monitored value
        self.sub_epochs_done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "kept": self.kept, "sub_epochs_done": self.sub_epochs_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        # Checkpoints of earlier versions lack these keys.
        self.kept = {int(step): value for step, value in state_dict.get("kept", {}).items()}
        self.sub_epochs_done = state_dict.get("sub_epochs_done", 0)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.stop.listen()

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any) -> None:
        self._watch_sub_epoch(trainer, pl_module)
        step, options = trainer.global_step, self.config.trainer
        if pl_module.batches_done % options.accumulate_grad_batches:
            return  # a checkpoint within an accumulated step would lose its gradients
        # If a validation follows this step, it saves the checkpoint itself: a resume must not lose or repeat it.
        if pl_module.data.valid_names and options.limit_val_batches and step % options.val_check_interval == 0:
            return
        # All ranks have to stop at the same step, but the signal may have reached only one of them.
        leaving = (
            trainer.strategy.reduce_boolean_decision(bool(self.stop.reason), all=False) and step < trainer.max_steps
        )
        if leaving or step % options.save_every == 0:
            self.save(trainer, pl_module)
        if leaving:
            raise self.stop.leave(step, say=trainer.is_global_zero)

    def append_scores(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Append a validation's line to scores.tsv; the line of a step that is measured again is replaced."""
        metrics = self._metrics(trainer)
        if not trainer.is_global_zero:
            return
        names = sorted(key for key in metrics if key.startswith("val_"))
        position: Position = module.data.position
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        fields = [str(trainer.global_step), str(position.sub_epoch), str(module.tokens_seen), f"{rate:.6g}"]
        header = ["step", "sub_epoch", "tokens", "learning_rate", *names]
        _append(self.folder / "scores.tsv", header, fields + [f"{metrics[name]:.6f}" for name in names])

    def export_best(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Write `best/` if this validation's monitored value is the lowest so far."""
        value = self._metrics(trainer)[self.config.trainer.monitor]
        if value < self.best:
            self.best = value
            self._export(trainer, module, "best")

    def export_kept(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Keep the models of the last and the best validations, as RETURNN's keep_last_n and keep_best_n."""
        options = self.config.trainer
        if not options.keep_last + options.keep_best:
            return
        value = self._metrics(trainer)[options.monitor]
        self.kept = {step: old for step, old in self.kept.items() if step < trainer.global_step} | {
            trainer.global_step: value
        }
        last = sorted(self.kept, reverse=True)[: options.keep_last]
        best = sorted(self.kept, key=lambda step: self.kept[step])[: options.keep_best]
        self.kept = {step: self.kept[step] for step in sorted({*last, *best})}
        if trainer.global_step in self.kept:
            self._export(trainer, module, f"kept/step.{trainer.global_step:08d}")
        if trainer.is_global_zero:
            is_trained = made_by("trained")
            for step, folder in kept_models(self.folder).items():
                if step not in self.kept and is_trained(folder):
                    shutil.rmtree(folder)

    def _watch_sub_epoch(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Append a line to sub_epochs.tsv at the end of a sub-epoch.

        It holds mean training loss (nats), learning rate and tokens, all of rank 0 alone.
        """
        over = module.data.position.sub_epoch - 1
        if over <= self.sub_epochs_done:
            return
        self.sub_epochs_done = over
        loss = module.take_mean_loss()
        if trainer.is_global_zero:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            fields = [str(over), str(trainer.global_step), str(module.tokens_seen), f"{rate:.6g}", f"{loss:.6f}"]
            _append(
                self.folder / "sub_epochs.tsv",
                ["sub_epoch", "step", "tokens", "learning_rate", "train_loss"],
                fields,
            )

    def finish(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Write the checkpoint, `model/` and the policy, if there is one, after the last step."""
        if trainer.global_step != self.saved_step:
            self.save(trainer, module)
        module.swap_average()
        self._export(trainer, module, "model")
        if module.policy is not None and trainer.is_global_zero:
            weights = {name: value.detach().cpu().contiguous() for name, value in module.policy.state_dict().items()}
            write_text(self.folder / "policy.safetensors", serialize(weights))

    def save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Write the resume checkpoint; the network must hold the trained weights, not their average."""
        module.check_loss()
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt")
        if trainer.is_global_zero:
            progress = {"step": trainer.global_step, "max_steps": self.config.trainer.max_steps}
            write_text(self.folder / "progress.json", json.dumps(progress) + "\n")

    def _metrics(self, trainer: lightning.Trainer) -> dict[str, float]:
        """Values of the last validation by name. ValueError if `trainer.monitor` is not among them."""
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val")}
        if (monitor := self.config.trainer.monitor) not in metrics:
            raise ValueError(f"trainer.monitor {monitor!r} is not measured; known: {', '.join(sorted(metrics))}")
        return metrics

    def _export(self, trainer: lightning.Trainer, module: TrainingModule, name: str) -> None:
        """Write the model folder `name`. The caller has put the averaged weights into the network."""
        weights, tokens = full_state(module.network), module.total(module.tokens_seen)
        if not trainer.is_global_zero:
            return
        facts = {
            "steps": trainer.global_step,
            "tokens": tokens,
            "seed": self.config.seed,
            "ema": self.config.trainer.ema,
            "torch": torch.__version__,
        }
        module.model.save(self.folder / name, facts=facts, weights=weights, replaces=made_by("trained"))


def kept_models(folder: Path) -> dict[int, Path]:
    """The model folders of validations in a run folder, by step; other names in kept/ are ignored."""
    found = {path: re.fullmatch(r"step\.(\d{8,})", path.name) for path in sorted((folder / "kept").glob("step.*"))}
    return {int(match[1]): path for path, match in found.items() if match is not None}


def _append(path: Path, header: list[str], fields: list[str]) -> None:
    """Append a line to a table with an increasing first column.

    Existing lines from this value on are removed: they are from a run that had gone further than its checkpoint.
    ValueError with file and line for one that does not begin with a number.
    """
    kept = []
    for number, old in iterate_lines(path) if path.is_file() else ():
        first = old.partition("\t")[0]
        if number > 1 and not (first.isascii() and first.isdigit()):
            raise ValueError(f"{path}:{number}: got {quoted(first)} as {header[0]}; expected the table of this run")
        if number > 1 and int(first[:18]) < int(fields[0]):
            kept.append(old)
    write_text(path, "\n".join(["\t".join(header), *kept, "\t".join(fields)]) + "\n")
