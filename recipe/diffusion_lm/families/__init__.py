"""The families of language models. `build_family` is the only place where a family's name is looked at.

    family = build_family({"name": "masked", "time_conditioning": True}, special_ids(vocab))

Everything else calls the methods of the family that it returns (families/base.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_origin, get_type_hints

from diffusion_lm.families.adaptive import AdaptiveFamily
from diffusion_lm.families.autoregressive import AutoregressiveFamily
from diffusion_lm.families.base import Family, PolicyFamily, SpecialIds, TokenLoss
from diffusion_lm.families.block import BlockFamily
from diffusion_lm.families.hybrid import HybridFamily
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.families.mixture import MixtureFamily
from diffusion_lm.families.uniform import UniformFamily

FAMILIES: dict[str, type] = {
    "adaptive": AdaptiveFamily,
    "masked": MaskedFamily,
    "autoregressive": AutoregressiveFamily,
    "block": BlockFamily,
    "hybrid": HybridFamily,
    "uniform": UniformFamily,
}

__all__ = [
    "FAMILIES",
    "BlockFamily",
    "Family",
    "MixtureFamily",
    "PolicyFamily",
    "SpecialIds",
    "TokenLoss",
    "build_family",
]


def build_family(options: Mapping[str, Any], special: SpecialIds) -> Family:
    """The family `options["name"]` with its other options; ValueError naming what is known if a name or option is not."""
    options = dict(options)
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"family.name {name!r} is unknown; expected one of {', '.join(sorted(FAMILIES))}")
    known = [field.name for field in fields(FAMILIES[name]) if field.name != "special"]
    hints = get_type_hints(FAMILIES[name])
    for key, value in options.items():
        if key in known and not _fits(value, hints[key]):
            raise ValueError(f"family.{key} {value!r}: expected {getattr(hints[key], '__name__', hints[key])}")
        if key not in known:
            raise ValueError(
                f"family.{key} is not an option of family {name!r}; it takes: {', '.join(known) or 'no options'}"
            )
    return FAMILIES[name](special=special, **options)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a configured value has the type of its option; an int may stand for a float, nan and inf for nothing."""
    if hint in (int, float):
        kinds = (int,) if hint is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 1e300
    return isinstance(value, get_origin(hint) or hint)
