"""What an environment declares about itself, in its own folder or in another package."""

from __future__ import annotations

from dataclasses import dataclass

from empg.environments.base import PromptSpec
from empg.environments.options import EnvironmentOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """What a recipe needs to know of an environment.

    Attributes:
        id: the name in recipes (`environment.id`) and in `empg play`.
        entry_point: `package.module:Class`, called with `split`, perhaps `max_steps`, and the options; None: gymnasium
            makes the environment, by its `gymnasium_id`.
        options: the model of its options.
        prompt: how it is introduced to an agent.
        panels: the splits that are evaluated unless a recipe names others.
        preparation: `package.module:function`, which receives the options and returns what must be built before the
            first episode (`Preparation`), or None; None for an environment that builds nothing.
        gymnasium_id: the id under which `gymnasium.make` finds it as well; None for no such id.
    """

    id: str
    entry_point: str | None
    options: type[EnvironmentOptions]
    prompt: PromptSpec
    panels: tuple[str, ...]
    preparation: str | None = None
    gymnasium_id: str | None = None

    @property
    def module(self) -> str:
        """The module that brings the environment; empty for one that gymnasium knows without importing any."""
        return (self.entry_point or str(self.gymnasium_id)).rpartition(":")[0]
