"""A progress bar for whoever watches: on a terminal, on the standard error, gone at the end.

    with progress_bar() as shown:
        for part in shown.track(parts, description="scoring"): ...

Never on the standard output: that is for results, and its reader may have gone, which must not end the work.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def progress_bar(*columns: str | ProgressColumn) -> Progress:
    """`columns`: as of rich, the usual ones if none are given."""
    console = Console(stderr=True)
    return Progress(*columns, transient=True, console=console, disable=not console.is_terminal)
