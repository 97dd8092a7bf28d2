"""Data model of a household game: the constant facts (`Game`) and the changing ones (`State`).

A `Game` is one task in one room, from the generator, an official `game.tw-pddl` file or a hand-written test. The rules
(`rules.py`), the words (`words.py`), the file format (`gamefile.py`) and the expert (`expert.py`) all use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class TaskType(str, Enum):
    """The six ALFWorld task types, with their names in `traj_data.json`."""

    PICK = "pick_and_place_simple"
    LOOK = "look_at_obj_in_light"
    CLEAN = "pick_clean_then_place_in_recep"
    HEAT = "pick_heat_then_place_in_recep"
    COOL = "pick_cool_then_place_in_recep"
    PICK_TWO = "pick_two_obj_and_place"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What a task type requires to be done to its item before it is delivered.

    `verb` is the command. `state` and `undoes` are fields of `State`: the items that are treated, and those that no
    longer are ("" if it undoes nothing). `affordance` is the field of `Item` that allows it. `tool` is the receptacle
    type that does it.
    """

    verb: str
    state: str
    affordance: str
    tool: str
    undoes: str = ""

    def allows(self, item: Item) -> bool:
        """Return whether an item can be treated."""
        return bool(getattr(item, self.affordance))

    def treated(self, state: State) -> set[str]:
        """Return the ids of the treated items: the set itself, not a copy."""
        items: set[str] = getattr(state, self.state)
        return items

    def apply(self, item: Item, state: State) -> None:
        """Treat an item."""
        self.treated(state).add(item.id)
        if self.undoes:
            getattr(state, self.undoes).discard(item.id)


# The task types that require a treatment.
TREATMENTS = {
    TaskType.CLEAN: Treatment("clean", "clean", "cleanable", "SinkBasin"),
    TaskType.HEAT: Treatment("heat", "hot", "heatable", "Microwave", undoes="cool"),
    TaskType.COOL: Treatment("cool", "cool", "coolable", "Fridge", undoes="hot"),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """The condition that ends the episode with reward 1.

    `object_type` and `receptacle_type` are ALFRED type names ("Mug", "SinkBasin"); `receptacle_type` is None for
    LOOK, and `lamp_type` is None for every other task.
    """

    task_type: TaskType
    object_type: str
    receptacle_type: str | None = None
    lamp_type: str | None = None


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that contains items. `id` is the PDDL id; `name` is the text that an agent reads ("cabinet 3")."""

    id: str
    type: str
    name: str
    location: str
    openable: bool = False
    initially_open: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """An item that can be in a receptacle.

    `home` is the id of the receptacle it starts in (None: on the floor, out of reach). The fields after `sliceable`
    occur in official games only. `also_in` are further receptacles that it starts in. `location` is the item's
    location in the game file if it differs from the location of its home. `container` and `contains` make `examine`
    list its contents. `initially` is a subset of {"clean", "hot", "cool", "lit", "sliced"}.
    """

    id: str
    type: str
    name: str
    home: str | None
    pickupable: bool = True
    cleanable: bool = False
    heatable: bool = False
    coolable: bool = False
    toggleable: bool = False
    sliceable: bool = False
    also_in: tuple[str, ...] = ()
    location: str | None = None
    container: bool = False
    contains: tuple[str, ...] = ()
    initially: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Game:
    """One task in one room.

    `task` is the sentence without its trailing dot ("put a hot mug in cabinet"). `can_contain` maps a receptacle
    type to the object types it accepts. `task_id` is stable for a given content, because it ends in a fingerprint of
    it. `walkthrough` is a winning list of commands, if one is known.
    """

    task_id: str
    task: str
    goal: Goal
    receptacles: tuple[Receptacle, ...]
    items: tuple[Item, ...]
    can_contain: Mapping[str, frozenset[str]]
    start_location: str
    room: str = ""
    walkthrough: tuple[str, ...] | None = None


@dataclass(slots=True)
class State:
    """Everything that changes during an episode. Keys and values are PDDL ids. Copying it is all that `clone()` does.

    `inside` lists the items of each receptacle in the order in which observations list them. `near` contains pairs
    (item, location). `taken` contains pairs (item, receptacle it was taken out of and not put back into). `look` and
    `slice` depend on both where several receptacles share a location.
    """

    location: str
    holding: str | None = None
    inside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    near: set[tuple[str, str]] = field(default_factory=set)
    taken: set[tuple[str, str]] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    clean: set[str] = field(default_factory=set)
    hot: set[str] = field(default_factory=set)
    cool: set[str] = field(default_factory=set)
    lit: set[str] = field(default_factory=set)
    sliced: set[str] = field(default_factory=set)
    steps: int = 0
    won: bool = False

    @property
    def where(self) -> dict[str, str | None]:
        """The receptacle of each item; None for the item in hand."""
        places: dict[str, str | None] = {
            item: receptacle for receptacle, items in self.inside.items() for item in items
        }
        if self.holding is not None:
            places[self.holding] = None
        return places

    def clone(self) -> State:
        """Return an independent copy; this takes one or two microseconds."""
        return State(
            self.location,
            self.holding,
            self.inside.copy(),
            self.near.copy(),
            self.taken.copy(),
            self.open.copy(),
            self.clean.copy(),
            self.hot.copy(),
            self.cool.copy(),
            self.lit.copy(),
            self.sliced.copy(),
            self.steps,
            self.won,
        )
