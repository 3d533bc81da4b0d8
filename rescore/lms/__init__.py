"""Language models as scorers: `LanguageModelScorer` (base.py) is the interface, open.py opens whatever lies at a path.

    from rescore.lms import NetworkScorer
    scorer = NetworkScorer("masked/model", name="masked")

It holds `NetworkScorer` and imports it only when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescore.lms.network import NetworkScorer

__all__ = ["NetworkScorer"]


def __getattr__(name: str) -> object:
    """`NetworkScorer` needs torch, which an n-gram does not: it is imported when it is asked for."""
    if name != "NetworkScorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rescore.lms.network import NetworkScorer

    return NetworkScorer
