"""Writing a resume checkpoint straight to the folder it belongs to.

    lightning.Trainer(plugins=[CheckpointFile()], ...)

Lightning's own writer needs the size of the checkpoint twice more: in memory, and as a file in the system's temporary
folder, which on many machines is small or in memory, too.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from returnn_bridge.files import PathLike, whole_file


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name beside its file, which it replaces when it is complete and on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: PathLike, storage_options: Any = None) -> None:
        """OSError naming the file, for example if the disk is full."""
        with whole_file(path) as temporary, open(temporary, "wb") as file:  # by name, its name would be in the bytes
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch reports that an archive is incomplete, instead of the failed write that is the reason.
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
