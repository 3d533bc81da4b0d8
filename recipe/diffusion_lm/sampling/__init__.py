"""Draw sentences from a trained model.

    drawn = sample(model, draw_lengths([9, 12, 17], 64, seed=1), predictor="ddpm_cache", steps=1000, seed=1)
    for tokens in drawn.tokens:
        print(model.vocab.decode(tokens))

The `sampler_kind` of the family selects the samplers of a model; the first one of a kind is the default. To add your
own:

    SAMPLERS["masks"].add("mine", MySampler)                               # for existing families
    SAMPLERS.add("mine", Registry("predictor", {"usual": MySampler}))      # for families whose sampler_kind is "mine"

The name is then valid as `predictor`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler
from diffusion_lm.sampling.block import AncestralBlocks, FirstHitting
from diffusion_lm.sampling.by_entropy import CertainFirst, UncertainFirst
from diffusion_lm.sampling.by_importance import ImportantFirst
from diffusion_lm.sampling.left_to_right import LeftToRight
from diffusion_lm.sampling.masked import PREDICTORS
from diffusion_lm.sampling.noise import AncestralNoise, GreedyTail
from diffusion_lm.sampling.samples import Samples
from diffusion_lm.sampling.semi_autoregressive import SemiAutoregressive
from diffusion_lm.strict import convert
from returnn_bridge.registry import Registry

SAMPLERS: Registry[Registry[type[Sampler]]] = Registry(
    "kind of sampler",
    {
        "masks": Registry(
            "predictor",
            {
                **PREDICTORS,
                "certain-first": CertainFirst,
                "uncertain-first": UncertainFirst,
                "important-first": ImportantFirst,
                "semi-autoregressive": SemiAutoregressive,
            },
        ),
        "noise": Registry("predictor", {"ancestral": AncestralNoise, "greedy-tail": GreedyTail}),
        "blocks": Registry("predictor", {"first-hitting": FirstHitting, "ancestral": AncestralBlocks}),
        "left-to-right": Registry("predictor", {"left-to-right": LeftToRight}),
    },
)

__all__ = ["SAMPLERS", "Sampler", "Samples", "build_sampler", "sample"]


def build_sampler(
    model: LanguageModel, predictor: str | None = None, **options: bool | int | float | str | None
) -> Sampler:
    """Build the sampler with this name and these options; None selects the first sampler for the model.

    ValueError for a name unknown for this kind of model, and for an option that is unknown, missing or of a wrong type.
    """
    named = SAMPLERS[model.family.sampler_kind]
    name = next(iter(named)) if predictor is None else predictor
    kind = named[name]
    allowed = kind.options()
    known = f"expected one of {', '.join(allowed)}" if allowed else "it has none"
    for option in options:
        if option not in allowed:
            raise ValueError(f"predictor {name!r} has no option {option!r}; {known}")
    for option, parameter in allowed.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"predictor {name!r} without its option {option!r}; expected a value")
    hints = get_type_hints(kind.__init__)
    converted = {
        key: convert(hints[key], value, f"predictor {name!r}, option {key}") if key in hints else value
        for key, value in options.items()
    }
    return kind(model, **converted)


def sample(
    model: LanguageModel,
    lengths: Sequence[int],
    *,
    predictor: str | None = None,
    steps: int = 1000,
    noise_removal: bool = True,
    nucleus_p: float = 1.0,
    seed: int = 1,
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
) -> Samples:
    """Draw one sentence for each of `lengths`, with the options that most samplers share.

    Args:
        lengths: numbers of pieces; for an autoregressive or a block model, the largest numbers allowed.
        predictor: name of a sampler of the model's kind (SAMPLERS); None selects the first one.
        steps: steps of the reverse process (per block for a block model); ignored by samplers without time steps.
        noise_removal: whether to fill masks that remain after the last step; for samplers with this option.
        nucleus_p: draw from the most probable symbols with this total probability; for samplers with this option.
        seed: seed of all random numbers.
        batch_size: number of sentences per network run; it does not change the sentences.
        options: further options of the sampler, by name.

    ValueError for lengths or options that the model does not support.
    """
    named = SAMPLERS[model.family.sampler_kind]
    allowed = named[next(iter(named)) if predictor is None else predictor].options()
    given: dict[str, Any] = {"steps": steps} if "steps" in allowed else {}
    # Defaults are not passed on, because not every sampler has these options.
    given |= {} if noise_removal else {"noise_removal": noise_removal}
    given |= {} if nucleus_p == 1 else {"nucleus_p": nucleus_p}
    return build_sampler(model, predictor, **{**given, **(options or {})}).draw_all(
        lengths, seed=seed, batch_size=batch_size
    )
