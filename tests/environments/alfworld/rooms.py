"""Three small hand-written rooms."""

from __future__ import annotations

from dataclasses import replace

from empg.environments.alfworld.words import display_names
from empg.environments.alfworld.world import Game, Goal, Item, Receptacle, TaskType

MIDDLE = "loc_bar_0_bar_0_bar_0_bar_30"


def place(
    kind: str, number: int, at: int | None = None, *, openable: bool = False, is_open: bool = False
) -> Receptacle:
    """Return a receptacle at its own location, or at location number `at`."""
    id = f"Sink_bar_{number}_bar_SinkBasin" if kind == "SinkBasin" else f"{kind}_bar_{number}"
    return Receptacle(id, kind, "", f"loc_bar_{number if at is None else at}", openable, is_open)


def thing(kind: str, number: int, home: str | None, **facts: object) -> Item:
    return Item(f"{kind}_bar_{number}", kind, "", home, **facts)  # type: ignore[arg-type]


def build(
    goal: Goal, task: str, places: list[Receptacle], things: list[Item], fits: dict[str, set[str]], start: str = MIDDLE
) -> Game:
    """Build a game and name everything like ALFWorld."""
    names = display_names([*(p.id for p in places), *(t.id for t in things)])
    return Game(
        task_id="by hand",
        task=task,
        goal=goal,
        receptacles=tuple(replace(p, name=names[p.id]) for p in places),
        items=tuple(replace(t, name=names[t.id]) for t in things),
        can_contain={kind: frozenset(types) for kind, types in fits.items()},
        start_location=start,
    )


KITCHEN_GOALS = {
    TaskType.PICK: ("put a mug in cabinet", Goal(TaskType.PICK, "Mug", "Cabinet")),
    TaskType.CLEAN: ("put a clean mug in cabinet", Goal(TaskType.CLEAN, "Mug", "Cabinet")),
    TaskType.HEAT: ("put a hot mug in cabinet", Goal(TaskType.HEAT, "Mug", "Cabinet")),
    TaskType.COOL: ("put a cool mug in cabinet", Goal(TaskType.COOL, "Mug", "Cabinet")),
    TaskType.PICK_TWO: ("put two mug in cabinet", Goal(TaskType.PICK_TWO, "Mug", "Cabinet")),
}


def kitchen(task_type: TaskType = TaskType.HEAT) -> Game:
    """Build a kitchen.

    Two closed, empty cabinets; a counter with a knife and mug 1; a closed fridge with an egg; a microwave; a sink with
    mug 2.
    """
    task, goal = KITCHEN_GOALS[task_type]
    mug = {"cleanable": True, "heatable": True, "coolable": True}
    return build(
        goal,
        task,
        [
            place("Cabinet", 1, openable=True),
            place("Cabinet", 2, openable=True),
            place("CounterTop", 3),
            place("Fridge", 4, openable=True),
            place("Microwave", 5, openable=True),
            place("SinkBasin", 6),
        ],
        [
            thing("Egg", 1, "Fridge_bar_4", heatable=True, coolable=True, cleanable=True, sliceable=True),
            thing("Knife", 1, "CounterTop_bar_3", cleanable=True),
            thing("Mug", 1, "Sink_bar_6_bar_SinkBasin", **mug),
            thing("Mug", 2, "CounterTop_bar_3", **mug),
        ],
        {
            "Cabinet": {"Mug"},
            "CounterTop": {"Egg", "Knife", "Mug"},
            "Fridge": {"Egg", "Mug"},
            "Microwave": {"Egg", "Mug"},
            "SinkBasin": {"Egg", "Knife", "Mug"},
        },
    )


def bedroom() -> Game:
    """Build a bedroom: a desk with a lamp, an open drawer with a pencil at the same location, a shelf with a book."""
    return build(
        Goal(TaskType.LOOK, "Pencil", None, "DeskLamp"),
        "look at pencil under the desklamp",
        [place("Desk", 1), place("Drawer", 2, at=1, openable=True, is_open=True), place("Shelf", 3)],
        [
            thing("Book", 1, "Shelf_bar_3"),
            thing("DeskLamp", 1, "Desk_bar_1", pickupable=False, toggleable=True),
            thing("Pencil", 1, "Drawer_bar_2"),
        ],
        {"Desk": {"Book", "Pencil"}, "Drawer": {"Pencil"}, "Shelf": {"Book", "Pencil"}},
    )


def oddities() -> Game:
    """Build a game with features that occur in official games but not in generated ones.

    A bowl that contains an apple, a candle that can be carried and switched on, bread that is sliced from the start, a
    plate in two receptacles, a book on the floor, and a start at a receptacle.
    """
    return build(
        Goal(TaskType.PICK, "Bread", "Shelf"),
        "put some bread on shelf",
        [place("CounterTop", 1), place("SideTable", 2), place("Shelf", 3), place("Fridge", 4, openable=True)],
        [
            thing("Apple", 1, "CounterTop_bar_1", sliceable=True, coolable=True),
            thing("Bowl", 1, "CounterTop_bar_1", container=True, contains=("Apple_bar_1",)),
            thing("Bread", 1, "SideTable_bar_2", coolable=True, initially=frozenset({"sliced", "clean"})),
            thing("ButterKnife", 1, "CounterTop_bar_1"),
            thing("Candle", 1, "SideTable_bar_2", toggleable=True),
            thing("Book", 1, None, location="loc_bar_3"),
            thing("Plate", 1, "CounterTop_bar_1", also_in=("SideTable_bar_2",)),
        ],
        {
            "CounterTop": {"Apple", "Bowl", "Bread", "ButterKnife", "Candle", "Plate"},
            "Shelf": {"Bread"},
            "Fridge": {"Apple", "Bread"},
        },
        start="loc_bar_1",
    )
