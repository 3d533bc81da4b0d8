"""Error messages for a batch that training failed on, and the file `bad_batch.json` that the batch is saved in.

The file holds step, seed, sequence tags and piece ids; masks and dropout of the step follow from the seed.
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
    """The batch that is being processed."""

    batch: TokenBatch
    """Its tokens."""
    step: int
    """Optimizer step."""
    seed: int
    """Seed of the batch's masks and dropout."""


def not_finite(current: Current, loss: float, folder: Path | None) -> str:
    """The error message for a loss that is not finite; saves the batch in `folder` unless that is None."""
    position = current.batch.position
    where = f"step {current.step} (sub-epoch {position.sub_epoch}, sequence {position.seqs_done})"
    saved = "" if folder is None else f"; the batch is in {_save(current, folder)}"
    return f"training loss is {loss} at {where}; try a lower optim.lr or trainer.precision=32{saved}"


def out_of_memory(current: Current | None, batch_size: int, error: BaseException) -> str:
    """The error message for a batch that does not fit into memory, with settings that help."""
    first = str(error).strip().split("\n")[0][:200]
    if current is None:
        return f"out of memory before the first batch ({first}); expected a smaller network or a larger device"
    rows, longest = current.batch.tokens.shape
    return (
        f"out of memory at step {current.step}, a batch of {rows} sentences of up to {longest} pieces ({first}); "
        f"set data.batch_size below {batch_size}, with trainer.accumulate_grad_batches for the same number of tokens a "
        f"step, or data.max_seq_length below {longest}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that a device or the host is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _save(current: Current, folder: Path) -> Path:
    batch = current.batch
    rows = [row[:length] for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist())]
    facts = {"step": current.step, "seed": current.seed, "seq_tags": list(batch.seq_tags), "tokens": rows}
    write_text(folder / FILE, json.dumps(facts) + "\n")
    return folder / FILE
