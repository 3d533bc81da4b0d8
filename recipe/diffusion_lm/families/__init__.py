"""The families of language models. Only `build_family` looks up a family by name.

    family = build_family({"name": "masked", "time_conditioning": True}, special_ids(vocab))

All other code uses the members of the returned family (families/base.py). A program can register its own family:

    FAMILIES.add("mine", MyFamily)

Its name is then valid as `family.name` in every configuration.
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
from returnn_bridge.files import quoted
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
    """Build the family `options["name"]` with the other options.

    ValueError for an unknown name or option, listing the known ones.
    """
    options = dict(options)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"family.name {quoted(name)} is unknown; expected one of {', '.join(FAMILIES)}")
    return build(FAMILIES[name], options, "family.", special=special)
