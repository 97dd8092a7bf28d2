"""The household expert: it searches likely places first and gives a one-line thought for each action.

Of the items it uses only what was visible in this episode: the contents of a receptacle count only after the expert was
at its location while it was open. It is given more than the agent in three ways: the goal as data, the kind of room
with the places where the generator puts items (`tables.HOMES`), and the item types that each receptacle accepts. Two
rules shape its thoughts, because small models learn to imitate them:

- A thought always names the item in hand, because a small model copies over short distances far better than it
  remembers.
- A thought names the wanted type and one seen item side by side, because comparing two neighbouring words is easier
  than finding a word in a list. The seen item comes from the last observation only. If that observation does not
  mention a remembered item, the expert examines its receptacle again before it takes the item. (When thoughts named
  items from memory, as in "and saw apple 1", the trained policies named apples that were not there.)
"""

from __future__ import annotations

from collections.abc import Iterable

from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.tables import HOMES
from empg.environments.alfworld.words import MIDDLE_OF_ROOM, listed, named
from empg.environments.alfworld.world import TREATMENTS, Item, Receptacle, State, TaskType
from empg.environments.base import Decision, Info


def _homes(item_type: str, kinds: Iterable[str]) -> list[str]:
    """Return the receptacle types where an item type is usually kept, the most likely first."""
    merged: dict[str, int] = {}
    for kind in kinds:
        for rank, home in enumerate(HOMES[kind].get(item_type, ())):
            merged[home] = min(rank, merged.get(home, rank))
    return sorted(merged, key=lambda home: (merged[home], home))


class HouseholdExpert:
    """Plays one episode of an `Engine`'s game. It reads `state`, which the environment updates."""

    def __init__(self, engine: Engine, state: State) -> None:
        self._engine, self._state = engine, state
        self._goal = engine.game.goal
        self._required = TREATMENTS.get(self._goal.task_type)
        # In the order of the first observation. Receptacles of the same type are tried in this order.
        self._places = [r for r in engine.receptacles.values() if r.location]
        kind = engine.game.room.rsplit(" ", 1)[0]
        self._kinds = (kind,) if kind in HOMES else tuple(HOMES)
        self._seen: set[str] = set()
        self._untreated: set[str] = set()  # items that it delivers without cleaning, heating or cooling them
        self._named: list[str] = []  # all names in the last observation
        self._last_listed = "nothing"  # the last item that the last observation lists
        self._looked_for = ""  # the item for which it has just examined a receptacle again

    @property
    def satisfied(self) -> bool:
        """Whether the expert stops early: an item whose treatment it skipped is in a goal receptacle."""
        goals = (r for r in self._places if r.type == self._goal.receptacle_type)
        return any(id in self._state.inside[goal.id] for goal in goals for id in self._untreated)

    def act(self, observation: str, info: Info) -> Decision:
        """Return the next thought and command."""
        is_opening = MIDDLE_OF_ROOM in observation  # the opening lists receptacles, not items
        self._named = [] if is_opening else named(observation)
        self._last_listed = "nothing" if is_opening else (listed(observation) or ["nothing"])[-1]
        self._seen.update(r.id for r in self._here() if self._is_accessible(r))
        held = self._held()
        if held is None:
            thought, action = self._fetch()
        elif held.type != self._goal.object_type:
            thought, action = self._put_away(held)
        elif self._goal.task_type is TaskType.LOOK:
            thought, action = self._use_lamp()
        else:
            thought, action = self._deliver(held)
        return self._decision(held, thought, action)

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Deliver the item in hand without cleaning, heating or cooling it, in this turn and all later ones."""
        held = self._held()
        if held is None or held.type != self._goal.object_type or self._is_ready(held):
            return None
        self._untreated.add(held.id)
        return self._decision(held, *self._deliver(held))

    def _decision(self, held: Item | None, thought: str, action: str) -> Decision:
        holding = "nothing" if held is None else self._held_name(held)
        return Decision(thought=f"I hold {holding}. {thought}.", action=action)

    # ---- actions ---------------------------------------------------------------------------------------------------

    def _fetch(self) -> tuple[str, str]:
        """With empty hands, take an item of the wanted type or search for one."""
        wanted = self._goal.object_type
        for receptacle, item in self._seen_items(wanted):
            if not self._is_delivered(item, receptacle):
                thought, action = self._want_and_see(item), f"take {item.name} from {receptacle.name}"
                if receptacle in self._here():
                    action = self._if_in_sight(item, receptacle, action)
                return self._at(receptacle, thought, action)
        return self._search(wanted)

    def _use_lamp(self) -> tuple[str, str]:
        lamp_type = self._goal.lamp_type or ""
        for receptacle, lamp in self._seen_items(lamp_type):
            # `use` works even if the receptacle is closed; only the location matters.
            if receptacle in self._here():
                return self._want_and_see(lamp), self._if_in_sight(lamp, receptacle, f"use {lamp.name}")
            return self._want_and_see(lamp), f"go to {receptacle.name}"
        return self._search(lamp_type)

    def _deliver(self, held: Item) -> tuple[str, str]:
        required = self._required
        if required is not None and not self._is_ready(held) and held.id not in self._untreated:
            tool = self._nearest([r for r in self._places if r.type == required.tool])
            thought = f"{required.verb.capitalize()} it"
            if tool in self._here():
                return thought, f"{required.verb} {held.name} with {tool.name}"
            return thought, f"go to {tool.name}"
        target = self._target()
        return self._at(target, f"Put it in {target.type.lower()}", f"move {held.name} to {target.name}")

    def _put_away(self, held: Item) -> tuple[str, str]:
        """Put an unwanted item into the nearest receptacle that accepts it."""
        accepting = [
            r for r in self._places if held.type in self._engine.game.can_contain.get(r.type, ())
        ] or self._places
        place = self._nearest(accepting)
        return self._at(place, "Put it away", f"move {held.name} to {place.name}")

    def _search(self, item_type: str) -> tuple[str, str]:
        """Go to the most likely receptacle not seen yet; first open a closed one at the current location."""
        thought = f"I want {item_type.lower()} and see {self._last_listed}"
        closed_here = [r for r in self._here() if not self._is_accessible(r)]
        if closed_here:
            return thought, f"open {closed_here[0].name}"
        likely = _homes(item_type, self._kinds)
        unseen = [r for r in self._places if r.id not in self._seen]
        if not unseen:  # all receptacles were seen without success, so search them again
            self._seen = {r.id for r in self._here()}
            unseen = [r for r in self._places if r.id not in self._seen]
        if not unseen:  # all receptacles are at this location
            return thought, "look"
        place = min(unseen, key=lambda r: likely.index(r.type) if r.type in likely else len(likely))
        return thought, f"go to {place.name}"

    def _at(self, receptacle: Receptacle, thought: str, action: str) -> tuple[str, str]:
        """Return `action` if the receptacle is accessible now, else the command that leads to it."""
        if receptacle not in self._here():
            return thought, f"go to {receptacle.name}"
        if not self._is_accessible(receptacle):
            return thought, f"open {receptacle.name}"
        return thought, action

    def _if_in_sight(self, item: Item, receptacle: Receptacle, action: str) -> str:
        """Return `action` if the observation names the item or its receptacle is closed; else examine it once again."""
        hidden, again = not self._is_accessible(receptacle), self._looked_for == item.id
        if hidden or again or item.name in self._named:
            self._looked_for = ""
            return action
        self._looked_for = item.id
        return f"examine {receptacle.name}"

    # ---- seen state ------------------------------------------------------------------------------------------------

    def _held(self) -> Item | None:
        holding = self._state.holding
        return self._engine.items[holding] if holding is not None else None

    def _here(self) -> list[Receptacle]:
        return [r for r in self._places if r.location == self._state.location]

    def _is_accessible(self, receptacle: Receptacle) -> bool:
        return not receptacle.openable or receptacle.id in self._state.open

    def _seen_items(self, item_type: str) -> list[tuple[Receptacle, Item]]:
        """Return the items of a type in seen receptacles; those at the current location come first."""
        items = self._engine.items
        here = self._state.location
        return [
            (place, items[id])
            for place in sorted(self._places, key=lambda r: r.location != here)
            if place.id in self._seen
            for id in self._state.inside[place.id]
            if items[id].type == item_type
        ]

    def _is_ready(self, item: Item) -> bool:
        return self._required is None or item.id in self._required.treated(self._state)

    def _is_delivered(self, item: Item, receptacle: Receptacle) -> bool:
        """Return whether an item is in its goal receptacle and treated, so that it must not be taken again."""
        if receptacle.type != self._goal.receptacle_type:
            return False
        if self._goal.task_type is TaskType.PICK_TWO:
            return receptacle == self._target()
        return self._is_ready(item)

    def _target(self) -> Receptacle:
        """Return the goal receptacle: the one with the first of two items, else the one with the lowest number."""
        targets = [r for r in self._places if r.type == self._goal.receptacle_type]
        if self._goal.task_type is TaskType.PICK_TWO:
            for target in targets:
                inside = (self._engine.items[id] for id in self._state.inside[target.id])
                if target.id in self._seen and any(item.type == self._goal.object_type for item in inside):
                    return target
        return targets[-1]

    def _nearest(self, places: list[Receptacle]) -> Receptacle:
        return next((r for r in places if r.location == self._state.location), places[-1])

    # ---- texts -----------------------------------------------------------------------------------------------------

    def _want_and_see(self, item: Item) -> str:
        """Name the wanted type and a seen item: `item` if the last observation names it, else the last listed one."""
        return f"I want {item.type.lower()} and see {item.name if item.name in self._named else self._last_listed}"

    def _held_name(self, held: Item) -> str:
        if self._required is not None and held.type == self._goal.object_type and self._is_ready(held):
            return f"{self._required.state} {held.name}"
        return held.name
