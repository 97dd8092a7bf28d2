"""Folders that are written once and read by many, such as an index: they appear when they are complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def publish(folder: Path, write: Callable[[Path], None], *, sign: str = ".") -> None:
    """Have a folder written under another name, and rename it when it is complete.

    Where another process was faster, its folder stays.

    Args:
        folder: where it goes.
        write: fills the folder that it is given.
        sign: a file in it that shows it to be complete; by default any folder of that name is.
    """
    work = folder.parent / f".{folder.name}-{secrets.token_hex(8)}"
    work.mkdir(parents=True)  # readable by whom the user's umask says: others may share it
    try:
        write(work)
        try:
            os.replace(work, folder)
        except OSError:
            if not (folder / sign).exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
