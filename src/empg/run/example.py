"""What the warm start taught, as an example: one task as the policy played it before and after."""

from __future__ import annotations

from empg.policy.model import Policy
from empg.rollout.collector import Request
from empg.rollout.types import Episode, Turn
from empg.run.build import play
from empg.run.display import aligned
from empg.run.run import Run
from empg.system.random_keys import Use, random_key

TURNS_SHOWN, WIDTH = 8, 44


def play_example(run: Run, policy: Policy) -> Episode | None:
    """Play the first task of the first evaluated split without randomness; None on any worker but the first.

    If no split is evaluated, it is the first task for training.
    """
    if not run.workers.first:
        return None
    split = next(iter(run.recipe.evaluation.panels), run.recipe.environment.train_split)
    policy.model.eval()
    request = Request(0, 0, random_key(Use.EXAMPLE, seed=run.recipe.seed))
    return play(run.recipe, policy, split, [request], greedy=True)[0]


def side_by_side(before: Episode, after: Episode) -> list[str]:
    """Return lines that show two episodes of one task beside each other, at most `TURNS_SHOWN` turns of each."""
    shown = max(min(len(episode.turns), TURNS_SHOWN) for episode in (before, after))
    rows = [("", f"before: {_outcome(before)}", f"after: {_outcome(after)}")]
    rows += [(f"{index + 1}", _written(before.turns, index), _written(after.turns, index)) for index in range(shown)]
    if max(len(before.turns), len(after.turns)) > shown:
        rows.append(("...", "", ""))
    return [f"the same task before and after the warm start: {_clipped(after.task, 2 * WIDTH)}", *aligned(rows)]


def _outcome(episode: Episode) -> str:
    count = len(episode.turns)
    return f"{'won' if episode.success else 'not won'}, {count} turn{'s' if count != 1 else ''}"


def _written(turns: list[Turn], index: int) -> str:
    """Return the action of a turn, or what was written where no action could be read."""
    if index >= len(turns):
        return ""
    turn = turns[index]
    return _clipped(f"> {turn.action}" if turn.action else turn.text, WIDTH)


def _clipped(text: str, width: int) -> str:
    words = " ".join(text.split())
    return words if len(words) <= width else words[: width - 3] + "..."
