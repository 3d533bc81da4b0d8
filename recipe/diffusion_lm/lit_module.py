"""The training step as a LightningModule: unpack a batch, ask the family for its loss, keep the weight average.

All randomness of a step is seeded by (seed, step, rank), not carried along: a resumed run repeats the interrupted one bit for bit.
A family with a policy gets its second network here: trained and kept in the checkpoint, and no part of the model that is exported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from diffusion_lm import bad_batch
from diffusion_lm.config import TrainConfig
from diffusion_lm.draws import draw_noise, step_seed
from diffusion_lm.families import PolicyFamily
from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel
from returnn_bridge.batching import TokenBatch


class TrainingModule(lightning.LightningModule):
    """Trains `model.network`; `data` is told which batch was consumed so that a resume goes on with the next one."""

    def __init__(self, model: LanguageModel, config: TrainConfig, data: Any):
        super().__init__()
        self.network = model.network
        self.policy = _policy(model, config)
        self.model = model
        self.config = config
        self.data = data
        self.ema = ExponentialMovingAverage(self.network, config.trainer.ema) if config.trainer.ema else None
        self.tokens_seen = 0
        self.dropped = 0
        self._validation: dict[str, list[float]] = {}
        self.batches_done = 0
        self.current: bad_batch.Current | None = None  # what is worked on
        self.folder: Path | None = None  # where a batch that fails is saved
        self.after_validation: Callable[[lightning.Trainer, TrainingModule], None] | None = None

    def on_train_start(self) -> None:
        if self.ema is not None:
            self.ema.to(self.device)

    def training_step(self, batch: TokenBatch, index: int) -> Tensor:
        # The count of micro-batches, not global_step: with accumulation one step has several draws.
        seed = step_seed(self.config.seed, "train", self.batches_done, self.global_rank)
        self.current = bad_batch.Current(batch, self.global_step, seed)
        torch.manual_seed(seed)  # dropout
        sentences = self._framed(batch)
        draw = draw_noise(
            sentences.layout.lengths,
            torch.Generator().manual_seed(seed),
            stratified=self.model.family.stratified,
            step=self.global_step,
            seed=seed,
        )
        family = self.model.family
        own: Tensor | float = 0.0  # of the policy
        if isinstance(family, PolicyFamily):
            terms, penalty, own = family.policy_loss(self.network, self._importance, sentences, draw)
            loss = terms.loss.sum() / terms.weight + penalty
            self.log("train/policy_loss", own)
        else:
            terms = family.training_loss(self.network, sentences, draw)
            loss = terms.loss.sum() / terms.weight
        if not torch.isfinite(loss + own):
            raise ValueError(bad_batch.not_finite(self.current, float((loss + own).detach()), self.folder))
        self.log("train/loss", loss, prog_bar=True)
        self.tokens_seen += int(batch.lengths.sum())
        self.dropped += batch.num_dropped
        self.log("train/dropped_sentences", float(self.dropped))
        self.batches_done += 1
        self.data.consumed(batch)  # here: the checkpoint callback runs before this module's on_train_batch_end
        return loss + own

    def _importance(self, sentences: Sentences) -> Tensor:
        """The policy's scores [N] of clean text. Its gradients end at the network's embedding."""
        scores = self.policy(self.network.embedding(sentences.ids).detach(), sentences.layout)  # type: ignore[misc]
        if not torch.isfinite(scores).all():  # compared with random numbers they would silently choose nothing
            raise ValueError(f"the policy's scores are not finite at step {self.global_step}; try a lower optim.lr")
        return scores

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Here and not by Lightning, which refuses to clip for a fused optimizer under mixed precision.
        limit = self.config.trainer.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit or torch.inf, foreach=True)
        self.log("train/gradient_norm", norm)
        if self.policy is not None:  # apart, so that it never changes the network's step
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit or torch.inf, foreach=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)

    def on_validation_start(self) -> None:
        self._validation = {}
        if self.ema is not None:
            self.ema.to(self.device)
            self.ema.swap(self.network)

    def validation_step(self, batch: TokenBatch, index: int, dataloader_idx: int = 0) -> None:
        name = self.data.valid_names[dataloader_idx]
        seed = step_seed(self.config.seed, f"valid {name}", index, self.global_rank)
        sentences = self._framed(batch)
        family = self.model.family
        draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(seed), stratified=True)
        # The same draws at every validation, so that two validations differ by the model alone.
        nelbo = family.nelbo(self.network, sentences, draw)
        terms = family.training_loss(self.network, sentences, draw)
        sums = self._validation.setdefault(name, [0.0, 0.0, 0.0, 0.0])
        sums[0] += float(nelbo.sum())
        sums[1] += float(family.num_scored(sentences.layout).sum())
        sums[2] += float(terms.loss.double().sum())
        sums[3] += float(terms.weight)

    def on_validation_end(self) -> None:
        if self.ema is not None:
            self.ema.swap(self.network)
        if self.after_validation is not None:
            self.after_validation(self.trainer, self)

    def on_validation_epoch_end(self) -> None:
        for place, name in enumerate(self.data.valid_names):
            if name not in self._validation:
                continue
            sums = torch.tensor(self._validation[name], dtype=torch.float64)
            nelbo, tokens, loss, weight = self._summed(sums).tolist()
            nll = nelbo / max(tokens, 1.0)
            values = {
                "nll": nll,
                "bpd": nll / math.log(2),
                "ppl": math.exp(min(nll, 700.0)),
                "loss": loss / max(weight, 1.0),
            }
            for key, value in values.items():
                self.log(f"val_{name}/{key}", value)
                if place == 0:  # the first set is the one that is monitored
                    self.log(f"val/{key}", value, prog_bar=key == "nll")

    def _summed(self, sums: Tensor) -> Tensor:
        """Over all ranks, in float64 (a device without float64 would round the token counts)."""
        if self.trainer.world_size == 1:
            return sums
        gathered = self.all_gather(sums.to(self.device))
        return gathered.reshape(-1, len(sums)).sum(0).cpu()  # type: ignore[union-attr]

    def _framed(self, batch: TokenBatch) -> Sentences:
        vocab = self.model.vocab
        return Sentences.of_padded(batch.tokens, batch.lengths, bos_id=vocab.bos_id, eos_id=vocab.eos_id).to(
            self.device
        )

    def transfer_batch_to_device(self, batch: TokenBatch, device: torch.device, dataloader_idx: int) -> TokenBatch:
        """Left where it is: only its framed, padding-free form goes to the device."""
        return batch

    def configure_optimizers(self) -> Any:
        options = self.config.optim
        groups = [{"params": part.parameters()} for part in (self.network, self.policy) if part is not None]
        optimizer = torch.optim.AdamW(
            groups,
            lr=options.lr,
            betas=(options.beta1, options.beta2),
            eps=options.eps,
            weight_decay=options.weight_decay,
            fused=True,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Learning rate at a step, as a share of optim.lr."""
        options, last = self.config.optim, self.config.trainer.max_steps
        if step < options.warmup_steps:
            return (step + 1) / options.warmup_steps
        if options.schedule == "constant":
            return 1.0
        progress = min(1.0, (step - options.warmup_steps) / max(1, last - options.warmup_steps))
        return options.final_factor + (1 - options.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {
            "tokens_seen": self.tokens_seen,
            "dropped": self.dropped,
            "batches_done": self.batches_done,
            "data": self.data.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.tokens_seen, self.dropped = progress["tokens_seen"], progress["dropped"]
        self.batches_done = progress["batches_done"]
        self.data.load_state_dict(progress["data"])
        if self.ema is not None and progress["ema"] is not None:
            self.ema.load_state_dict(progress["ema"])


def _policy(model: LanguageModel, config: TrainConfig) -> torch.nn.Module | None:
    """The second network of a family that trains one; its start moves nobody's random state."""
    if not isinstance(model.family, PolicyFamily):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(config.seed, "policy", 0, 0))
        return model.family.build_policy(model.network.embedding.embedding_dim)


class ExponentialMovingAverage:
    """Average of the weights with a warm-up of the decay: d = min(decay, (1 + n) / (10 + n)) at update n."""

    def __init__(self, network: torch.nn.Module, decay: float):
        self.decay = decay
        self.num_updates = 0
        self.shadow = [parameter.detach().clone() for parameter in network.parameters()]

    def to(self, device: torch.device) -> None:
        self.shadow = [value.to(device) for value in self.shadow]

    @torch.no_grad()
    def update(self, network: torch.nn.Module) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in network.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self, network: torch.nn.Module) -> None:
        """Exchange the network's weights and the average; a second call puts both back."""
        for parameter, average in zip(network.parameters(), self.shadow):
            keep = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(keep)

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "num_updates": self.num_updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        self.shadow = list(state["shadow"])
