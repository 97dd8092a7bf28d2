"""Reading, writing and rejecting PDDL problems."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.pddl import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    parse_expression,
    parse_goal,
    parse_problem,
    problem_text,
)
from empg.environments.alfworld.world import Game, Goal, TaskType
from tests.environments.alfworld.rooms import KITCHEN_GOALS, bedroom, kitchen, oddities

GAMES = [*(kitchen(task_type) for task_type in KITCHEN_GOALS), bedroom(), oddities()]
GENERATED = [generate(split, index) for split in ("train", "valid_unseen") for index in range(15)]


def _sorted(game: Game) -> Game:
    """Return the same game in the order of the parser, with only those `can_contain` pairs that can occur."""
    item_types = {item.type for item in game.items}
    fits = {r.type: game.can_contain.get(r.type, frozenset()) & item_types for r in game.receptacles}
    return replace(
        game,
        items=tuple(sorted(game.items, key=lambda item: item.id.lower())),
        receptacles=tuple(sorted(game.receptacles, key=lambda r: r.id.lower())),
        can_contain={type: types for type, types in sorted(fits.items()) if types},
    )


@pytest.mark.parametrize("game", [*GAMES, *GENERATED], ids=lambda game: game.task)
def test_parsing_inverts_writing(game: Game):
    back = parse_problem(problem_text(game), task=game.task, task_id=game.task_id, room=game.room)
    expected = _sorted(game)
    assert back.goal == expected.goal
    assert back.receptacles == expected.receptacles
    assert back.items == expected.items
    assert back.can_contain == expected.can_contain
    assert back == expected


def test_the_text_has_one_fact_per_line():
    lines = problem_text(bedroom()).splitlines()
    for fact in (
        "(atLocation agent1 loc_bar_0_bar_0_bar_0_bar_30)",
        "(receptacleAtLocation Drawer_bar_2 loc_bar_1)",
        "(opened Drawer_bar_2)",
        "(inReceptacle Pencil_bar_1 Drawer_bar_2)",
        "(objectAtLocation Pencil_bar_1 loc_bar_1)",
        "(toggleable DeskLamp_bar_1)",
        "(canContain DrawerType PencilType)",
    ):
        assert f"    {fact}" in lines


@pytest.mark.parametrize("id", ["Mug 1", "Mug)(evil", "1Mug", "", "Mug\n", "Müg"])
def test_an_id_that_is_not_a_plain_name_is_rejected(id: str):
    game = kitchen()
    with pytest.raises(ValueError, match="is not a plain PDDL name"):
        problem_text(replace(game, items=(replace(game.items[0], id=id),)))


# ---- expressions ----------------------------------------------------------------------------------------------------


def test_expressions():
    assert parse_expression("(a (b c) ; no\n ())") == ["a", ["b", "c"], []]


@pytest.mark.parametrize("text", ["", "(", ")", "(a", "(a))", "(a) (b)", "((a)", "; (a)", "())("])
def test_text_that_is_not_one_expression_is_rejected(text: str):
    with pytest.raises(ValueError, match="PDDL text"):
        parse_expression(text)


def test_depth_and_length_are_bounded():
    assert parse_expression("(" * MAX_DEPTH + ")" * MAX_DEPTH)
    with pytest.raises(ValueError, match="nested too deeply: expected at most 64 levels"):
        parse_expression("(" * 1_000_000)
    with pytest.raises(ValueError, match="at most 16000000"):
        parse_expression(" " * (MAX_CHARACTERS + 1))


expressions = st.recursive(
    st.text("abc?-=", min_size=1, max_size=4), lambda inner: st.lists(inner, max_size=4), max_leaves=20
)


def _text(expression) -> str:
    return expression if isinstance(expression, str) else "(" + "\n".join(map(_text, expression)) + ")"


@given(expressions)
def test_any_expression_is_parsed_back(expression):
    assert parse_expression(_text(expression)) == expression


@given(st.text(alphabet="(); ab\n", max_size=40))
def test_any_text_is_parsed_or_rejected(text: str):
    bare = "".join(line.partition(";")[0] for line in text.split("\n"))
    try:
        parse_expression(text)
    except ValueError:
        return
    assert bare.count("(") == bare.count(")")


# ---- problems -------------------------------------------------------------------------------------------------------


def _problem(init: str = "(atLocation a l)", goal: str | None = None) -> str:
    goal = goal or "(and (objectType ?o MugType) (receptacleType ?r BedType) (inReceptacle ?o ?r))"
    return f"(define (problem p) (:init {init}) (:goal {goal}))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(define (problem p))", "no :init section"),
        ("(define (:init))", "no :goal section"),
        ("word", "no :init section"),
        (_problem(init=""), "the agent must be at exactly one location, got 0"),
        (_problem(init="(atLocation a l) (atLocation a m)"), "the agent must be at exactly one location, got 2"),
        (_problem(init="(atLocation a)"), "atLocation takes two arguments, got 1: a"),
        (_problem(init="(atLocation a l) (inReceptacle Mug_bar_1 r)"), "Mug_bar_1 has a place but no objectType"),
        (_problem(init="(atLocation a l) (holds a Mug_bar_1)"), "start with an object in hand are not supported"),
        (_problem(goal="(and)"), "does not match any of the six task types; its predicates are: none"),
        (_problem(goal="(fly ?o)"), "does not match any of the six task types; its predicates are: fly"),
    ],
)
def test_an_unsupported_problem_is_rejected(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_problem(text, task="put a mug in bed", task_id="x")


def test_the_case_of_predicates_does_not_matter():
    lower = parse_problem(problem_text(kitchen()).replace("inReceptacle", "inreceptacle"), task="t", task_id="i")
    assert lower == parse_problem(problem_text(kitchen()), task="t", task_id="i")


def test_a_sliced_goal_is_rejected():
    goal = (
        "(and (exists (?r - receptacle) (exists (?o - object) (and (sliceable ?o) (isSliced ?o) (inReceptacle ?o ?r)"
        " (objectType ?o AppleType) (receptacleType ?r FridgeType)))))"
    )
    with pytest.raises(ValueError, match="does not match any of the six task types"):
        parse_goal(parse_expression(goal))


@pytest.mark.parametrize("task_type", list(TaskType))
def test_the_goals_of_alfworld_are_parsed(task_type: TaskType):
    pytest.importorskip("alfworld.info", reason="needs empg[textworld]")
    from alfworld.gen.goal_library import gdict

    text = gdict[task_type.value]["pddl"].format(obj="Mug", recep="Shelf", toggle="DeskLamp").replace("#", "-")
    section = text[: text.rindex(")")] if text.count(")") > text.count("(") else text
    goal = parse_expression(section)
    assert isinstance(goal, list)
    if task_type is TaskType.LOOK:
        assert parse_goal(goal[1:]) == Goal(task_type, "Mug", None, "DeskLamp")
    else:
        assert parse_goal(goal[1:]) == Goal(task_type, "Mug", "Shelf")
