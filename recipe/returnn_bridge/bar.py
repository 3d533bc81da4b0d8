"""A progress bar on the standard error, shown only on a terminal and removed at the end.

    with progress_bar() as shown:
        for part in shown.track(parts, description="scoring"): ...

The bar never uses the standard output: that is for results, and a closed pipe there must not end the work.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def progress_bar(*columns: str | ProgressColumn) -> Progress:
    """A rich progress bar with these columns, or with rich's default columns if none are given."""
    console = Console(stderr=True)
    return Progress(*columns, transient=True, console=console, disable=not console.is_terminal)
