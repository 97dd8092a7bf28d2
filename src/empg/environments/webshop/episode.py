"""What recordings and the web site need of an environment of this shop."""

from __future__ import annotations

from typing import Any, Protocol

from empg.environments.base import Info
from empg.environments.webshop.shop import Shop
from empg.environments.webshop.world import Goal, State


class ShopEpisode(Protocol):
    """One shopper in a shop: `env.WebShopEnv`."""

    shop: Shop
    goal: Goal
    state: State
    split: str
    max_steps: int

    @property
    def num_tasks(self) -> int:
        """The number of goals in this split."""
        ...

    def goal_id(self, index: int) -> str:
        """Return the id of a goal, the same in any shop."""
        ...

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:
        """Start a task."""
        ...

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Act."""
        ...

    def clone(self) -> ShopEpisode:
        """Return an independent environment in the same state."""
        ...

    def with_reachable_values(self) -> ShopEpisode:
        """Return an environment like this one where everything that is shown can be clicked."""
        ...
