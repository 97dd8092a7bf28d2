"""Which extra of the package a command lacks, read from the installed metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata

# Modules whose name differs from their distribution's by more than case and separators.
DISTRIBUTIONS = {"faiss": "faiss-cpu", "yaml": "pyyaml"}
# Commands that have an extra of another name, which brings all that they need.
EXTRAS = {"serve-environment": "openenv"}


def missing_extra(command: str | None, error: ModuleNotFoundError) -> str | None:
    """Return the line that tells the user what to install, or None if no extra brings the module.

    Without a command (None) the command line itself cannot start; the line then names the extra `train`.
    """
    extra = find_extra(command or "train", error.name or "", metadata.requires("empg") or ())
    if extra is None:
        return None
    subject = "empg" if command is None else f"empg {command}"
    return f"{subject} needs the extra '{extra}': pip install \"empg[{extra}]\""


def find_extra(command: str, module: str, requirements: Iterable[str]) -> str | None:
    """Return the extra to install for `command` when the import of `module` failed.

    The command's own extra is preferred: the one in `EXTRAS` or of the same name. Then comes the smallest extra that
    brings the module.

    Args:
        command: Name of a command, e.g. `train`.
        module: Dotted name of the module that was not found.
        requirements: Requirement lines as in a distribution's metadata, e.g. `numpy>=1.26; extra == 'report'`.
    """
    name = _normalized(module.split(".")[0])
    distribution = DISTRIBUTIONS.get(name, name)
    contents = distributions_by_extra(requirements)
    holding = [extra for extra, distributions in contents.items() if distribution in distributions]
    own = EXTRAS.get(command, command)
    if own in holding:
        return own
    return min(holding, key=lambda extra: (len(contents[extra]), extra), default=None)


def distributions_by_extra(requirements: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Return the normalized names of the distributions that each extra brings, including those of nested extras."""
    direct: dict[str, set[str]] = {}
    nested: dict[str, set[str]] = {}
    for line in requirements:
        found = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?", line)
        extra = re.search(r"""\bextra\s*==\s*["']([^"']+)["']""", line)
        if found is None or extra is None:
            continue
        direct.setdefault(extra[1], set())
        if _normalized(found[1]) == "empg":
            nested.setdefault(extra[1], set()).update(part.strip() for part in (found[2] or "").split(","))
        else:
            direct[extra[1]].add(_normalized(found[1]))

    def collect(extra: str, above: frozenset[str]) -> set[str]:
        inner = nested.get(extra, set()) - above
        return direct.get(extra, set()).union(*(collect(part, above | {extra}) for part in inner))

    return {extra: frozenset(collect(extra, frozenset())) for extra in direct}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
