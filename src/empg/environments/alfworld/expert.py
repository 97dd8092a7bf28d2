"""An expert that plays like a person who knows where people keep things, and thinks aloud in a line.

It knows what it has seen in this episode and nothing more: the content of a receptacle counts only after the expert
stood before it with the door open. Its thought always says what is in hand, because a small model copies over short
distances far better than it remembers; and what is wanted and what is seen, side by side, because whether two words
next to each other are the same is easily read, and whether one of them stands somewhere in a list is not. What is seen
is what the last observation shows: where that says nothing, the expert looks again before it reaches for a thing that
it remembers. (When it said from memory "and saw apple 1", its pupils said so of apples that were not there.)
"""

from __future__ import annotations

from collections.abc import Iterable

from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.tables import HOMES
from empg.environments.alfworld.words import MIDDLE_OF_ROOM, listed, named
from empg.environments.alfworld.world import Item, Receptacle, State, TaskType
from empg.environments.base import Decision, Info

# Task type -> (the word for a thing that is ready, the receptacle type that makes it so, the verb that does).
_TREATMENTS = {
    TaskType.CLEAN: ("clean", "SinkBasin", "clean"),
    TaskType.HEAT: ("hot", "Microwave", "heat"),
    TaskType.COOL: ("cool", "Fridge", "cool"),
}


def _homes(item_type: str, kinds: Iterable[str]) -> list[str]:
    """Where people keep a thing, the likeliest place first."""
    merged: dict[str, int] = {}
    for kind in kinds:
        for rank, home in enumerate(HOMES[kind].get(item_type, ())):
            merged[home] = min(rank, merged.get(home, rank))
    return sorted(merged, key=lambda home: (merged[home], home))


class HouseholdExpert:
    """Plays one episode of an `Engine`'s game, looking at `state` as it changes."""

    def __init__(self, engine: Engine, state: State) -> None:
        self._engine, self._state = engine, state
        self._goal = engine.game.goal
        # As the first observation lists them: the order in which alike places are tried.
        self._places = [r for r in engine.receptacles.values() if r.location]
        kind = engine.game.room.rsplit(" ", 1)[0]
        self._kinds = (kind,) if kind in HOMES else tuple(HOMES)
        self._seen: set[str] = set()
        self._hurried: set[str] = set()  # things that it takes to their place as they are
        self._named: list[str] = []  # what the last observation mentions
        self._sight = "nothing"  # the last thing that it lists
        self._looked_for = ""  # what it looked for once more

    @property
    def satisfied(self) -> bool:
        """Whether it thinks that it is done: what it did not stop to clean, heat or cool lies where it should."""
        goals = (r for r in self._places if r.type == self._goal.receptacle_type)
        return any(id in self._state.inside[goal.id] for goal in goals for id in self._hurried)

    def act(self, observation: str, info: Info) -> Decision:
        """The next thought and command."""
        is_opening = MIDDLE_OF_ROOM in observation  # which lists places, not things
        self._named = [] if is_opening else named(observation)
        self._sight = "nothing" if is_opening else (listed(observation) or ["nothing"])[-1]
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
        return self._said(held, thought, action)

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Take what is in hand to its place without cleaning, heating or cooling it, from now on."""
        held = self._held()
        if held is None or held.type != self._goal.object_type or self._is_ready(held):
            return None
        self._hurried.add(held.id)
        return self._said(held, *self._deliver(held))

    def _said(self, held: Item | None, thought: str, action: str) -> Decision:
        holding = "nothing" if held is None else self._in_words(held)
        return Decision(thought=f"I hold {holding}. {thought}.", action=action)

    # ---- what to do ------------------------------------------------------------------------------------------------

    def _fetch(self) -> tuple[str, str]:
        """Nothing is in hand: take a thing of the wanted type, or look for one."""
        wanted = self._goal.object_type
        for receptacle, item in self._known(wanted):
            if not self._is_delivered(item, receptacle):
                thought, action = self._wish(item), f"take {item.name} from {receptacle.name}"
                if receptacle in self._here():
                    action = self._if_in_sight(item, receptacle, action)
                return self._at(receptacle, thought, action)
        return self._search(wanted)

    def _use_lamp(self) -> tuple[str, str]:
        lamp_type = self._goal.lamp_type or ""
        for receptacle, lamp in self._known(lamp_type):
            # What is toggled can be used even in a closed receptacle: only the place matters.
            if receptacle in self._here():
                return self._wish(lamp), self._if_in_sight(lamp, receptacle, f"use {lamp.name}")
            return self._wish(lamp), f"go to {receptacle.name}"
        return self._search(lamp_type)

    def _deliver(self, held: Item) -> tuple[str, str]:
        treatment = _TREATMENTS.get(self._goal.task_type)
        if treatment is not None and not self._is_ready(held) and held.id not in self._hurried:
            _, tool_type, verb = treatment
            tool = self._nearest([r for r in self._places if r.type == tool_type])
            thought = f"{verb.capitalize()} it"
            if tool in self._here():
                return thought, f"{verb} {held.name} with {tool.name}"
            return thought, f"go to {tool.name}"
        target = self._target()
        return self._at(target, f"Put it in {target.type.lower()}", f"move {held.name} to {target.name}")

    def _put_away(self, held: Item) -> tuple[str, str]:
        """The wrong thing is in hand: leave it at the nearest place that takes it."""
        accepting = [
            r for r in self._places if held.type in self._engine.game.can_contain.get(r.type, ())
        ] or self._places
        place = self._nearest(accepting)
        return self._at(place, "Put it away", f"move {held.name} to {place.name}")

    def _search(self, item_type: str) -> tuple[str, str]:
        """Go to the likeliest place that was not seen yet, opening what is closed on the way."""
        thought = f"I want {item_type.lower()} and see {self._sight}"
        closed_here = [r for r in self._here() if not self._is_accessible(r)]
        if closed_here:
            return thought, f"open {closed_here[0].name}"
        likely = _homes(item_type, self._kinds)
        unseen = [r for r in self._places if r.id not in self._seen]
        if not unseen:  # everything was seen and it was nowhere: a door was closed on it, look again
            self._seen = {r.id for r in self._here()}
            unseen = [r for r in self._places if r.id not in self._seen]
        place = min(unseen, key=lambda r: likely.index(r.type) if r.type in likely else len(likely))
        return thought, f"go to {place.name}"

    def _at(self, receptacle: Receptacle, thought: str, action: str) -> tuple[str, str]:
        """`action` if it can be done now, else the step towards it."""
        if receptacle not in self._here():
            return thought, f"go to {receptacle.name}"
        if not self._is_accessible(receptacle):
            return thought, f"open {receptacle.name}"
        return thought, action

    def _if_in_sight(self, item: Item, receptacle: Receptacle, action: str) -> str:
        """`action` if the last observation shows the thing or a door hides it; else one more look at where it was."""
        hidden, again = not self._is_accessible(receptacle), self._looked_for == item.id
        if hidden or again or item.name in self._named:
            self._looked_for = ""
            return action
        self._looked_for = item.id
        return f"examine {receptacle.name}"

    # ---- what is known ---------------------------------------------------------------------------------------------

    def _held(self) -> Item | None:
        holding = self._state.holding
        return self._engine.items[holding] if holding is not None else None

    def _here(self) -> list[Receptacle]:
        return [r for r in self._places if r.location == self._state.location]

    def _is_accessible(self, receptacle: Receptacle) -> bool:
        return not receptacle.openable or receptacle.id in self._state.open

    def _known(self, item_type: str) -> list[tuple[Receptacle, Item]]:
        """Where things of a type were seen, the present place first."""
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
        treatment = _TREATMENTS.get(self._goal.task_type)
        return treatment is None or item.id in getattr(self._state, treatment[0])

    def _is_delivered(self, item: Item, receptacle: Receptacle) -> bool:
        """Whether a thing lies where it should and as it should, so that it is left alone."""
        if receptacle.type != self._goal.receptacle_type:
            return False
        if self._goal.task_type is TaskType.PICK_TWO:
            return receptacle == self._target()
        return self._is_ready(item)

    def _target(self) -> Receptacle:
        """Where to put it: beside the first of two, else the one with the lowest number."""
        targets = [r for r in self._places if r.type == self._goal.receptacle_type]
        if self._goal.task_type is TaskType.PICK_TWO:
            for target in targets:
                inside = (self._engine.items[id] for id in self._state.inside[target.id])
                if target.id in self._seen and any(item.type == self._goal.object_type for item in inside):
                    return target
        return targets[-1]

    def _nearest(self, places: list[Receptacle]) -> Receptacle:
        return next((r for r in places if r.location == self._state.location), places[-1])

    # ---- in words --------------------------------------------------------------------------------------------------

    def _wish(self, item: Item) -> str:
        """What is wanted, and what the last observation shows: the thing itself, or the last that it lists."""
        return f"I want {item.type.lower()} and see {item.name if item.name in self._named else self._sight}"

    def _in_words(self, held: Item) -> str:
        treatment = _TREATMENTS.get(self._goal.task_type)
        if treatment is not None and held.type == self._goal.object_type and self._is_ready(held):
            return f"{treatment[0]} {held.name}"
        return held.name
