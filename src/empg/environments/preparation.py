"""What must be built before the first episode of an environment, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Preparation:
    """Work at the first use of an environment, such as indexing. All numbers are estimates.

    Attributes:
        what: what is built, and how the time was estimated.
        folder: where it is kept; None keeps it in memory.
        seconds: time to build it.
        memory: bytes of memory while it is built.
        disk: bytes on disk.
        tasks: options of an environment that has the same tasks and experts and needs no preparation; None if there is
            none.
    """

    what: str
    folder: Path | None
    seconds: float
    memory: int
    disk: int
    tasks: Mapping[str, Any] | None = None
