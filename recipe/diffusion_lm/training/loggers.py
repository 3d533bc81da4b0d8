"""Where a training logs its losses: TensorBoard files in the run folder, or a run of Weights & Biases.

    logger = build_logger(config.trainer, Path("run"))      # for lightning.Trainer(logger=...)

A continued training goes on in the same W&B run: its id is trainer.wandb.id, or one that is drawn once and kept in
`wandb_id` in the run folder.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from diffusion_lm.config import TrainerConfig
from returnn_bridge.files import write_text


def build_logger(options: TrainerConfig, folder: Path) -> Logger | bool:
    """The logger of trainer.logger; False for none. ValueError if W&B is asked for and not installed."""
    if options.logger == "none":
        return False
    if options.logger == "tensorboard":
        return TensorBoardLogger(str(folder), name="tensorboard", version="")
    given = {"project": "diffusion-lm", "name": folder.name, "id": _run_id(folder), **options.wandb}
    try:
        return WandbLogger(save_dir=str(folder), **given)
    except ModuleNotFoundError:
        raise ValueError(
            "trainer.logger wandb: the package is not installed; pip install wandb, or trainer.logger=tensorboard"
        ) from None


def _run_id(folder: Path) -> str:
    """The id that was drawn for the training in this folder, or a new one, which the first process writes down.

    Only that process has a W&B run, so the others need not know its id.
    """
    file = folder / "wandb_id"
    if file.is_file():
        return file.read_text().strip()
    drawn = secrets.token_hex(4)
    if getattr(rank_zero_only, "rank", 0) == 0:
        write_text(file, f"{drawn}\n")
    return drawn
