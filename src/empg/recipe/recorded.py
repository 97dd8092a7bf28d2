"""The recipe of a recorded run as flat values, and which of them decide the policy that RL starts from.

Other versions of this package may have recorded the run, so a key may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empg.errors import RecipeError
from empg.recipe.recipe import parse_recipe

Values = Mapping[str, Any]
"""Values by the path of their key, e.g. `rollout.top_p`."""

CHANGES_NO_NUMBER = {
    "name", "checkpoint_every", "keep_checkpoints", "record_token_entropies", "loggers", "environment.workers",
    "optimizer.gradient_checkpointing",
}  # fmt: skip

# The last four shape the passes of the warm start: which turns fit into an episode, and how sums are rounded.
_OF_THE_START = (
    "seed", "workers", "environment", "policy", "agent", "warm_start",
    "rollout.max_episode_tokens", "optimizer.autocast", "optimizer.compile", "optimizer.micro_batch_tokens",
)  # fmt: skip


def completed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a recorded recipe with the defaults of the keys that its version did not have.

    A recipe that this version cannot read is returned unchanged: its environment may be missing on this machine.
    """
    try:
        return parse_recipe(values).model_dump(mode="json")
    except RecipeError:
        return values


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested sections by the path of their key; an empty section is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = flat(value) if isinstance(value, dict) else {}
        found |= {f"{key}.{path}": v for path, v in inner.items()} or {str(key): value}
    return found


def of_the_start(values: Values) -> dict[str, Any]:
    """Return those of a recipe's flat values that decide the policy that reinforcement learning starts from."""
    return {path: v for path, v in values.items() if any(f"{path}.".startswith(f"{k}.") for k in _OF_THE_START)}
