"""RETURNN's unpacked copy of a .gz corpus in a file without a name, which no end of a process can leave behind.

    with unnamed_copies():
        dataset.init_seq_order(epoch=1)                 # an LmDataset reads its corpus here

LmDataset unpacks its .gz files into a temporary file, which has several gigabytes for LibriSpeech's text, and deletes
it when its process ends normally. A data loader process is ended otherwise, and so is a job at SIGKILL. A file without
a name occupies the disk only while a process has it open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PREFIX = "returnn_lm_dataset_"


@contextmanager
def unnamed_copies() -> Iterator[None]:
    """While the block runs, RETURNN's LmDataset gets unnamed temporary files, in the same folder (TMPDIR)."""
    named = tempfile.NamedTemporaryFile

    def unnamed(*args: Any, **options: Any) -> Any:
        if options.get("prefix") == _PREFIX:
            return tempfile.TemporaryFile(*args, **options)
        return named(*args, **options)

    tempfile.NamedTemporaryFile = unnamed
    try:
        yield
    finally:
        tempfile.NamedTemporaryFile = named
