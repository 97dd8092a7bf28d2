"""How far a household task is done: the share of its subgoals that hold."""

from __future__ import annotations

from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import TREATMENTS, State, TaskType


def progress(engine: Engine, state: State) -> float:
    """Return the share of the goal's subgoals that hold in a state, 0 to 1; 1 if and only if the game is won.

    The item that is furthest counts:

    - PICK: it is in hand; it is delivered.
    - CLEAN, HEAT, COOL: it is in hand; it is treated; it is delivered. Delivered without treatment counts as nothing.
    - PICK_TWO: as PICK for each of two items, delivered to the same receptacle.
    - LOOK: it is in hand; a lamp is lit; both are at one place.
    """
    if state.won:
        return 1.0
    task, wanted = engine.game.goal.task_type, engine.wanted
    in_hand = state.holding in wanted
    if task is TaskType.PICK:
        return in_hand / 2
    if task is TaskType.PICK_TWO:
        one_delivered = any(not wanted.isdisjoint(state.inside[receptacle]) for receptacle in engine.targets)
        return (2 * one_delivered + in_hand) / 4
    if task is TaskType.LOOK:
        return (in_hand + (not engine.lamps.isdisjoint(state.lit))) / 3
    treated = TREATMENTS[task].treated(state) & wanted
    return max(in_hand + (state.holding in treated), bool(treated)) / 3
