"""The learning-rate schedule: a linear warm-up, a stable phase, and a cosine down to a fraction of the peak.

    factor = learning_rate_factor(OptimConfig(schedule="cosine", warmup_steps=100, stable_steps=400), step, last=1000)

    step   0 .. warmup_steps                rises linearly; its last step has the full rate
           .. warmup_steps + stable_steps   the full rate
           .. last                          half a cosine wave, from 1 to `final_factor`

With the schedule "constant" the stable phase lasts to the end.
"""

from __future__ import annotations

import math

from diffusion_lm.config import OptimConfig


def learning_rate_factor(options: OptimConfig, step: int, last: int) -> float:
    """The learning rate at an optimizer step, counted from 0, as a fraction of `optim.lr`; the run ends at `last`."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return 1.0
    begin = options.warmup_steps + options.stable_steps
    progress = min(1.0, max(0, step - begin) / max(1, last - begin))
    return options.final_factor + (1 - options.final_factor) * 0.5 * (1 + math.cos(math.pi * progress))
