"""A private cache folder for the native code that RETURNN compiles, which only the user can write to.

    use_private_cache()                             # before RETURNN compiles or loads native code

RETURNN's OggZipDataset compiles the reader of its index and reuses a compiled one: it evaluates a file beside the
library and loads the library. RETURNN's default folder is in /var/tmp, where any user of the machine could have placed
one. Here it is the folder in the environment variable RETURNN_CACHE_DIR or, if that is unset, `diffusion-lm/returnn` in
the user's cache folder. Child processes inherit the choice.
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
    """Make RETURNN use a private folder, and return the folder.

    ValueError for a folder that another user owns, can write to or can replace. Where no cache folder can be created
    (no home folder), a temporary one serves this process and its children, with a warning on the standard error.
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
    """The folder with links resolved, created if it is missing. ValueError unless only the user can write to it."""
    folder = Path(os.path.realpath(path))
    for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        missing.mkdir(mode=0o700, exist_ok=True)
    hint = f"expected a folder that only you can write to, RETURNN loads code from it; set {VARIABLE} to one"
    state = folder.stat()
    if not stat.S_ISDIR(state.st_mode):
        raise ValueError(f"{folder}: is a file; {hint}")
    if state.st_uid != os.geteuid():
        raise ValueError(f"{folder}: belongs to user {state.st_uid}, not to {os.geteuid()}; {hint}")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"{folder}: others can write to it (mode {stat.S_IMODE(state.st_mode):o}); {hint}")
    # A user who can write to a parent could replace this folder; the sticky bit permits that to owners only.
    for above in folder.parents:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ValueError(f"{folder}: everybody can write to {above} (mode {stat.S_IMODE(mode):o}); {hint}")
    return folder
