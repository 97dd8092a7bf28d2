"""The transition rules of ALFWorld's PDDL domain, on a `Game` and a `State`.

An `Engine` stores everything about a game that never changes, so that one engine serves any number of states. Rules
and sentences are identical to those of alfworld 0.4.2, including its quirks. `tests/environments` compares both
engines string by string.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from empg.environments.alfworld import words
from empg.environments.alfworld.world import TREATMENTS, Game, Item, Receptacle, State, TaskType, Treatment
from empg.errors import UserError

KNIVES = ("ButterKnife", "Knife")
_TREATED_BY = {treatment.tool: treatment for treatment in TREATMENTS.values()}


def _order(thing: Item | Receptacle) -> str:
    """Return the sort key of the original engine: the id in lower case."""
    return thing.id.lower()


class Engine:
    """The rules of one game.

    Raises:
        UserError: if two things have the same id or name, an item lies in an unknown receptacle, or it contains an
            unknown item.
    """

    def __init__(self, game: Game) -> None:
        self.game = game
        self.items = {item.id: item for item in sorted(game.items, key=_order)}
        self.receptacles = {r.id: r for r in sorted(game.receptacles, key=_order)}
        self._rank = {id: rank for rank, id in enumerate(self.items)}
        self._item_named = {item.name: item for item in self.items.values()}
        self._receptacle_named = {r.name: r for r in self.receptacles.values()}
        self._check()
        self._at: dict[str, list[Receptacle]] = {}
        for receptacle in self.receptacles.values():
            if receptacle.location:
                self._at.setdefault(receptacle.location, []).append(receptacle)
        self._goto: dict[str, list[str]] = {}
        goal = game.goal
        self._required = TREATMENTS.get(goal.task_type)
        self.wanted = frozenset(i.id for i in game.items if i.type == goal.object_type and self._can_become(i))
        self.targets = [r.id for r in self.receptacles.values() if r.type == goal.receptacle_type]
        self.lamps = frozenset(i.id for i in game.items if i.type == goal.lamp_type and i.toggleable)

    def _check(self) -> None:
        game = self.game
        things = len(game.items) + len(game.receptacles)
        if len({*self.items, *self.receptacles}) < things:
            raise UserError(f"{game.task_id}: two things have the same id")
        if len({*self._item_named, *self._receptacle_named}) < things:
            raise UserError(f"{game.task_id}: two things have the same name")
        for item in game.items:
            for home in (item.home, *item.also_in):
                if home is not None and home not in self.receptacles:
                    raise UserError(f"{game.task_id}: item {item.id} lies in {home}, which is not a receptacle")
            for inner in item.contains:
                if inner not in self.items:
                    raise UserError(f"{game.task_id}: item {item.id} contains {inner}, which is not an item")

    def _can_become(self, item: Item) -> bool:
        """Return whether an item has the affordance that the goal requires."""
        return self._required is None or self._required.allows(item)

    def start(self) -> State:
        """Return the initial state of every episode of this game."""
        state = State(location=self.game.start_location)
        inside: dict[str, list[str]] = {id: [] for id in self.receptacles}
        for item in self.items.values():
            if item.home is not None:
                inside[item.home].append(item.id)
                place = item.location or self.receptacles[item.home].location
                state.near.add((item.id, place))
            elif item.location:
                state.near.add((item.id, item.location))
            for receptacle in item.also_in:
                inside[receptacle].append(item.id)
            for word, marked in (
                ("clean", state.clean),
                ("hot", state.hot),
                ("cool", state.cool),
                ("lit", state.lit),
                ("sliced", state.sliced),
            ):
                if word in item.initially:
                    marked.add(item.id)
        state.inside = {id: tuple(items) for id, items in inside.items()}
        state.open = {r.id for r in self.receptacles.values() if r.openable and r.initially_open}
        state.won = self._is_won(state)
        return state

    def opening(self, state: State) -> str:
        """Return the first observation: the room and the task."""
        if state.location in self._at:
            scene = self._look(state)
        else:
            # Only the first observation lists the whole room.
            everything = [r.name for r in self.receptacles.values() if r.location]
            scene = f"{words.MIDDLE_OF_ROOM}{words.things(everything)}."
        return words.opening(scene, self.game.task)

    def step(self, state: State, command: str) -> tuple[str, bool]:
        """Apply a command to `state`. Return the observation and whether the command was valid.

        An invalid command changes only the step count.
        """
        state.steps += 1
        verb, _, rest = command.strip().partition(" ")
        rule = self._RULES.get(verb)
        observation = rule(self, state, rest) if rule is not None else None
        if observation is None:
            return words.NOTHING_HAPPENS, False
        state.won = self._is_won(state)
        return observation, True

    def admissible(self, state: State) -> list[str]:
        """Return all currently valid commands, sorted."""
        before: list[str] = []  # sorts before "go to"
        after: list[str] = []  # sorts after "look"
        heat: list[str] = []  # sorts between them
        held = self.items[state.holding] if state.holding is not None else None
        items = self.items
        for receptacle in self._at.get(state.location, ()):
            name = receptacle.name
            before.append("examine " + name)
            contents = state.inside[receptacle.id]
            accessible = not receptacle.openable
            if receptacle.openable:
                accessible = receptacle.id in state.open
                if accessible:
                    before.append("close " + name)
                else:
                    after.append("open " + name)
            for id in contents:
                item = items[id]
                if accessible and held is None and item.pickupable:
                    after.append(f"take {item.name} from {name}")
                if item.toggleable:
                    after.append("use " + item.name)
            if held is not None:
                if accessible and held.type in self.game.can_contain.get(receptacle.type, ()):
                    after.append(f"move {held.name} to {name}")
                treatment = _TREATED_BY.get(receptacle.type)
                if treatment is not None and treatment.allows(held):
                    part = before if treatment.verb < "go" else heat
                    part.append(f"{treatment.verb} {held.name} with {name}")
        if held is not None:
            before.append("examine " + held.name)
            if held.type in KNIVES:
                after.extend(
                    f"slice {item.name} with {held.name}"
                    for item in items.values()
                    if item.sliceable and (item.id, state.location) in state.near
                )
        return [
            *sorted(set(before)),
            *self._gotos(state.location),
            *sorted(heat),
            "help",
            "inventory",
            "look",
            *sorted(set(after)),
        ]

    def _gotos(self, location: str) -> list[str]:
        commands = self._goto.get(location)
        if commands is None:
            commands = sorted(
                "go to " + r.name for r in self.receptacles.values() if r.location and r.location != location
            )
            self._goto[location] = commands
        return commands

    def _is_won(self, state: State) -> bool:
        task = self.game.goal.task_type
        if task is TaskType.LOOK:
            if state.holding not in self.wanted or self.lamps.isdisjoint(state.lit):
                return False
            here = self._at.get(state.location, ())
            return any(id in self.lamps and id in state.lit for r in here for id in state.inside[r.id])
        wanted = self.wanted
        if self._required is not None:
            wanted = wanted & self._required.treated(state)
        enough = 2 if task is TaskType.PICK_TWO else 1
        if len(wanted) < enough:
            return False
        return any(len(wanted.intersection(state.inside[id])) >= enough for id in self.targets)

    # ---- one rule per verb: each returns the observation, or None if the command is invalid --------------------------

    def _here(self, state: State, name: str) -> Receptacle | None:
        receptacle = self._receptacle_named.get(name)
        return receptacle if receptacle is not None and receptacle.location == state.location else None

    def _accessible(self, state: State, receptacle: Receptacle) -> bool:
        return not receptacle.openable or receptacle.id in state.open

    def _sight(self, state: State, receptacle: Receptacle) -> str:
        contents = [self.items[id].name for id in state.inside[receptacle.id]]
        return words.receptacle_sight(receptacle.name, receptacle.openable, receptacle.id in state.open, contents)

    def _go(self, state: State, rest: str) -> str | None:
        receptacle = self._receptacle_named.get(rest.removeprefix("to ")) if rest.startswith("to ") else None
        if receptacle is None or not receptacle.location or receptacle.location == state.location:
            return None
        state.location = receptacle.location
        return f"You arrive at {receptacle.name}. {self._sight(state, receptacle)}"

    def _open(self, state: State, rest: str) -> str | None:
        receptacle = self._here(state, rest)
        if receptacle is None or self._accessible(state, receptacle):
            return None
        state.open.add(receptacle.id)
        return f"You open the {rest}. {self._sight(state, receptacle)}"

    def _close(self, state: State, rest: str) -> str | None:
        receptacle = self._here(state, rest)
        if receptacle is None or receptacle.id not in state.open:
            return None
        state.open.remove(receptacle.id)
        return f"You close the {rest}."

    def _take(self, state: State, rest: str) -> str | None:
        item_name, _, receptacle_name = rest.partition(" from ")
        item = self._item_named.get(item_name)
        receptacle = self._here(state, receptacle_name)
        if item is None or receptacle is None or state.holding is not None or not item.pickupable:
            return None
        contents = state.inside[receptacle.id]
        if item.id not in contents or not self._accessible(state, receptacle):
            return None
        state.inside[receptacle.id] = tuple(id for id in contents if id != item.id)
        state.holding = item.id
        state.near.discard((item.id, state.location))
        state.taken.add((item.id, receptacle.id))
        return f"You pick up the {item_name} from the {receptacle_name}."

    def _move(self, state: State, rest: str) -> str | None:
        item_name, _, receptacle_name = rest.partition(" to ")
        item = self._held(state, item_name)
        receptacle = self._here(state, receptacle_name)
        if item is None or receptacle is None or not self._accessible(state, receptacle):
            return None
        if item.type not in self.game.can_contain.get(receptacle.type, ()):
            return None
        contents = {*state.inside[receptacle.id], item.id}
        state.inside[receptacle.id] = tuple(sorted(contents, key=self._rank.__getitem__))
        state.holding = None
        state.near.add((item.id, state.location))
        state.taken.discard((item.id, receptacle.id))
        return f"You move the {item_name} to the {receptacle_name}."

    def _held(self, state: State, name: str) -> Item | None:
        item = self._item_named.get(name)
        return item if item is not None and item.id == state.holding else None

    def _treat(self, state: State, rest: str, treatment: Treatment) -> str | None:
        item_name, _, receptacle_name = rest.partition(" with ")
        item = self._held(state, item_name)
        receptacle = self._here(state, receptacle_name)
        if item is None or receptacle is None or receptacle.type != treatment.tool or not treatment.allows(item):
            return None
        treatment.apply(item, state)
        return f"You {treatment.verb} the {item_name} using the {receptacle_name}."

    def _use(self, state: State, rest: str) -> str | None:
        item = self._item_named.get(rest)
        if item is None or not item.toggleable:
            return None
        if not any(item.id in state.inside[r.id] for r in self._at.get(state.location, ())):
            return None
        state.lit.add(item.id)  # permanent: a second `use` switches it off in Unity but not in the text engine
        return f"You turn on the {rest}."

    def _slice(self, state: State, rest: str) -> str | None:
        item_name, _, knife_name = rest.partition(" with ")
        item = self._item_named.get(item_name)
        knife = self._held(state, knife_name)
        if item is None or knife is None or knife.type not in KNIVES or not item.sliceable:
            return None
        if (item.id, state.location) not in state.near:
            return None
        state.sliced.add(item.id)
        return f"You sliced the {item_name} with the {knife_name}."

    def _examine(self, state: State, rest: str) -> str | None:
        receptacle = self._here(state, rest)
        if receptacle is not None:
            return self._sight(state, receptacle)
        # An item can be examined only in hand. The domain intends to allow visible items as well, but a stray comma in
        # its precondition ("?l - location, ?r - receptacle") makes that half unsatisfiable.
        item = self._held(state, rest)
        if item is None:
            return None
        id = item.id
        if item.container:
            contents = sorted(item.contains, key=self._rank.__getitem__)
            return words.container_sight(rest, [self.items[inner].name for inner in contents])
        return words.item_sight(
            rest,
            clean=id in state.clean,
            hot=id in state.hot,
            cool=id in state.cool,
            sliced=id in state.sliced,
            lit=item.toggleable and id in state.lit,
        )

    def _look_around(self, state: State, rest: str) -> str | None:
        return None if rest else self._look(state)

    def _look(self, state: State) -> str:
        here = self._at.get(state.location)
        if here is None:
            return f"{words.MIDDLE_OF_ROOM}nothing."
        beside: list[str] = []
        if state.taken:
            for item in self.items.values():
                if (item.id, state.location) in state.near:
                    beside.extend(item.name for r in here if (item.id, r.id) in state.taken)
        return words.facing([r.name for r in here], beside)

    def _inventory(self, state: State, rest: str) -> str | None:
        if rest:
            return None
        if state.holding is None:
            return "You are not carrying anything."
        return f"You are carrying: a {self.items[state.holding].name}."

    def _help(self, state: State, rest: str) -> str | None:
        return None if rest else words.HELP

    _RULES: ClassVar[dict[str, Callable[[Engine, State, str], str | None]]] = {
        "go": _go,
        "open": _open,
        "close": _close,
        "take": _take,
        "move": _move,
        "clean": partial(_treat, treatment=TREATMENTS[TaskType.CLEAN]),
        "heat": partial(_treat, treatment=TREATMENTS[TaskType.HEAT]),
        "cool": partial(_treat, treatment=TREATMENTS[TaskType.COOL]),
        "use": _use,
        "slice": _slice,
        "examine": _examine,
        "look": _look_around,
        "inventory": _inventory,
        "help": _help,
    }
