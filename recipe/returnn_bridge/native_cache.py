"""Where RETURNN keeps native code that it compiles: a folder that only its user can write to.

    use_private_cache()                             # before RETURNN compiles anything or loads what it compiled

RETURNN's OggZipDataset compiles the reader of its index, and takes the one that is there already: it evaluates a file beside it and loads
the library. By default that is in /var/tmp, where any user of the machine may have put one before. Here it is the folder that the
environment variable RETURNN_CACHE_DIR names, and without one a folder of ours below the user's cache folder. Processes that are started from
this one inherit the choice.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

VARIABLE = "RETURNN_CACHE_DIR"


def use_private_cache() -> Path:
    """Let RETURNN use a private folder, and return it. ValueError for one that somebody else owns, can write to or can exchange.

    Where no cache folder can be made, as without a home, a temporary one serves this process and its children, which a line on the standard
    error says.
    """
    if given := os.environ.get(VARIABLE):
        folder = _private(Path(given))
    else:
        try:
            folder = _private(_user_cache() / "diffusion-lm" / "returnn")
        except (OSError, RuntimeError) as error:
            print(f"warning: no cache folder ({error}); RETURNN compiles for this process only", file=sys.stderr)
            folder = Path(tempfile.mkdtemp(prefix="returnn-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = str(folder)
    return folder


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def _private(path: Path) -> Path:
    """The folder itself behind all links, made if it is not there."""
    folder = Path(os.path.realpath(path))
    for missing in [place for place in (*reversed(folder.parents), folder) if not place.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)
    hint = f"expected a folder that only you can write to, RETURNN loads code from it; set {VARIABLE} to one"
    state = folder.stat()
    if not stat.S_ISDIR(state.st_mode):
        raise ValueError(f"{folder}: is a file; {hint}")
    if state.st_uid != os.geteuid():
        raise ValueError(f"{folder}: belongs to user {state.st_uid}, not to {os.geteuid()}; {hint}")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"{folder}: others can write to it (mode {stat.S_IMODE(state.st_mode):o}); {hint}")
    for above in (
        folder.parents
    ):  # who can write to one of them may put another folder at this name; in a sticky one only its owner may
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ValueError(f"{folder}: everybody can write to {above} (mode {stat.S_IMODE(mode):o}); {hint}")
    return folder
