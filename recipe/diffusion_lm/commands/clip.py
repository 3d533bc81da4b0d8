"""The verb `dlm clip`: search the interval of training times for a block model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.options import Device, say_device
from returnn_bridge.bar import progress_bar


def clip(
    model: Annotated[Path, typer.Argument(help="Model folder of a block model that was trained for some time.")],
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence per line.")],
    width: Annotated[
        list[float] | None, typer.Option(help="Width of the intervals; can be repeated [0.5 0.6 0.7 0.8 0.9].")
    ] = None,
    delta: Annotated[float, typer.Option(help="Distance between the starts of neighbouring intervals.")] = 0.05,
    sentences: Annotated[int, typer.Option(help="Number of lines to use, from the first.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the masks and of the times.")] = 1,
    device: Device = "auto",
    show: Annotated[int, typer.Option(help="Number of intervals to print, the best first.")] = 10,
) -> None:
    """Search the interval of times whose training loss has the lowest variance.

    It prints values for family.sampling_min and family.sampling_max of a block model.
    """
    from itertools import islice

    import torch

    from diffusion_lm.draws import draw_noise, step_seed
    from diffusion_lm.model import LanguageModel
    from diffusion_lm.training.clip_search import search_clip
    from returnn_bridge.vocab import read_lines

    trained = LanguageModel.load(model, device=device)
    say_device(str(trained.device))
    family = trained.family.clippable
    if family is None:
        raise ValueError(f"{model}: no family with an interval of training times; expected a block model")
    rows = trained.vocab.encode_batch(list(islice(read_lines(text), sentences)))
    batches = []
    for start in range(0, len(rows), 64):
        framed = trained.frame(rows[start : start + 64])
        generator = torch.Generator().manual_seed(step_seed(seed, "clip", start, 0))
        batches.append((framed, draw_noise(framed.layout.lengths, generator, stratified=True)))
    widths = width or [0.5, 0.6, 0.7, 0.8, 0.9]
    with progress_bar() as progress:
        tracked = progress.track(batches, description="clip search")
        clips = search_clip(family, trained.network, tracked, widths, delta)
    all_times = next(clip for clip in clips if clip.low <= family.sampling_eps and clip.high == 1)
    print("| times | variance, nats² | of all times |\n|---|---|---|")
    for clip in clips[:show]:
        share = clip.variance / all_times.variance
        print(f"| {clip.low:g} to {clip.high:g} | {clip.variance:.3f} | {share:.2f} |")
    best = clips[0]
    print(f"\nfamily.sampling_min={best.low:g} family.sampling_max={best.high:g}")
