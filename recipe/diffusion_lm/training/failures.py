"""What a training says of the batch that it failed at: an error a user can act on, and the batch itself in a file.

Text and numbers only: bad_batch.json is read by people and by whoever repeats the step (its masks and dropout follow from the seed).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch

from returnn_bridge.batching import TokenBatch
from returnn_bridge.files import write_text

FILE = "bad_batch.json"


class Current(NamedTuple):
    """The batch in work."""

    batch: TokenBatch
    step: int
    seed: int  # of its masks and dropout


def not_finite(current: Current, loss: float, folder: Path | None) -> str:
    """The error of a loss that is no number. The batch is saved in the run's folder."""
    position = current.batch.position
    where = f"step {current.step} (sub-epoch {position.sub_epoch}, sequence {position.seqs_done})"
    saved = "" if folder is None else f"; the batch is in {_save(current, folder)}"
    return f"training loss is {loss} at {where}; try a lower optim.lr or trainer.precision=32{saved}"


def out_of_memory(current: Current | None, batch_size: int, error: BaseException) -> str:
    """The error of a batch that does not fit, with what to set."""
    first = str(error).strip().split("\n")[0][:200]
    if current is None:
        return f"out of memory before the first batch ({first}); expected a smaller network or a larger device"
    rows, longest = current.batch.tokens.shape
    return (
        f"out of memory at step {current.step}, a batch of {rows} sentences of up to {longest} pieces ({first}); set data.batch_size below "
        f"{batch_size}, with trainer.accumulate_grad_batches for the same number of tokens a step, or data.max_seq_length below {longest}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine itself, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _save(current: Current, folder: Path) -> Path:
    batch = current.batch
    rows = [row[:length] for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist())]
    facts = {"step": current.step, "seed": current.seed, "seq_tags": list(batch.seq_tags), "tokens": rows}
    write_text(folder / FILE, json.dumps(facts) + "\n")
    return folder / FILE
