"""Rules for the keys of BD3-LM trees that search the interval of training times (training/clip_search.py).

    algo.var_min=true algo.clip_search_widths=[0.5, 0.7] algo.clip_search_delta=0.05 algo.fix_clipping=false

A search needs widths, `var_min` and no `fix_clipping`; otherwise the interval stays that of training.sampling_eps_min
and _max. A function with the name of a key is the rule of that key.
"""

from __future__ import annotations

from typing import Any

from diffusion_lm.foreign.algo import algo
from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Reading, Rule, refuse, typed

_KEYS = {
    "algo.clip_search_widths": lambda value: bool(value),
    "algo.var_min": lambda value: value is True,
    "algo.fix_clipping": lambda value: value is not True,
}
"""Each key of the search, and whether its value allows one."""


def _without(reading: Reading, key: str) -> str:
    """Why there is no search whatever `key` says; "" if it depends on `key`."""
    if algo(reading) != "bd3lm":
        return "it belongs to algo.name bd3lm"
    usual = {"algo.clip_search_widths": [], "algo.var_min": True, "algo.fix_clipping": False}
    for other, allows in _KEYS.items():
        value = reading.leaves.get(other, usual[other])
        if other != key and not allows(value):
            return f"{other} is {str(value).lower()}: no search, training times stay in their interval"
    return ""


def _switch(on: bool) -> Rule:
    """Rule for a flag that must be `on` for a search."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        found = typed(key, value, bool)
        if reason := _without(reading, key):
            return NO_EFFECT, reason
        return HONOURED, "trainer.clip_search, at every validation" if found == on else "no trainer.clip_search"

    return rule


var_min = _switch(True)
fixed = _switch(False)


def delta(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.clip_search_delta, the distance of the intervals that are tried."""
    step = typed(key, value, float)
    if reason := _without(reading, key):
        return NO_EFFECT, reason
    if not 0 < step <= 1:
        refuse(key, value, "expected a number in (0, 1]")
    return HONOURED, "trainer.clip_search.delta"


def widths(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for algo.clip_search_widths, the widths of the intervals that are tried."""
    if not isinstance(value, list) or not all(type(item) in (int, float) and 0 < item <= 1 for item in value):
        refuse(key, value, "expected a list of widths in (0, 1]")
    if reason := _without(reading, key):
        return NO_EFFECT, reason
    if value:
        step = typed("algo.clip_search_delta", reading.leaves.get("algo.clip_search_delta", 0.05), float)
        reading.put("trainer.clip_search", {"widths": value, "delta": step}, key)
    return HONOURED, "trainer.clip_search, at every validation" if value else "no trainer.clip_search"
