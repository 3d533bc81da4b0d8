"""How fast batches come, against RETURNN's own pipes (length filter, batching, collation) over the same dataset in the same run.

    PYTHONPATH=recipe python benchmarks/data.py [TEXT]

TEXT: sentences, plain or .gz; without it the demo text. One sub-epoch each, twice in turn, in CPU seconds of this one process; the
batches of both must be equal. The goal is 2.5 times the speed of RETURNN's pipes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from returnn_bridge.batching import ReturnnBatches
from returnn_bridge.datasets import init_dataset, lm_dataset_dict
from returnn_bridge.vocab import train_vocab

ROOT = Path(__file__).parents[1]
NUM_PIECES, GOAL = 1000, 2.5
RULE: dict[str, Any] = {"batch_size": 32768, "max_seqs": 256, "max_seq_length": 128}


def returnn_batches(dataset: Any) -> Iterable[dict[str, Any]]:
    """Sub-epoch 1 as RETURNN's own trainer gets it, in one process."""
    from returnn.torch.data.pipeline import BatchingIterDataPipe, LenFilterDataPipe, collate_batch
    from returnn.torch.data.returnn_dataset_wrapper import ReturnnDatasetIterDataPipe

    pipe: Any = ReturnnDatasetIterDataPipe(dataset, reset_callback=lambda: dataset.init_seq_order(epoch=1))
    pipe = LenFilterDataPipe(pipe, max_seq_length=RULE["max_seq_length"])
    pipe = BatchingIterDataPipe(pipe, batch_size=RULE["batch_size"], max_seqs=RULE["max_seqs"])
    return map(collate_batch, pipe)


def timed(batches: Callable[[], Iterable[Any]]) -> tuple[float, list[Any]]:
    start = time.process_time()
    result = list(batches())
    return time.process_time() - start, result


def main() -> int:
    torch.set_num_threads(1)
    text = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data" / "demo" / "train.txt.gz"
    with tempfile.TemporaryDirectory() as folder:
        train_vocab([text], size=NUM_PIECES, out=folder)
        opts = lm_dataset_dict([text], folder)
        dataset = init_dataset(opts, num_tokens=NUM_PIECES)
        dataset.init_seq_order(epoch=1)
        ours = ReturnnBatches(opts, num_tokens=NUM_PIECES, **RULE)
        next(iter(ours))  # both have read the text now
        times: dict[str, list[float]] = {"RETURNN pipes": [], "ReturnnBatches": []}
        for _ in range(2):
            seconds, theirs = timed(lambda: returnn_batches(dataset))
            times["RETURNN pipes"].append(seconds)
            seconds, own = timed(lambda: ours)
            times["ReturnnBatches"].append(seconds)
    assert len(own) == len(theirs), f"{len(own)} batches, RETURNN makes {len(theirs)}"
    for batch, other in zip(own, theirs):
        assert torch.equal(batch.tokens, other["data"].to(torch.int64)), "the batches differ"
    sequences = sum(len(batch.lengths) for batch in own)
    tokens = sum(int(batch.lengths.sum()) for batch in own)
    padded = sum(batch.tokens.numel() for batch in own)
    print(
        f"{text.name}: {sequences} sentences, {tokens} tokens, {len(own)} batches, {tokens / padded:.0%} of their places filled, one core"
    )
    for what, measured in times.items():
        best = min(measured)
        print(f"{what:<16}{sequences / best:9,.0f} sentences/s{tokens / best:12,.0f} tokens/s")
    ratio = min(times["RETURNN pipes"]) / min(times["ReturnnBatches"])
    print(f"ratio {ratio:.2f}  goal {GOAL}: {'ok' if ratio >= GOAL else 'TOO SLOW'}")
    return int(ratio < GOAL)


if __name__ == "__main__":
    sys.exit(main())
