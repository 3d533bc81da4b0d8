"""What the configuration trees of MDLM and BD3-LM runs have in common."""

from __future__ import annotations

from typing import Any

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


def callbacks(*, save_top_k: int) -> dict[str, Any]:
    saved = {"dirpath": "elsewhere", "verbose": True, "auto_insert_metric_name": False, "_target_": CHECKPOINT}
    return {
        "checkpoint_every_n_steps": {
            "save_top_k": save_top_k,
            "save_last": True,
            "every_n_train_steps": 500,
            **saved,
        },
        "checkpoint_monitor": {
            "monitor": "val/nll",
            "mode": "min",
            "save_top_k": 1,
            "save_last": False,
            "filename": "best",
            **saved,
        },
        "learning_rate_monitor": {
            "_target_": "lightning.pytorch.callbacks.LearningRateMonitor",
            "logging_interval": "step",
        },
    }


def small_model(**own: Any) -> dict[str, Any]:
    """The section `model` of a small DiT."""
    return {
        "name": "small",
        "type": "ddit",
        "hidden_size": 768,
        "cond_dim": 128,
        "n_blocks": 12,
        "n_heads": 12,
        "scale_by_sigma": True,
        "dropout": 0.1,
        **own,
    }
