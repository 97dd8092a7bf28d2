"""Names of runs that are shown together: as short as tells them apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from empg.errors import UserError
from empg.record.runfolder import RunFolder


def names_of(folders: Sequence[RunFolder]) -> list[str]:
    """Return the name of each run's folder, with as many folders above it as it takes until no two names are equal.

    Raises:
        UserError: a run is named twice.
    """
    for path, times in Counter(folder.path.resolve() for folder in folders).items():
        if times > 1:
            raise UserError(f"{path} is named {times} times; name each run once")
    paths = [Path(os.path.abspath(folder.path)) for folder in folders]
    lengths = [1] * len(paths)
    while True:
        names = ["/".join(path.parts[-length:]) for path, length in zip(paths, lengths, strict=True)]
        shared = Counter(names)
        longer = [min(n + (shared[name] > 1), len(p.parts)) for name, n, p in zip(names, lengths, paths, strict=True)]
        if longer == lengths:
            return names
        lengths = longer
