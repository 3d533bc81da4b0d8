"""The training step as a LightningModule: unpack a batch, ask the family for its loss, keep the weight average.

All randomness of a step is seeded by (seed, step, rank) and no generator state is kept, so a resumed run repeats the
interrupted one bit for bit. A family with a policy gets its second network here; it is trained and kept in the
checkpoint, but is no part of the exported model.

The loss of a step is the mean over the predictions of all its micro-batches and ranks, not a mean of means, so every
token has the same weight. Sentences and noise stay on the CPU, indices and weights are computed there, and the network
copies its inputs: a step does not synchronise with the device (except for a policy's scores, which decide what is
masked). Whether a loss is finite is checked one step later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from diffusion_lm.config import TrainConfig
from diffusion_lm.device import AsyncScalar, to_device
from diffusion_lm.draws import draw_noise, step_seed
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.training import failures
from diffusion_lm.training.averaging import ExponentialMovingAverage
from diffusion_lm.training.learning_rate import learning_rate_factor
from diffusion_lm.training.sharding import gather_full, scale_gradients, shard
from returnn_bridge.batching import TokenBatch

ValidationStep = Callable[[lightning.Trainer, "TrainingModule"], None]


class TrainingModule(lightning.LightningModule):
    """Trains `model.network` and reports each consumed batch to `data`, so that a resume continues with the next one.

    folder: the run's folder, where a batch with a non-finite loss is saved; None to save none.
    validation_end: steps at the end of a validation in their order, `swap_average` among them (validation.py).
    """

    def __init__(
        self,
        model: LanguageModel,
        config: TrainConfig,
        data: Any,
        *,
        folder: Path | None = None,
        validation_end: Sequence[ValidationStep] = (),
    ):
        super().__init__()
        self.network = model.network
        self.policy = _policy(model, config)
        self.model = model
        self.config = config
        self.data = data
        self.ema = ExponentialMovingAverage(self.network, config.trainer.ema) if config.trainer.ema else None
        self.tokens_seen = 0
        self.dropped = 0
        self._sharded = False
        self._validation: dict[str, list[float]] = {}
        self._left_over: dict[str, int] = {}  # of each validation set
        self.batches_done = 0
        self.started = False  # whether the state of a checkpoint is restored, if there is one
        self.stepped = False  # whether an optimizer step has been done since
        self.current: failures.Current | None = None  # the batch that is processed, for error messages
        self._unchecked: tuple[failures.Current, AsyncScalar] | None = None  # the last loss, not yet checked
        self._sub_epoch_loss = _zero(), _zero()  # sum of losses, on the network's device, and of weights
        self._weight = _zero()  # sum of the weights of this optimizer step's micro-batches
        self.folder = folder
        self.validation_end = validation_end

    def configure_model(self) -> None:
        if self.config.trainer.strategy == "fsdp" and not self._sharded:
            assert self.device_mesh is not None
            shard(self.network, self.device_mesh["data_parallel"])
            self._sharded = True
            if self.ema is not None:
                self.ema.start(self.network)

    def on_train_start(self) -> None:
        self.started = True
        if self.ema is not None:
            self.ema.to(self.device)

    def training_step(self, batch: TokenBatch, index: int) -> Tensor:
        # The count of micro-batches, not global_step: with accumulation one step has several draws.
        seed = step_seed(self.config.seed, "train", self.batches_done, self.global_rank)
        self.current = failures.Current(batch, self.global_step, seed)
        torch.manual_seed(seed)  # dropout
        sentences = self.framed(batch)
        draw = draw_noise(
            sentences.layout.lengths,
            torch.Generator().manual_seed(seed),
            stratified=self.model.family.stratified,
            step=self.global_step,
            seed=seed,
        )._replace(device=self.device)
        family = self.model.family
        penalty: Tensor | float = 0.0
        policy_loss: Tensor | float = 0.0
        if family.has_policy:
            inputs = sentences.to(self.device), draw.to(self.device)
            terms, penalty, policy_loss, effective = family.policy_loss(self.network, self._importance, *inputs)
            self.log("train/policy_loss", policy_loss)
            if effective is not None:
                self.log("train/effective_sample_size", effective)
        else:
            terms = family.training_loss(self.network, sentences, draw)
        loss = terms.loss.sum() / terms.weight
        self._watch(loss + penalty + policy_loss)
        self.log("train/loss", loss + penalty)
        weight = torch.as_tensor(terms.weight, dtype=torch.float64)
        self._sub_epoch_loss = (
            self._sub_epoch_loss[0] + terms.loss.detach().sum().double(),
            self._sub_epoch_loss[1] + weight,
        )
        tokens = int(batch.lengths.sum())
        self.tokens_seen += tokens
        self._log_number("train/filled", tokens / batch.tokens.numel())  # share of positions that are not padding
        self.dropped += batch.num_dropped
        self._log_number("train/dropped_sentences", self.dropped)
        self.batches_done += 1
        self.data.consumed(batch)  # before the checkpoint callback, which precedes this module's on_train_batch_end
        if self._shares_step:
            self._weight = self._weight + weight
            # Divided by a constant here; on_before_optimizer_step rescales once the total weight is known.
            loss = terms.loss.sum() / self.config.data.batch_size
        return loss + penalty + policy_loss

    @property
    def _shares_step(self) -> bool:
        """Whether an optimizer step combines several batches."""
        return self.trainer.world_size * self.config.trainer.accumulate_grad_batches > 1

    def take_mean_loss(self) -> float:
        """Mean of the minimised loss (nats) since the last call."""
        loss, weight = map(float, self._sub_epoch_loss)
        self._sub_epoch_loss = _zero(), _zero()
        return loss / max(weight, 1.0)

    def _log_number(self, name: str, value: float, **where: Any) -> None:
        """Log a number as a CPU tensor; Lightning would copy a plain number to the device and wait for it."""
        self.log(name, torch.tensor(float(value)), **where)

    def total(self, count: int) -> int:
        """The sum of `count` over all ranks; a collective call."""
        return sum(self._of_all_ranks(count))

    def _of_all_ranks(self, count: int) -> list[int]:
        if self.trainer.world_size == 1:
            return [count]
        counts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(counts, count)
        return counts

    def _watch(self, loss: Tensor) -> None:
        """Queue a check of this loss, and check the one before it, which the device has finished by now."""
        assert self.current is not None
        before, self._unchecked = self._unchecked, (self.current, AsyncScalar(loss))
        self._check(before)
        if before is not None:
            self._log_number("loss", float(before[1]), prog_bar=True, logger=False)

    def check_loss(self) -> None:
        """ValueError if the last loss is not finite; its batch is saved. Call this before weights are written."""
        last, self._unchecked = self._unchecked, None
        self._check(last)

    def _check(self, watched: tuple[failures.Current, AsyncScalar] | None) -> None:
        if watched is not None and not math.isfinite(float(watched[1])):
            raise ValueError(failures.not_finite(watched[0], float(watched[1]), self.folder))

    def _importance(self, sentences: Sentences) -> Tensor:
        """The policy's scores [N] of clean text; its gradients do not reach the network's embedding."""
        scores = self.policy(self.network.embedding(sentences.ids).detach(), sentences.layout)  # type: ignore[misc]
        if not torch.isfinite(scores).all():  # compared with random numbers they would silently choose nothing
            raise ValueError(f"the policy's scores are not finite at step {self.global_step}; try a lower optim.lr")
        return scores

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._shares_step:
            total = to_device(self._weight, self.device)
            self._weight = _zero()
            world = self.trainer.world_size
            if world > 1:
                torch.distributed.all_reduce(total)
            # Lightning has divided by the number of micro-batches, and the ranks' gradients were averaged.
            parts = world * self.config.trainer.accumulate_grad_batches
            scale = self.config.data.batch_size * parts / total.clamp(min=1)
            scale_gradients(self.network, scale.float())
        # Not by Lightning, because it refuses to clip for a fused optimizer under mixed precision.
        limit = self.config.trainer.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit or torch.inf, foreach=True)
        self.log("train/gradient_norm", gather_full(norm))
        if self.policy is not None:  # clipped separately, so that it never changes the network's step
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit or torch.inf, foreach=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.network)
        self.stepped = True

    def on_validation_start(self) -> None:
        self.check_loss()
        self._validation = {}
        if self.ema is not None:
            self.ema.to(self.device)
        self.swap_average()

    def validation_step(self, batch: TokenBatch, index: int, dataloader_idx: int = 0) -> None:
        name = self.data.valid_names[dataloader_idx]
        seed = step_seed(self.config.seed, f"valid {name}", index, self.global_rank)
        sentences = self.framed(batch)
        family = self.model.family
        draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(seed), stratified=True)
        sentences, draw = sentences.to(self.device), draw.to(self.device)
        # The same draws at every validation, so that two validations differ by the model alone.
        nelbo = family.nelbo(self.network, sentences, draw)
        terms = family.training_loss(self.network, sentences, draw)
        sums = self._validation.setdefault(name, [0.0, 0.0, 0.0, 0.0])
        sums[0] += float(nelbo.sum())
        sums[1] += float(family.num_scored(sentences.layout).sum())
        sums[2] += float(terms.loss.double().sum())
        sums[3] += float(terms.weight)
        if batch.left_over:
            self._left_over[name] = batch.left_over

    def on_validation_end(self) -> None:
        for step in self.validation_end:
            step(self.trainer, self)

    def swap_average(self) -> None:
        """Exchange the network's weights and their average, if there is one; a second call puts both back."""
        if self.ema is not None:
            self.ema.swap(self.network)

    def change_family(self, changes: Mapping[str, Any]) -> None:
        """Train the same network on with these family options; exported models have them too."""
        self.model = self.model.with_family_options(changes)

    def on_validation_epoch_end(self) -> None:
        for index, name in enumerate(self.data.valid_names):
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
            if name in self._left_over:  # tokens after the last packed row
                self.log(f"val_{name}/left_over", float(self._left_over[name]))
            for key, value in values.items():
                self.log(f"val_{name}/{key}", value)
                if index == 0:  # the first validation set is the monitored one
                    self.log(f"val/{key}", value, prog_bar=key == "nll")

    def _summed(self, sums: Tensor) -> Tensor:
        """Sum `sums` over all ranks in float64, because float32 would round the token counts."""
        if self.trainer.world_size == 1:
            return sums
        gathered = self.all_gather(sums.to(self.device))
        return gathered.reshape(-1, len(sums)).sum(0).cpu()  # type: ignore[union-attr]

    def framed(self, batch: TokenBatch) -> Sentences:
        """The batch with BOS and EOS, on the CPU, where reading lengths needs no synchronisation."""
        if batch.framed:  # packed rows, all of the same length
            return Sentences(batch.tokens.flatten(), Layout(batch.lengths))
        vocab = self.model.vocab
        return Sentences.of_padded(batch.tokens, batch.lengths, bos_id=vocab.bos_id, eos_id=vocab.eos_id)

    def transfer_batch_to_device(self, batch: TokenBatch, device: torch.device, dataloader_idx: int) -> TokenBatch:
        """Leave the batch on the CPU: only its framed, padding-free form is copied to the device."""
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
        last = self.config.trainer.max_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(options, step, last))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {
            "tokens_seen": self._of_all_ranks(self.tokens_seen),
            "dropped": self._of_all_ranks(self.dropped),
            "batches_done": self.batches_done,
            "sub_epoch_loss": torch.stack([part.cpu() for part in self._sub_epoch_loss]),
            "data": self.data.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.batches_done = progress["batches_done"]
        if "sub_epoch_loss" in progress:  # absent in checkpoints of earlier versions
            loss, weight = progress["sub_epoch_loss"]
            self._sub_epoch_loss = loss, weight
        self.data.load_state_dict(progress["data"])
        rank = self.global_rank  # below len(counts): the data module refuses another number of ranks
        for name in ("tokens_seen", "dropped"):
            counts = progress[name]  # a single number in checkpoints of earlier versions
            setattr(self, name, counts if isinstance(counts, int) else counts[rank])
        if self.ema is not None and progress["ema"] is not None:
            self.ema.load_state_dict(progress["ema"])


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _policy(model: LanguageModel, config: TrainConfig) -> torch.nn.Module | None:
    """The second network of a family that trains one, or None. torch's global random state is left unchanged."""
    if not model.family.has_policy:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(config.seed, "policy", 0, 0))
        return model.family.build_policy(model.network.embedding.embedding_dim)
