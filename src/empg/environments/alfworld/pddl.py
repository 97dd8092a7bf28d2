"""Convert a `Game` to an ALFRED planning problem in PDDL and back, with a bounded s-expression parser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

from empg.environments.alfworld.words import display_names
from empg.environments.alfworld.world import TREATMENTS, Game, Goal, Item, Receptacle, TaskType
from empg.errors import UserError

Expression: TypeAlias = "str | list[Expression]"

MAX_CHARACTERS = 16_000_000
MAX_DEPTH = 64

# The domain names these as constants, so every problem must declare them.
_CONSTANT_RTYPES = tuple(treatment.tool for treatment in TREATMENTS.values())
_CONSTANT_OTYPES = ("ButterKnife", "Knife")

_ITEM_FLAGS = {
    "pickupable": "pickupable",
    "cleanable": "cleanable",
    "heatable": "heatable",
    "coolable": "coolable",
    "toggleable": "toggleable",
    "sliceable": "sliceable",
    "container": "isReceptacleObject",
}
_MARKS = {"clean": "isClean", "hot": "isHot", "cool": "isCool", "lit": "isToggled", "sliced": "isSliced"}

_GOALS = {
    TaskType.PICK: "",
    **{task: f"({made.affordance} ?o) ({_MARKS[made.state]} ?o) " for task, made in TREATMENTS.items()},
    TaskType.PICK_TWO: "(exists (?o2 - object) (and (not (= ?o ?o2)) (objectType ?o2 {0}Type) (inReceptacle ?o2 ?r))) ",
}
_PLACE_GOAL = (
    "(exists (?r - receptacle) (exists (?o - object) (and {2}(objectType ?o {0}Type)"
    " (receptacleType ?r {1}Type) (inReceptacle ?o ?r))))"
)
_LOOK_GOAL = (
    "(exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and (objectType ?ot {1}Type) (toggleable ?ot)"
    " (isToggled ?ot) (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))"
    " (exists (?o - object ?a - agent) (and (objectType ?o {0}Type) (holds ?a ?o)))"
)
_LOOK_PREDICATES = frozenset(
    ("objecttype", "toggleable", "istoggled", "receptacleatlocation", "atlocation", "inreceptacle", "holds")
)


# ---- writing --------------------------------------------------------------------------------------------------------


def problem_text(game: Game) -> str:
    """Return the PDDL problem of a game in the dialect of alfworld's domain. The text is deterministic.

    Raises:
        UserError: if an id or a type is not a plain PDDL name.
    """
    objects = [
        "agent1 - agent",
        *(f"{item.id} - object" for item in game.items),
        *(f"{receptacle.id} - receptacle" for receptacle in game.receptacles),
        *(f"{location} - location" for location in sorted(_locations(game))),
        *(f"{type}Type - otype" for type in sorted({*_CONSTANT_OTYPES, *(i.type for i in game.items)})),
        *(f"{type}Type - rtype" for type in sorted({*_CONSTANT_RTYPES, *(r.type for r in game.receptacles)})),
    ]
    for name in (line.rpartition(" - ")[0] for line in objects):
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
            problem = f"{name!r} is not a plain PDDL name"
            raise UserError(f"{game.task_id}: {problem}: expected a letter, then letters, digits and underscores")
    facts = ["= (total-cost) 0", *_facts(game)]
    goal = game.goal
    if goal.task_type is TaskType.LOOK:
        condition = _LOOK_GOAL.format(goal.object_type, goal.lamp_type)
    else:
        extra = _GOALS[goal.task_type].format(goal.object_type)
        condition = _PLACE_GOAL.format(goal.object_type, goal.receptacle_type, extra)
    return (
        f"(define (problem alfred_game)\n(:domain alfred)\n(:objects\n{_lines(objects)})\n"
        f"(:init\n{_lines([f'({fact})' for fact in facts])})\n(:goal (and {condition}))\n"
        "(:metric minimize (total-cost))\n)\n"
    )


def _lines(parts: list[str]) -> str:
    return "".join(f"    {part}\n" for part in parts)


def _locations(game: Game) -> set[str]:
    places = {game.start_location, *(r.location for r in game.receptacles), *(i.location for i in game.items)}
    return {place for place in places if place}


def _facts(game: Game) -> Iterator[str]:
    yield f"atLocation agent1 {game.start_location}"
    place_of = {}
    for receptacle in game.receptacles:
        place_of[receptacle.id] = receptacle.location
        yield f"receptacleType {receptacle.id} {receptacle.type}Type"
        if receptacle.location:
            yield f"receptacleAtLocation {receptacle.id} {receptacle.location}"
        if receptacle.openable:
            yield f"openable {receptacle.id}"
            if receptacle.initially_open:
                yield f"opened {receptacle.id}"
    for item in game.items:
        yield f"objectType {item.id} {item.type}Type"
        for flag, predicate in _ITEM_FLAGS.items():
            if getattr(item, flag):
                yield f"{predicate} {item.id}"
        for mark in sorted(item.initially):
            yield f"{_MARKS[mark]} {item.id}"
        for home in (item.home, *item.also_in):
            if home is not None:
                yield f"inReceptacle {item.id} {home}"
        place = item.location or (place_of[item.home] if item.home is not None else None)
        if place:
            yield f"objectAtLocation {item.id} {place}"
        for inner in item.contains:
            yield f"inReceptacleObject {inner} {item.id}"
    item_types = {item.type for item in game.items}
    for receptacle_type in sorted({receptacle.type for receptacle in game.receptacles}):
        for item_type in sorted(item_types & game.can_contain.get(receptacle_type, frozenset())):
            yield f"canContain {receptacle_type}Type {item_type}Type"


# ---- reading --------------------------------------------------------------------------------------------------------


def parse_expression(text: str) -> Expression:
    """Parse one s-expression into strings and lists. Comments run from ";" to the end of the line.

    Raises:
        UserError: if the text is not one complete expression, has over 16 million characters, or is nested more than
            64 levels deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"the PDDL text is too long: expected at most {MAX_CHARACTERS} characters, got {len(text)}")
    top: list[Expression] = []
    stack = [top]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        if token == "(":
            if len(stack) > MAX_DEPTH:
                raise UserError(f"the PDDL text is nested too deeply: expected at most {MAX_DEPTH} levels")
            inner: list[Expression] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token == ")":
            if len(stack) == 1:
                raise UserError("the PDDL text has an unmatched closing parenthesis")
            stack.pop()
        else:
            stack[-1].append(token)
    if len(stack) != 1 or len(top) != 1:
        raise UserError("the PDDL text is not one complete expression")
    return top[0]


Relations = dict[str, list[tuple[str, ...]]]


def parse_problem(text: str, *, task: str, task_id: str, room: str = "") -> Game:
    """Parse a PDDL problem into a game. The task sentence is not part of the problem, so the caller passes it.

    Raises:
        UserError: if the text is not a valid problem, its goal does not match any of the six task types, or a
            receptacle is at two locations.
    """
    problem = parse_expression(text)
    sections = {
        section[0].lower(): section[1:]
        for section in (problem if isinstance(problem, list) else [])
        if isinstance(section, list) and section and isinstance(section[0], str)
    }
    for name in (":init", ":goal"):
        if name not in sections:
            raise UserError(f"the PDDL problem has no {name} section")
    relations: Relations = {}
    for fact in sections[":init"]:
        symbols = [symbol for symbol in fact if isinstance(symbol, str)] if isinstance(fact, list) else []
        if symbols and len(symbols) == len(fact):
            relations.setdefault(symbols[0].lower(), []).append(tuple(symbols[1:]))
    if relations.get("holds"):
        raise UserError("games that start with an object in hand are not supported")
    places = _pairs(relations, "atLocation")
    if len(places) != 1:
        raise UserError(f"the agent must be at exactly one location, got {len(places)}")
    types = {id: _bare(type) for id, type in _pairs(relations, "receptacleType")}
    item_types = {id: _bare(type) for id, type in _pairs(relations, "objectType")}
    names = display_names([*types, *item_types])
    can_contain: dict[str, set[str]] = {}
    for receptacle_type, item_type in _pairs(relations, "canContain"):
        can_contain.setdefault(_bare(receptacle_type), set()).add(_bare(item_type))
    return Game(
        task_id=task_id,
        task=task,
        goal=parse_goal(sections[":goal"]),
        receptacles=_receptacles(relations, types, names),
        items=_items(relations, item_types, names),
        can_contain={type: frozenset(kinds) for type, kinds in sorted(can_contain.items())},
        start_location=places[0][1],
        room=room,
    )


def _pairs(relations: Relations, predicate: str) -> list[tuple[str, str]]:
    pairs = []
    for arguments in relations.get(predicate.lower(), []):
        if len(arguments) != 2:
            raise UserError(f"{predicate} takes two arguments, got {len(arguments)}: {' '.join(arguments)}")
        pairs.append((arguments[0], arguments[1]))
    return pairs


def _having(relations: Relations, predicate: str) -> set[str]:
    return {arguments[0] for arguments in relations.get(predicate.lower(), []) if arguments}


def _bare(type: str) -> str:
    return type.removesuffix("Type")


def _receptacles(relations: Relations, types: dict[str, str], names: dict[str, str]) -> tuple[Receptacle, ...]:
    location: dict[str, str] = {}
    for id, place in _pairs(relations, "receptacleAtLocation"):
        if location.setdefault(id, place) != place:
            raise UserError(f"receptacle {id} is at two locations, {location[id]} and {place}, which is not supported")
    openable, opened = _having(relations, "openable"), _having(relations, "opened")
    return tuple(
        Receptacle(id, types[id], names[id], location.get(id, ""), id in openable, id in opened)
        for id in sorted(types, key=str.lower)
    )


def _items(relations: Relations, types: dict[str, str], names: dict[str, str]) -> tuple[Item, ...]:
    homes: dict[str, list[str]] = {}
    for id, receptacle in _pairs(relations, "inReceptacle"):
        homes.setdefault(id, []).append(receptacle)
    place_of = dict(_pairs(relations, "receptacleAtLocation"))
    location = dict(_pairs(relations, "objectAtLocation"))
    contents: dict[str, list[str]] = {}
    for inner, outer in _pairs(relations, "inReceptacleObject"):
        contents.setdefault(outer, []).append(inner)
    for id in sorted({*homes, *location, *contents}):
        if id not in types:
            raise UserError(f"{id} has a place but no objectType")
    flags = {flag: _having(relations, predicate) for flag, predicate in _ITEM_FLAGS.items()}
    marks = {mark: _having(relations, predicate) for mark, predicate in _MARKS.items()}
    items = []
    for id in sorted(types, key=str.lower):
        lies_in = sorted(homes.get(id, []), key=str.lower)
        home = lies_in[0] if lies_in else None
        items.append(
            Item(
                id,
                types[id],
                names[id],
                home,
                also_in=tuple(lies_in[1:]),
                location=None if home is not None and location.get(id) == place_of.get(home) else location.get(id, ""),
                contains=tuple(sorted(contents.get(id, []), key=str.lower)),
                initially=frozenset(mark for mark, having in marks.items() if id in having),
                **{flag: id in having for flag, having in flags.items()},
            )
        )
    return tuple(items)


def parse_goal(expression: Expression) -> Goal:
    """Parse the goal of one of the six task types. The order and nesting of its conditions do not matter.

    Raises:
        UserError: if the conditions do not match any of the six task types.
    """
    atoms = list(_atoms(expression))
    predicates = {atom[0] for atom in atoms}
    item_type = {atom[1]: _bare(atom[2]) for atom in atoms if atom[0] == "objecttype" and len(atom) == 3}
    place_types = {_bare(atom[2]) for atom in atoms if atom[0] == "receptacletype" and len(atom) == 3}
    if predicates == _LOOK_PREDICATES:
        lamps = {item_type.get(atom[1]) for atom in atoms if atom[0] == "istoggled"}
        held = {item_type.get(atom[-1]) for atom in atoms if atom[0] == "holds"}
        if len(lamps) == len(held) == 1 and len(item_type) == 2 and None not in lamps | held:
            return Goal(TaskType.LOOK, str(held.pop()), None, lamps.pop())
    task = {
        frozenset(): TaskType.PICK,
        **{frozenset({made.affordance, _MARKS[made.state].lower()}): task for task, made in TREATMENTS.items()},
        frozenset({"not", "="}): TaskType.PICK_TWO,
    }.get(frozenset(predicates - {"objecttype", "receptacletype", "inreceptacle"}))
    wanted = set(item_type.values())
    count = 2 if task is TaskType.PICK_TWO else 1
    if task is None or len(wanted) != 1 or len(place_types) != 1 or len(item_type) != count:
        found = ", ".join(sorted(predicates)) or "none"
        raise UserError(f"the goal does not match any of the six task types; its predicates are: {found}")
    return Goal(task, wanted.pop(), place_types.pop())


def _atoms(expression: Expression) -> Iterator[tuple[str, ...]]:
    """Yield the atoms of a formula, with the predicate first in lower case. A negation also yields ("not",)."""
    if isinstance(expression, str) or not expression:
        return
    head, *rest = expression
    if isinstance(head, list):
        for part in expression:
            yield from _atoms(part)
    elif head.lower() in ("and", "not"):
        if head.lower() == "not":
            yield ("not",)
        for part in rest:
            yield from _atoms(part)
    elif head.lower() == "exists":
        yield from _atoms(rest[-1] if rest else [])
    else:
        yield (head.lower(), *(symbol for symbol in rest if isinstance(symbol, str)))
