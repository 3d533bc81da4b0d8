"""Measures the speed of our batches against RETURNN's pipes (length filter, batching, collation) on the same dataset.

    PYTHONPATH=recipe python benchmarks/data.py [TEXT]
    PYTHONPATH=recipe python benchmarks/data.py [TEXT] --grow --plot data_growth.svg

TEXT: sentences, plain or .gz; the default is the demo text. Each loader reads one sub-epoch twice, in turn, measured in
CPU seconds of this process, and all batches must be equal. The goals are 2.5 times the speed of RETURNN's pipes, and 20
times with a token store. --grow measures the start of training with up to 40 million sentences (data_growth.py); it
takes minutes, 6 GB of memory and 5 GB of disk in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from data_growth import grow

from returnn_bridge.batching import ReturnnBatches
from returnn_bridge.datasets import init_dataset, lm_dataset_dict
from returnn_bridge.token_store import build_store
from returnn_bridge.vocab import train_vocab

ROOT = Path(__file__).parents[1]
NUM_PIECES, GOALS = 1000, {"ReturnnBatches": 2.5, "token store": 20.0}
RULE: dict[str, Any] = {"batch_size": 32768, "max_seqs": 256, "max_seq_length": 128}


def returnn_batches(dataset: Any) -> Iterable[dict[str, Any]]:
    """The batches of sub-epoch 1 from RETURNN's pipes, in one process."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", type=Path, default=ROOT / "data" / "demo" / "train.txt.gz")
    parser.add_argument("--grow", action="store_true", help="measure the start of training, by number of sentences")
    parser.add_argument("--plot", type=Path, help="with --grow: SVG to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = options.text
    if options.grow:
        with tempfile.TemporaryDirectory() as folder:
            train_vocab([text], size=NUM_PIECES, out=folder)
            grow(text, Path(folder), Path(folder), options.plot)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        train_vocab([text], size=NUM_PIECES, out=folder)
        opts = lm_dataset_dict([text], folder)
        dataset = init_dataset(opts, num_tokens=NUM_PIECES)
        dataset.init_seq_order(epoch=1)
        ours = ReturnnBatches(opts, num_tokens=NUM_PIECES, **RULE)
        stored = ReturnnBatches(opts, num_tokens=NUM_PIECES, store=str(Path(folder) / "corpus.hdf"), **RULE)
        began = time.process_time()
        build_store([text], folder, Path(folder) / "corpus.hdf")
        print(f"store built in {time.process_time() - began:.1f} s")
        next(iter(ours)), next(iter(stored))  # so that opening the text is not measured
        times: dict[str, list[float]] = {"RETURNN pipes": [], "ReturnnBatches": [], "token store": []}
        for _ in range(2):
            seconds, theirs = timed(lambda: returnn_batches(dataset))
            times["RETURNN pipes"].append(seconds)
            seconds, own = timed(lambda: ours)
            times["ReturnnBatches"].append(seconds)
            seconds, mapped = timed(lambda: stored)
            times["token store"].append(seconds)
    assert len(own) == len(theirs), f"{len(own)} batches, RETURNN makes {len(theirs)}"
    for batch, other, third in zip(own, theirs, mapped, strict=True):
        assert torch.equal(batch.tokens, other["data"].to(torch.int64)), "the batches differ"
        assert torch.equal(batch.tokens, third.tokens) and batch.position == third.position, "the batches differ"
    sequences = sum(len(batch.lengths) for batch in own)
    tokens = sum(int(batch.lengths.sum()) for batch in own)
    padded = sum(batch.tokens.numel() for batch in own)
    print(
        f"{text.name}: {sequences} sentences, {tokens} tokens, {len(own)} batches,"
        f" {tokens / padded:.0%} of their places filled, one core"
    )
    for what, measured in times.items():
        best = min(measured)
        print(f"{what:<16}{sequences / best:9,.0f} sentences/s{tokens / best:12,.0f} tokens/s")
    slow = False
    for what, goal in GOALS.items():
        ratio = min(times["RETURNN pipes"]) / min(times[what])
        slow |= ratio < goal
        print(f"{what}: ratio {ratio:.2f}  goal {goal}: {'ok' if ratio >= goal else 'TOO SLOW'}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
