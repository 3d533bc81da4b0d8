"""Language models as scorers: `LanguageModelScorer` (base.py) is the interface, open.py opens the model at a path.

    from rescore.lms import NetworkScorer
    scorer = NetworkScorer("masked/model", name="masked")

`NetworkScorer` is imported on first access, because it needs torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescore.lms.network import NetworkScorer

__all__ = ["NetworkScorer"]


def __getattr__(name: str) -> object:
    """Import `NetworkScorer` on first access, because it needs torch and an n-gram does not."""
    if name != "NetworkScorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rescore.lms.network import NetworkScorer

    return NetworkScorer
