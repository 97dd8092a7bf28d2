"""Hand-written episodes for the tests of the learner."""

from __future__ import annotations

from collections.abc import Sequence

from empg.recipe import Recipe, parse_recipe
from empg.rollout.types import EndReason, Episode, Turn


def recipe(**sections: object) -> Recipe:
    """A recipe with the default values except for `sections` (dicts)."""
    return parse_recipe({"rollout": {"groups": 2, "group_size": 2}, **sections})


def turn(prompt: Sequence[int], action: Sequence[int], entropy: float = 0.5, **more: object) -> Turn:
    """A turn whose tokens all have one entropy and log-probability -1."""
    count = len(action)
    return Turn(
        observation="",
        prompt_ids=list(prompt),
        action_ids=list(action),
        logprobs=[-1.0] * count,
        entropies=[entropy] * count,
        **more,  # type: ignore[arg-type]
    )


def episode(group: int, reward: float, *turns: Turn, end: EndReason = EndReason.LOST) -> Episode:
    return Episode(
        task_id="t",
        task_index=group,
        task_type="type",
        split="train",
        group=group,
        turns=list(turns),
        reward=reward,
        success=reward > 0,
        end=end,
    )


def two_groups() -> list[Episode]:
    """Group 0 has a winner and a loser, of unequal lengths; group 1 three episodes, one winner."""
    return [
        episode(0, 1.0, turn([20, 21], [30, 31], 0.2), turn([22], [32], 0.9)),
        episode(0, 0.0, turn([20, 21], [33, 34, 35], 1.4)),
        episode(1, 0.0, turn([23, 24], [36], 0.1), turn([25], [37, 38], 0.3), turn([26], [39], 2.0)),
        episode(1, 1.0, turn([23, 24], [40, 41], 0.6)),
        episode(1, 0.0, turn([23, 24], [42], 0.7), turn([27], [43], 0.8)),
    ]
