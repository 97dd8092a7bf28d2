"""Generator of household games: rooms of four kinds, objects in their usual places, and a solvable task.

A game is a pure function of (split, index, rooms, task types). The splits are disjoint by construction:

- Each room kind has 30 rooms. `train` and `valid_seen` use the first 25, `valid_unseen` uses the last 5.
- A share of the pairs (object, goal receptacle or lamp) is held out. `valid_unseen` uses only those pairs; the other
  splits never use them.
- Games of `train` and `valid_seen` differ in content, because the fingerprint of the content decides the split.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from functools import cache

from empg.environments.alfworld import tables
from empg.environments.alfworld.spec import RoomSize
from empg.environments.alfworld.words import display_names
from empg.environments.alfworld.world import TREATMENTS, Game, Goal, Item, Receptacle, TaskType
from empg.environments.options import check_task
from empg.errors import UserError

SPLIT_SIZES = {"train": 100_000, "valid_seen": 1_000, "valid_unseen": 1_000}

SEEN_ROOMS, UNSEEN_ROOMS = range(1, 26), range(26, 31)
HELD_OUT_SHARE = 0.15
VALID_SEEN_SHARE = 1 / 8
OUT_OF_PLACE = 0.08  # probability that an object is not in one of its usual places
_ITEMS = {"small": (6, 9), "full": (20, 32)}
_MAX_ATTEMPTS = 10_000

SENTENCES: dict[TaskType, tuple[str, ...]] = {
    TaskType.PICK: ("put a {0} in {1}", "put some {0} on {1}"),
    TaskType.LOOK: ("look at {0} under the {1}", "examine the {0} with the {1}"),
    TaskType.CLEAN: ("put a clean {0} in {1}", "clean some {0} and put it in {1}"),
    TaskType.HEAT: ("put a hot {0} in {1}", "heat some {0} and put it in {1}"),
    TaskType.COOL: ("put a cool {0} in {1}", "cool some {0} and put it in {1}"),
    TaskType.PICK_TWO: ("put two {0} in {1}", "find two {0} and put them in {1}"),
}
_HAVING = {"cleanable": tables.CLEANABLE, "heatable": tables.HEATABLE, "coolable": tables.COOLABLE}


def generate(
    split: str, index: int, rooms: RoomSize = "full", task_types: Sequence[TaskType] = tuple(TaskType)
) -> Game:
    """Generate the `index`-th game of a split.

    Args:
        split: "train", "valid_seen" or "valid_unseen".
        index: 0 <= index < SPLIT_SIZES[split].
        rooms: "full" rooms are about as large as ALFWorld's; "small" ones have 4 to 12 receptacles and 6 to 9 objects.
        task_types: the task types, drawn uniformly.

    Raises:
        UserError: if the split is unknown, `task_types` is empty or the index is not a whole number.
        IndexError: if the index is out of range.
    """
    if split not in SPLIT_SIZES:
        raise UserError(f"unknown split: expected one of {', '.join(SPLIT_SIZES)}, got {split!r}")
    if not task_types:
        raise UserError("task_types is empty: expected at least one task type")
    index = check_task(index, SPLIT_SIZES[split], split)
    kinds = ",".join(sorted(TaskType(task_type).value for task_type in task_types))
    rng = random.Random(f"alfworld/{split}/{rooms}/{kinds}/{index}")
    # Drawn once: redrawing it after a failed attempt would favour the types that fail least often.
    task_type = TaskType(rng.choice(sorted(TaskType(task_type).value for task_type in task_types)))
    for _ in range(_MAX_ATTEMPTS):
        game = _attempt(rng, split, task_type, rooms)
        if game is not None:
            return game
    # Unreachable unless the tables allow almost no game of this type.
    raise RuntimeError(f"no {task_type.value} game found for {split} {index} in {_MAX_ATTEMPTS} attempts")


def held_out(goal: Goal) -> bool:
    """Return whether a goal's pair of object and receptacle (or lamp) occurs in `valid_unseen` only."""
    digest = hashlib.sha256(f"{goal.object_type}>{goal.receptacle_type or goal.lamp_type}".encode()).digest()
    return digest[0] < HELD_OUT_SHARE * 256


@cache
def furnish(kind: str, number: int, rooms: RoomSize) -> tuple[Receptacle, ...]:
    """Return the receptacles of one room. They are the same in every game of that room."""
    rng = random.Random(f"alfworld/room/{kind}/{number}/{rooms}")
    places = [(x, y) for x in range(-12, 13) for y in range(-12, 13)]
    rng.shuffle(places)
    found = []
    for type_, counts in sorted(tables.ROOMS[kind].items()):
        for _ in range(rng.randint(*counts[rooms == "full"])):
            x, y = places.pop()
            location = f"loc_bar_{_whole(x)}_bar_{_whole(y)}_bar_{rng.randrange(4)}_bar_45"
            found.append((_thing_id(rng, type_, x, y), type_, location))
    names = display_names([id for id, _, _ in found])
    return tuple(Receptacle(id, t, names[id], location, t in tables.OPENABLE) for id, t, location in found)


def _attempt(rng: random.Random, split: str, task_type: TaskType, rooms: RoomSize) -> Game | None:
    """Try to build one game. Return None if the room does not allow the task or the content is of another split."""
    kind = rng.choice(tables.TASK_ROOMS[task_type])
    number = rng.choice(UNSEEN_ROOMS if split == "valid_unseen" else SEEN_ROOMS)
    receptacles = furnish(kind, number, rooms)
    goal = _choose_goal(rng, task_type, kind, {r.type for r in receptacles})
    if goal is None or held_out(goal) != (split == "valid_unseen"):
        return None
    placed = _place_items(rng, goal, kind, receptacles, rng.randint(*_ITEMS[rooms]))
    if placed is None:
        return None
    room = f"{kind} {number}"
    content = repr((rooms, room, goal.task_type.value, goal.object_type, goal.receptacle_type, goal.lamp_type, placed))
    digest = hashlib.sha256(content.encode()).hexdigest()
    if split != "valid_unseen" and (int(digest[:4], 16) < VALID_SEEN_SHARE * 65536) != (split == "valid_seen"):
        return None
    names = display_names([*(r.id for r in receptacles), *(id for id, _, _ in placed)])
    target = goal.receptacle_type or goal.lamp_type or ""
    sentence = rng.choice(SENTENCES[task_type]).format(goal.object_type.lower(), target.lower())
    present = {type_ for _, type_, _ in placed}
    return Game(
        task_id=f"{task_type.value}-{goal.object_type}-{target}-{room.replace(' ', '_')}-{digest[:12]}",
        task=sentence,
        goal=goal,
        receptacles=receptacles,
        items=tuple(_item(id, type_, names[id], home) for id, type_, home in placed),
        can_contain={r.type: tables.ACCEPTS[r.type] & present for r in receptacles},
        start_location="loc_bar_0_bar__minus_20_bar_0_bar_30",  # in the middle of the room, at no receptacle
        room=room,
    )


def _choose_goal(rng: random.Random, task_type: TaskType, kind: str, present: set[str]) -> Goal | None:
    homes = tables.HOMES[kind]
    movable = [o for o in homes if o not in tables.LAMPS and any(home in present for home in homes[o])]
    treatment = TREATMENTS.get(task_type)
    objects = sorted(o for o in movable if treatment is None or o in _HAVING[treatment.affordance])
    if not objects:
        return None
    object_type = rng.choice(objects)
    if task_type is TaskType.LOOK:
        lamps = [lamp for lamp in tables.LAMPS if any(home in present for home in homes.get(lamp, ()))]
        return Goal(task_type, object_type, lamp_type=rng.choice(lamps)) if lamps else None
    targets = sorted(r for r in present if object_type in tables.ACCEPTS[r])
    return Goal(task_type, object_type, rng.choice(targets)) if targets else None


def _place_items(
    rng: random.Random, goal: Goal, kind: str, receptacles: tuple[Receptacle, ...], count: int
) -> list[tuple[str, str, str]] | None:
    """Place all objects: (id, type, home id). Objects of the goal's type never start in its receptacle type."""
    homes = tables.HOMES[kind]
    wanted = [goal.object_type] * (2 if goal.task_type is TaskType.PICK_TWO else 1)
    if goal.lamp_type is not None:
        wanted.append(goal.lamp_type)
    others = [o for o in sorted(homes) if o not in tables.LAMPS]
    types = [*wanted, *(rng.choice(others) for _ in range(count - len(wanted)))]
    placed = []
    for type_ in types:
        avoid = goal.receptacle_type if type_ == goal.object_type else None
        usual = [[r for r in receptacles if r.type == home] for home in homes[type_] if home != avoid]
        usual = [group for group in usual if group]
        unusual = [r for r in receptacles if type_ in tables.ACCEPTS[r.type] and r.type != avoid]
        if unusual and (not usual or (type_ not in tables.LAMPS and rng.random() < OUT_OF_PLACE)):
            home = rng.choice(unusual)
        elif usual:
            # Each place is half as likely as the previous one.
            home = rng.choice(rng.choices(usual, [0.5**rank for rank in range(len(usual))])[0])
        elif type_ in wanted:
            return None
        else:
            continue
        x, y = rng.randint(-299, 299), rng.randint(-299, 299)
        placed.append((_thing_id(rng, type_, x / 100, y / 100), type_, home.id))
    return placed if len({id for id, _, _ in placed}) == len(placed) else None


def _item(id: str, type_: str, name: str, home: str) -> Item:
    lamp = type_ in tables.LAMPS
    return Item(
        id,
        type_,
        name,
        home,
        pickupable=not lamp,
        cleanable=type_ in tables.CLEANABLE,
        heatable=type_ in tables.HEATABLE,
        coolable=type_ in tables.COOLABLE,
        toggleable=lamp,
        sliceable=type_ in tables.SLICEABLE,
    )


def _thing_id(rng: random.Random, type_: str, x: float, y: float) -> str:
    """Return an id in ALFRED's format: type and position. A basin's id starts with its parent, such as "Sink"."""
    position = "_bar_".join(_decimal(v) for v in (x, rng.randint(0, 200) / 100, y))
    if type_.endswith("Basin"):
        return f"{type_.removesuffix('Basin')}_bar_{position}_bar_{type_}"
    return f"{type_}_bar_{position}"


def _decimal(value: float) -> str:
    sign = "minus" if value < 0 else "plus"
    return f"_{sign}_{abs(value):05.2f}".replace(".", "_dot_")


def _whole(value: int) -> str:
    return f"_minus_{-value}" if value < 0 else str(value)
