"""The families of language models. `build_family` is the only place where a family's name is looked at.

    family = build_family({"name": "masked", "time_conditioning": True}, special_ids(vocab))

Everything else uses the members of the family that it returns (families/base.py). A family of your own, in a program of your own:

    FAMILIES.add("mine", MyFamily)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_lm.families.adaptive import AdaptiveFamily
from diffusion_lm.families.autoregressive import AutoregressiveFamily
from diffusion_lm.families.base import Family, SpecialIds, TokenLoss
from diffusion_lm.families.block import BlockFamily
from diffusion_lm.families.hybrid import HybridFamily
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.families.uniform import UniformFamily
from diffusion_lm.strict import build
from returnn_bridge.registry import Registry

FAMILIES: Registry[type[Family]] = Registry(
    "family.name",
    {
        "adaptive": AdaptiveFamily,
        "autoregressive": AutoregressiveFamily,
        "block": BlockFamily,
        "hybrid": HybridFamily,
        "masked": MaskedFamily,
        "uniform": UniformFamily,
    },
)

__all__ = ["FAMILIES", "Family", "SpecialIds", "TokenLoss", "build_family"]


def build_family(options: Mapping[str, Any], special: SpecialIds) -> Family:
    """The family `options["name"]` with its other options; ValueError naming what is known if a name or an option is not."""
    options = dict(options)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"family.name {name!r} is unknown; expected one of {', '.join(FAMILIES)}")
    return build(FAMILIES[name], options, "family.", special=special)
