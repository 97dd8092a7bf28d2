"""The cache folder. Deleting it costs only time."""

from __future__ import annotations

import os
from pathlib import Path

from empg.errors import UserError


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/empg`, by default `~/.cache/empg`.

    Raises:
        UserError: the user has no home folder, as in a container that runs under an unknown user id.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "empg"
    try:
        return Path.home() / ".cache" / "empg"
    except RuntimeError:
        raise UserError("the cache folder is unknown: this user has no home folder. Set XDG_CACHE_HOME") from None
