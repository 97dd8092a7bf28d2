"""The admissible commands of an environment that lists them."""

from __future__ import annotations

from empg.environments.base import Info


def admissible(info: Info) -> list[str]:
    """Return the commands that `info` lists; an environment that cannot list them fails here."""
    commands = info["admissible"]
    assert commands is not None
    return commands
