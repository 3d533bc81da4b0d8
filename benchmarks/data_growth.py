"""Measures the start of training against the size of the text, for `python benchmarks/data.py --grow`.

Every figure comes from a separate process. The text is repeated up to each size; for a token store its arrays are
repeated instead of tokenising again. The files were just written, so they are in the page cache. Not included is what
else `dlm train` does at its start: without a store it checks the complete text for bad lines.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIZES = (200_000, 2_000_000, 20_000_000, 40_000_000)
READERS = ("token store", "LmDataset")
ORDER: dict[str, Any] = {"partition_epoch": 20, "seq_ordering": "laplace:.1000"}
SECONDS = 5.0  # for which batches after the first are counted, for tokens per second
COLUMNS = (
    "reader",
    "sentences",
    "s to the first batch",
    "CPU s of it",
    "private MiB",
    "of it before",
    "tokens/s of batches",
)


def grow(text: Path, folder: Path, vocab: Path, plot: Path | None) -> None:
    """Measure all sizes in `folder`, print the table and draw the plot. The vocabulary belongs to the text."""
    from returnn_bridge.token_store import TokenStore, build_store

    small = build_store([text], vocab, folder / "small.hdf")
    found = []
    for size in SIZES:
        stored = folder / "repeated.hdf"
        repeat_store(small.path, size, stored)
        time.sleep(3)  # digests of files that were just written are not cached
        TokenStore.open(stored)  # reads all of it and caches the digest
        found.append(measured(READERS[0], size, text, vocab, stored))
        stored.unlink()
        repeat_text(text, size, folder / "repeated.txt")
        found.append(measured(READERS[1], size, folder / "repeated.txt", vocab))
        (folder / "repeated.txt").unlink()
    print(table(found))
    if plot is not None:
        draw(found, plot)


def measured(reader: str, size: int, text: Path, vocab: Path, store: Path | None = None) -> dict[str, Any]:
    """The measurements of one process."""
    command = [sys.executable, __file__, str(text), str(vocab), str(store or "")]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"reader": reader, "sentences": size, **json.loads(run.stdout.splitlines()[-1])}


def start_and_read(text: str, vocab: str, store: str) -> dict[str, float]:
    """Seconds to the first batch of sub-epoch 1, peak of private memory until then, and tokens per second after it."""
    import h5py  # noqa: F401
    import returnn.datasets.basic  # noqa: F401
    import torch

    from returnn_bridge.batching import ReturnnBatches
    from returnn_bridge.datasets import lm_dataset_dict
    from returnn_bridge.vocab import Vocab

    torch.set_num_threads(1)
    num_tokens = Vocab.load(vocab).num_pieces
    batches = ReturnnBatches(
        lm_dataset_dict([text], vocab, **ORDER), num_tokens=num_tokens, max_seq_length=128, store=store or None
    )
    with PrivateMemory() as memory:
        began, began_cpu = time.perf_counter(), time.process_time()
        stream = iter(batches)
        next(stream)
        first, first_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    began, tokens = time.perf_counter(), 0
    for batch in stream:
        tokens += int(batch.lengths.sum())
        if time.perf_counter() - began > SECONDS:
            break
    rate = tokens / (time.perf_counter() - began)
    return {"seconds": first, "cpu": first_cpu, "private": memory.peak, "before": memory.before, "rate": rate}


class PrivateMemory:
    """Peak of the anonymous memory of this process in MiB, without pages of mapped files, which processes share."""

    def __enter__(self) -> PrivateMemory:
        self.before = self.peak = self.now()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.peak = max(self.peak, self.now())

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def repeat_text(text: Path, size: int, out: Path) -> None:
    """Write the sentences of the text repeatedly into a plain file, up to `size` sentences."""
    with gzip.open(text, "rt") if text.suffix == ".gz" else open(text) as file:
        lines = [line for line in file.read().splitlines() if line.strip()]
    with open(out, "w") as file:
        for start in range(0, size, len(lines)):
            file.write("\n".join(lines[: size - start]) + "\n")


def repeat_store(small: Path, size: int, out: Path) -> None:
    """Write a store that repeats a small one up to `size` sentences, without tags and with the same sources."""
    import h5py

    from returnn_bridge.token_file import LINES, digest_of, read_layout

    with h5py.File(small) as source:
        ids, starts, line_bytes = (source[name][...] for name in ("inputs", "starts", "lineBytes"))
        attributes = dict(source.attrs)
    times, rest = divmod(size, len(line_bytes))
    tokens = times * len(ids) + int(starts[rest])
    with h5py.File(out, "w") as file:
        file.attrs.update({**attributes, "numTimesteps": tokens, "numSeqs": size})
        for name, values, total in (("inputs", ids, tokens), ("lineBytes", line_bytes, size)):
            data = file.create_dataset(name, (total,), values.dtype)
            for place in range(0, total, len(values)):
                data[place : place + len(values)] = values[: total - place]
        data = file.create_dataset("starts", (size + 1,), starts.dtype)
        for number in range(times + 1):
            part = starts[: rest + 1] if number == times else starts[:-1]
            place = number * len(line_bytes)
            data[place : place + len(part)] = part + number * len(ids)
    layout = read_layout(out)
    stored_ids, *lines = layout.map(out)
    with h5py.File(out, "r+") as file:
        file.attrs.update({"sha256": digest_of(stored_ids), LINES: digest_of(*lines)})


def table(found: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    by_place = {(row["reader"], row["sentences"]): row for row in found}
    for reader in READERS:
        for size in SIZES:
            row = by_place[reader, size]
            rounded = [f"{row[key]:.0f}" for key in ("private", "before")]
            figures = [f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", *rounded, f"{row['rate']:,.0f}"]
            rows.append(f"| {reader} | {size:,} | {' | '.join(figures)} |")
    return "\n".join(rows)


def draw(found: Sequence[dict[str, Any]], out: Path) -> None:
    """Plot seconds and memory against the number of sentences, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (seconds, memory) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for reader, colour in zip(READERS, ("tab:blue", "tab:orange")):
        rows = [row for row in found if row["reader"] == reader]
        sizes = [row["sentences"] / 1e6 for row in rows]
        seconds.plot(sizes, [row["seconds"] for row in rows], "o-", color=colour, label=reader)
        memory.plot(sizes, [row["private"] for row in rows], "o-", color=colour, label=reader)
    seconds.axhline(2, color="grey", linestyle=":", linewidth=1)  # the goals
    memory.axhline(1024, color="grey", linestyle=":", linewidth=1)
    for axes, label in ((seconds, "seconds to the first batch"), (memory, "private memory of the process (MiB)")):
        axes.set(xscale="log", yscale="log", xlabel="million sentences", ylabel=label)
        axes.grid(True, which="major", alpha=0.3)
    seconds.legend(frameon=False)
    figure.savefig(out)


if __name__ == "__main__":
    print(json.dumps(start_and_read(*sys.argv[1:])))
