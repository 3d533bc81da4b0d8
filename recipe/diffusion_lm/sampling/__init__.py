"""Draw sentences from a trained model.

    drawn = sample(model, draw_lengths([9, 12, 17], 64, seed=1), predictor="ddpm_cache", steps=1000, seed=1)
    for tokens in drawn.tokens:
        print(model.vocab.decode(tokens))

Which samplers a model has follows from its family's `sampler_kind`; the first one of a kind is the default. Samplers of your own:

    SAMPLERS["masks"].add("mine", MySampler)                                       # for families that there are
    SAMPLERS.add("mine", Registry("predictor", {"usual": MySampler}))              # for a family whose sampler_kind is "mine"
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler
from diffusion_lm.sampling.block import AncestralBlocks, FirstHitting
from diffusion_lm.sampling.by_entropy import CertainFirst, UncertainFirst
from diffusion_lm.sampling.left_to_right import LeftToRight
from diffusion_lm.sampling.masked import PREDICTORS
from diffusion_lm.sampling.noise import AncestralNoise, GreedyTail
from diffusion_lm.sampling.samples import Samples
from diffusion_lm.sampling.semi_autoregressive import SemiAutoregressive
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
    """The sampler of that name with its options; None is the first one of the model's kind.

    ValueError for a name that the kind does not have, and for an option that the sampler does not have or is missing.
    """
    named = SAMPLERS[model.family.sampler_kind]
    name = next(iter(named)) if predictor is None else predictor
    kind = named[name]
    own = kind.options()
    known = f"expected one of {', '.join(own)}" if own else "it has none"
    for option in options:
        if option not in own:
            raise ValueError(f"predictor {name!r} has no option {option!r}; {known}")
    for option, parameter in own.items():
        if parameter.default is inspect.Parameter.empty and option not in options:
            raise ValueError(f"predictor {name!r} without its option {option!r}; expected a value")
    return kind(model, **options)


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
) -> Samples:
    """One sentence for each of `lengths`, with the options that most samplers share.

    Args:
        lengths: number of pieces; of an autoregressive or a block model, the most that a sentence may have.
        predictor: name of the sampler among those of the model's kind (SAMPLERS), None = the first one.
        steps: steps of the reverse process (in a block model, of one block); a sampler without a grid of times does not look at it.
        noise_removal: whether what is masked in the end is drawn too; for samplers that have the option.
        nucleus_p: draw from the most probable symbols with this much probability; for samplers that have the option.
        seed: of all random numbers.
        batch_size: sentences that go through the network together; they do not depend on it.

    ValueError for what does not fit the model.
    """
    named = SAMPLERS[model.family.sampler_kind]
    own = named[next(iter(named)) if predictor is None else predictor].options()
    options: dict[str, bool | int | float | str | None] = {"steps": steps} if "steps" in own else {}
    # What is left as usual is nothing that was asked for.
    options |= {} if noise_removal else {"noise_removal": noise_removal}
    options |= {} if nucleus_p == 1 else {"nucleus_p": nucleus_p}
    return build_sampler(model, predictor, **options).draw_all(lengths, seed=seed, batch_size=batch_size)
