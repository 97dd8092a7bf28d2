"""Atomic publication of folders that are written once and read by many processes, such as an index."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def publish(folder: Path, write: Callable[[Path], None], *, sign: str = ".") -> None:
    """Write a folder under a temporary name and rename it when it is complete.

    If another process publishes the folder first, that folder is kept.

    Args:
        folder: final path of the folder.
        write: fills the folder whose path it receives.
        sign: a file whose presence in `folder` shows that it is complete; by default every existing folder is.
    """
    work = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
    work.mkdir(parents=True)  # the user's umask applies, because the folder may be shared with other users
    try:
        write(work)
        try:
            os.replace(work, folder)
        except OSError:
            if not (folder / sign).exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
