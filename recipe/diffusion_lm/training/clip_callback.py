"""A callback that searches the interval of training times of a block model at every validation (clip_search.py).

    callbacks.append(ClipTraining({"widths": [0.5, 0.7, 0.9], "delta": 0.05}, model.family, seed=1))

Losses are measured with the averaged weights on the first batches of the first validation set, with the same noise at
every validation and on every rank. The interval is stored in the resume checkpoint and in the config.json of exported
models; no bound depends on it.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from diffusion_lm.draws import draw_noise, step_seed
from diffusion_lm.families import Family
from diffusion_lm.families.base import ClippableFamily
from diffusion_lm.layout import Sentences
from diffusion_lm.training.clip_search import search_clip
from diffusion_lm.training.lightning_module import TrainingModule

BATCHES = 10  # number of validation batches that the losses are measured on
USUAL = {"widths": [0.5, 0.6, 0.7, 0.8, 0.9], "delta": 0.05}


class ClipTraining(Callback):
    """Clip search during training. ValueError for unknown settings and a family without blocks of several tokens."""

    def __init__(self, settings: dict[str, Any], family: Family, seed: int):
        unknown = sorted(set(settings) - set(USUAL))
        if unknown:
            raise ValueError(f"unknown key 'trainer.clip_search.{unknown[0]}'; known here: {', '.join(USUAL)}")
        clippable = family.clippable
        if clippable is None or clippable.exact:
            raise ValueError("trainer.clip_search without a block family of at least two tokens a block; leave it out")
        self.widths = [float(width) for width in settings.get("widths", USUAL["widths"])]
        self.delta, self.seed = float(settings.get("delta", USUAL["delta"])), seed
        self.resample = clippable.resample
        self.sentences: list[Sentences] = []
        self.interval: list[float] = []  # [low, high], empty before the first search

    def state_dict(self) -> dict[str, Any]:
        return {"interval": self.interval}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.interval = list(state_dict["interval"])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._adopt(pl_module)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.sentences = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0 and len(self.sentences) < BATCHES:
            self.sentences.append(pl_module.framed(batch))

    def search(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Search the interval and train on it from now on.

        A step of `validation_end`; the network holds the averaged weights.
        """
        batches = []
        for number, sentences in enumerate(self.sentences):
            generator = torch.Generator().manual_seed(step_seed(self.seed, "clip", number, 0))
            draw = draw_noise(sentences.layout.lengths, generator, stratified=True)
            batches.append((sentences.to(module.device), draw.to(module.device)))
        best = search_clip(_clippable(module), module.network, batches, self.widths, self.delta)[0]
        self.interval = [best.low, best.high]
        self._adopt(module)
        if trainer.is_global_zero:
            print(f"step {trainer.global_step}  training on times {best.low:g} to {best.high:g}", flush=True)

    def _adopt(self, module: TrainingModule) -> None:
        if self.interval:
            low, high = self.interval
            family = _clippable(module).with_interval(low, high, resample=self.resample)
            assert family.clippable is not None
            resample = family.clippable.resample
            module.change_family({"sampling_min": low, "sampling_max": high, "resample": resample})


def _clippable(module: TrainingModule) -> ClippableFamily:
    family = module.model.family.clippable
    assert family is not None, "`ClipTraining` refuses other families"
    return family
