"""The steps at the end of a validation, in their order.

    module = TrainingModule(model, config, data, folder=folder, validation_end=validation_end(keeper, progress, clip))

`TrainingModule.on_validation_end` runs these steps; callbacks define no such hook, so the order is fixed here.
"""

from __future__ import annotations

import lightning

from diffusion_lm.training.clip_callback import ClipTraining
from diffusion_lm.training.keeper import Keeper
from diffusion_lm.training.lightning_module import TrainingModule, ValidationStep
from diffusion_lm.training.progress import Progress


def validation_end(keeper: Keeper, progress: Progress, clip: ClipTraining | None = None) -> list[ValidationStep]:
    """The steps. Until `swap_average_out` the network holds the averaged weights, which are scored and exported."""
    return [
        *([clip.search] if clip else []),  # first: the exported models hold the new interval
        keeper.append_scores,
        keeper.export_best,
        keeper.export_kept,
        swap_average_out,
        keeper.save,  # last of the writing steps: the checkpoint holds the trained weights and the results of the above
        progress.end_validation,
    ]


def swap_average_out(trainer: lightning.Trainer, module: TrainingModule) -> None:
    """Put the trained weights back into the network in place of their average."""
    module.swap_average()
