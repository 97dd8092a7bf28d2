"""Print the packages whose installed version differs from a lock file, e.g. requirements/dev.txt."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path


def locked_versions(text: str, markers: Mapping[str, str]) -> dict[str, str]:
    """Return the versions by normalized name that a lock file holds for an environment with these marker values."""
    from packaging.requirements import Requirement

    found = {}
    for line in re.findall(r"^[A-Za-z0-9][^#\\\n]*", text, re.MULTILINE):
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate(dict(markers)):
            found[normalized(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def table(locked: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """Return the lines of a table of the packages that differ; `-` stands for absent."""
    rows = [("package", "locked", "installed")]
    for name in sorted({*locked, *installed}):
        pair = (locked.get(name, "-"), installed.get(name, "-"))
        if pair[0] != pair[1]:
            rows.append((name, *pair))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def normalized(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Compare the running interpreter's packages with a lock file."""
    locked = locked_versions(Path(sys.argv[1]).read_text(encoding="utf-8"), {})
    installed = {normalized(d.metadata["Name"]): d.version for d in metadata.distributions()}
    # torch and what it brings are not in the lock; pip and empg are not requirements.
    ignored = re.compile(r"(torch|triton|pip|empg)$|cuda-|nvidia-")
    lines = table(locked, {name: version for name, version in installed.items() if not ignored.match(name)})
    print("\n".join(lines) if len(lines) > 1 else f"every package has the version of {sys.argv[1]}")


if __name__ == "__main__":
    main()
