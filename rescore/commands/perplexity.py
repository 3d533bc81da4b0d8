"""The verb `dlm perplexity`, for model folders, n-grams and LMs that RETURNN trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands import models
from diffusion_lm.commands.options import say_device
from rescore.lms.options import BatchTokens, Device, Seed
from returnn_bridge.files import check_outputs, write_text


def perplexity(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model folder of this package, an n-gram as an ARPA or KenLM file, or a RETURNN LM (.yaml)."
        ),
    ],
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence per line.")],
    passes: Annotated[
        int, typer.Option(help="Number of network passes per sentence (at least 2), for models that only give a bound.")
    ] = 8,
    seed: Seed = 1,
    device: Device = "auto",
    batch_tokens: BatchTokens = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write the result to as well.")] = None,
) -> None:
    """Measure the perplexity of text: exact for autoregressive models and n-grams, an upper bound for diffusion models.

    The bound is estimated and printed with its standard error.
    """
    from diffusion_lm.device import usable_device

    if model.is_file() and model.suffix in (".yaml", ".yml"):
        from rescore.lms.returnn import returnn_perplexity

        check_outputs([] if out is None else [out], [model, *text])
        used = usable_device(device)
        say_device(str(used))
        exact = returnn_perplexity(model, text, device=str(used), batch_tokens=batch_tokens)
        if out is not None:
            write_text(out, json.dumps(exact.to_dict(), indent=1) + "\n")
        print(exact.summary())
        return
    if model.is_file():
        from rescore.lms.ngram import ngram_perplexity

        check_outputs([] if out is None else [out], [model, *text])
        result = ngram_perplexity(model, text)
        if out is not None:
            values = {**result.__dict__, "perplexity_per_word": result.per_word}
            write_text(out, json.dumps(values, indent=1) + "\n")
        print(result.summary())
        return
    from rescore.lms.network import usual_batch_tokens

    used = usable_device(device)
    say_device(str(used))
    budget = usual_batch_tokens(used.type) if batch_tokens is None else batch_tokens
    models.perplexity(model, text, passes=passes, seed=seed, device=str(used), batch_tokens=budget, out=out)
