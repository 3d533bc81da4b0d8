"""What happens at the end of a validation, in its order.

    module = TrainingModule(model, config, data, folder=folder, validation_end=validation_end(keeper, progress, clip))

`TrainingModule.on_validation_end` is the only hook that runs these steps; no callback has one of its own.
"""

from __future__ import annotations

import lightning

from diffusion_lm.training.clip_callback import ClipTraining
from diffusion_lm.training.keeper import Keeper
from diffusion_lm.training.lightning_module import TrainingModule, ValidationStep
from diffusion_lm.training.progress import Progress


def validation_end(keeper: Keeper, progress: Progress, clip: ClipTraining | None = None) -> list[ValidationStep]:
    """The steps. The averaged weights are in the network until `swap_average_out`: those are the ones to score with and to export."""
    return [
        *([clip.search] if clip else []),  # first: the exported models hold the new interval
        keeper.append_scores,
        keeper.export_best,
        keeper.export_kept,
        swap_average_out,
        keeper.save,  # the weights that are trained, and all of the above
        progress.end_validation,
    ]


def swap_average_out(trainer: lightning.Trainer, module: TrainingModule) -> None:
    """Put the weights that are trained back into the network."""
    module.swap_average()
