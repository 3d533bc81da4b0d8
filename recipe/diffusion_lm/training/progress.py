"""Training speed: logged in every run, and printed in runs without a terminal, which have no progress bar."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Progress(Callback):
    """Logs train/tokens_per_second every `every` optimizer steps.

    Counted are tokens of all ranks without padding, and time without validation, since the last report.
    """

    def __init__(self, every: int, *, print_lines: bool):
        self.every, self.print_lines = every, print_lines
        self._begin(0)

    def _begin(self, step: int) -> None:
        self.last_step, self.start, self.tokens, self.positions = step, time.monotonic(), 0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._begin(trainer.global_step)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.tokens += int(batch.lengths.sum())
        self.positions += batch.tokens.numel()
        step = trainer.global_step
        if step % self.every or step == self.last_step:
            return
        # Work queued on a GPU may be unfinished, at most about one step of `every`.
        rate = self.tokens * trainer.world_size / (time.monotonic() - self.start)
        pl_module.log("train/tokens_per_second", rate)
        if self.print_lines and trainer.is_global_zero:
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            filled = self.tokens / self.positions
            print(
                f"step {step}/{trainer.max_steps}  loss {loss:.3f}  {rate:,.0f} tokens/s, "
                f"{filled:.0%} of batches filled",
                flush=True,
            )
        self._begin(step)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.start -= time.monotonic()  # stops the clock; `end_validation` starts it again

    def end_validation(self, trainer: lightning.Trainer, module: Any) -> None:
        """Print the validation's values and restart the clock. A step of `validation_end`."""
        self.start += time.monotonic()
        if self.print_lines and trainer.is_global_zero:
            values = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
            line = "  ".join(f"{key} {value:.4f}" for key, value in sorted(values.items()))
            print(f"step {trainer.global_step}  {line}", flush=True)
