"""The cache folder. Deleting it costs only time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/empg`, by default `~/.cache/empg`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empg"
