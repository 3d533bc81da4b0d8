"""The families of language models. `build_family` is the only place where a family's name is looked at.

family = build_family({"name": "masked", "time_conditioning": True}, vocab)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from diffusion_lm.families.autoregressive import AutoregressiveFamily
from diffusion_lm.families.base import Family, SpecialIds, TokenLoss
from diffusion_lm.families.masked import MaskedFamily

FAMILIES: dict[str, type] = {"masked": MaskedFamily, "autoregressive": AutoregressiveFamily}

__all__ = ["FAMILIES", "Family", "SpecialIds", "TokenLoss", "build_family"]


def build_family(options: Mapping[str, Any], special: SpecialIds) -> Family:
    """The family `options["name"]` with its other options; ValueError naming what is known if a name or option is not."""
    options = dict(options)
    name = options.pop("name", None)
    if name not in FAMILIES:
        raise ValueError(f"family.name {name!r} is unknown; expected one of {', '.join(sorted(FAMILIES))}")
    known = [field.name for field in fields(FAMILIES[name]) if field.name != "special"]
    for key in options:
        if key not in known:
            raise ValueError(
                f"family.{key} is not an option of family {name!r}; it takes: {', '.join(known) or 'no options'}"
            )
    return FAMILIES[name](special=special, **options)
