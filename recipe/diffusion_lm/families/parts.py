"""Objects behind an option of a family that names one of several kinds, such as `family.parameterization`.

    objective = build_part(family, "parameterization", {"subs": Subs, "d3pm": D3pm}, times=times)

Configurations are flat: the options of all kinds are fields of the family. Each kind is a frozen dataclass that takes
the fields of the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from diffusion_lm.families.base import Family

Part = TypeVar("Part")


def build_part(family: Family, option: str, kinds: Mapping[str, type[Part]], **given: Any) -> Part:
    """The kind that the family's field `option` names, with the family's options of that kind and those in `given`.

    ValueError for an unknown name, and for an option of another kind that is not at its default.
    """
    name = getattr(family, option)
    if name not in kinds:
        raise ValueError(f"family.{option} {name!r}; expected one of {', '.join(kinds)}")
    defaults = {item.name: item.default for item in fields(family)}
    options = {kind: [item.name for item in fields(kinds[kind]) if item.name in defaults] for kind in kinds}  # type: ignore[arg-type]
    for kind, names in options.items():
        for key in names:
            value = getattr(family, key)
            if key not in options[name] and value != defaults[key]:
                raise ValueError(
                    f"family.{key} {value!r} with family.{option} {name!r}: expected {defaults[key]!r}, "
                    f"because it belongs to family.{option} {kind!r}"
                )
    return kinds[name](**given, **{key: getattr(family, key) for key in options[name]})
