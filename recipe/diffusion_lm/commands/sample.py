"""The verb `dlm sample`: draw sentences from a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.options import Device, say_device
from diffusion_lm.commands.services import Services
from returnn_bridge.files import check_outputs, has_suffix, write_text


def sample(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    count: Annotated[int, typer.Option(help="Number of sentences.")] = 10,
    length: Annotated[
        int, typer.Option(help="Number of pieces per sentence (the maximum for an autoregressive or a block model).")
    ] = 0,
    like: Annotated[
        Path | None, typer.Option(help="Text file; draw sentence lengths from it, instead of --length.")
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            help="Sampler. For a masked model: ddpm_cache (default), ddpm, analytic, certain-first, uncertain-first or "
            "important-first. "
            "Uniform or hybrid: ancestral (default) or greedy-tail. Block: first-hitting (default) or ancestral."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of reverse steps of a diffusion model.")] = 1000,
    nucleus: Annotated[
        float, typer.Option(help="Draw from the most probable pieces with this total probability; for a block model.")
    ] = 1.0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Further option of the sampler, e.g. share=0.1 for certain-first or fixed_length=true for a block "
            "model; can be repeated.",
        ),
    ] = None,
    self_correct: Annotated[
        int, typer.Option(help="Largest number of self-correction rounds; for a uniform or hybrid model.")
    ] = 0,
    judge: Annotated[
        str,
        typer.Option(
            help="Language model for generative perplexity: a model folder, .arpa file or Hugging Face folder."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 1,
    device: Device = "auto",
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also write the sentences to this file, one per line; to a .py or .py.gz as "
            "{tag: [(entropy, text)]}, which i6's GenerativePerplexityJob reads. May be repeated."
        ),
    ] = None,
    services: Services = Services(),  # noqa: B008  # frozen
) -> None:
    """Draw sentences from a model."""
    from diffusion_lm import sampling
    from diffusion_lm.config import parse_value
    from diffusion_lm.model import LanguageModel
    from diffusion_lm.sampling.samples import draw_lengths, entropy_literal, sample_entropy, text_of
    from returnn_bridge.vocab import read_lines

    if (length > 0) == (like is not None):
        raise ValueError("give exactly one of --length NUMBER and --like TEXT")
    check_outputs(out or [], [model, *([like] if like else []), *([judge] if judge else [])])
    trained = LanguageModel.load(model, device=device)
    say_device(str(trained.device))
    judged = services.judge(judge, device=device) if judge else None
    lengths = [length] * count
    if like is not None:
        known = [len(ids) for ids in trained.vocab.encode_batch(list(read_lines([like])))]
        lengths = draw_lengths(known, count, seed=seed)
    options = {}
    for text in option or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text!r}; expected NAME=VALUE")
        options[name] = parse_value(value)
    drawn = sampling.sample(
        trained, lengths, predictor=predictor, steps=steps, nucleus_p=nucleus, seed=seed, options=options
    )
    lines = []
    if self_correct:
        from diffusion_lm.sampling.self_correction import self_correct as correct

        corrected = correct(trained, drawn.tokens, seed=seed, most_rounds=self_correct)
        drawn = sampling.Samples(corrected.tokens, drawn.passes + corrected.passes, drawn.unfinished)
        lines.append(f"self-correction changed {corrected.changed} tokens; agreement {corrected.agreement:.3f}")
    texts = [text_of(tokens, trained.vocab) for tokens in drawn.tokens]
    for path in out or []:
        is_literal = has_suffix(path, ".py")
        write_text(path, entropy_literal(drawn.tokens, texts) if is_literal else "".join(f"{text}\n" for text in texts))
    lines += texts
    lines.append(
        f"entropy {sample_entropy(drawn.tokens):.3f} nats a sentence, "
        f"{drawn.passes / max(1, count):.1f} passes a sentence, {drawn.unfinished} unfinished"
    )
    print("\n".join(lines))
    if judged is not None:
        print(judged(texts))
