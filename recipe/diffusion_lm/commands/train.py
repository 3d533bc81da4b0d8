"""The verb `dlm train`: train from our configuration, or from the configuration tree of an MDLM or BD3-LM run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.services import Services
from returnn_bridge.files import named, read_yaml


def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SECTION.KEY=VALUE]...", help="Settings that override the configuration, e.g. optim.lr=1e-3."
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Preset NAME or NAME:SUFFIX, e.g. librispeech_masked:ar; see --list-presets.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(help="Configuration file (YAML), ours or that of an MDLM / BD3-LM run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; if it holds a run, that run is continued.")] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Save and stop after this time (exit status 75); the same command continues the run."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the complete configuration and stop.")
    ] = False,
    list_presets: Annotated[
        bool, typer.Option("--list-presets", help="Print the presets and suffixes and stop.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print all settings with their defaults and meaning, and stop.")
    ] = False,
    services: Services = Services(),  # noqa: B008  # frozen
) -> None:
    """Train a language model, or continue an interrupted run, which gives the same weights."""
    import yaml

    from diffusion_lm import presets
    from diffusion_lm.config import apply_overrides, from_dict, to_dict

    if list_presets:
        for kind, table in (("preset", presets.PRESETS), ("suffix", presets.SUFFIXES)):
            for name, function in table.items():
                print(f"{kind} {name}: {' '.join((function.__doc__ or '').split())}")
        return
    if explain:
        from diffusion_lm.commands.explain import settings_page

        print(settings_page(), end="")
        return
    if bool(preset) == (config is not None):
        raise ValueError("expected exactly one of --preset NAME and --config FILE")
    if config is not None:
        from diffusion_lm.foreign.translate import is_foreign

        tree = read_yaml(config)
        if is_foreign(tree):
            from diffusion_lm.commands.foreign_modes import run

            run(
                config,
                overrides or [],
                out=out,
                print_only=print_config,
                services=services,
                max_seconds=max_seconds,
            )
            return
        with named(config):
            settings = from_dict(tree)
    else:
        settings = presets.build(preset)
    settings = apply_overrides(settings, overrides or [])
    if print_config:
        print(yaml.safe_dump(to_dict(settings), sort_keys=False), end="")
        return
    if out is None:
        raise ValueError("--out is missing; expected a folder for the run")
    from diffusion_lm.training.run import train as run_training

    run_training(settings, out, max_seconds=max_seconds, source=config)
