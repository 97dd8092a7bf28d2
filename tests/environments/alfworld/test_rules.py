"""The rules of the game, command by command, in hand-written rooms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import Goal, TaskType
from tests.environments.alfworld.rooms import bedroom, build, kitchen, oddities, place, thing

NOTHING = "Nothing happens."


# ---- the first observation ------------------------------------------------------------------------------------------


def test_the_first_observation_lists_the_room_and_the_task():
    engine = Engine(kitchen())
    assert engine.opening(engine.start()) == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see "
        "a cabinet 2, a cabinet 1, a countertop 1, a fridge 1, a microwave 1, and a sinkbasin 1."
        "\n\nYour task is to: put a hot mug in cabinet."
    )


def test_the_first_observation_at_a_receptacle_faces_it():
    engine = Engine(oddities())
    assert engine.opening(engine.start()).split("\n\n")[1] == (
        "You are facing the countertop 1. Next to it, you see nothing."
    )


def test_the_admissible_commands_in_the_middle_of_the_room():
    engine = Engine(kitchen())
    assert engine.admissible(engine.start()) == [
        "go to cabinet 1",
        "go to cabinet 2",
        "go to countertop 1",
        "go to fridge 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
    ]


# ---- go, look, examine, inventory, help -----------------------------------------------------------------------------


def test_go_shows_the_contents_of_the_receptacle(play):
    _, _, observations = play(
        kitchen(), "go to countertop 1", "go to fridge 1", "go to sinkbasin 1", "open fridge 1", "go to fridge 1"
    )
    assert observations == [
        "You arrive at countertop 1. On the countertop 1, you see a knife 1, and a mug 1.",
        "You arrive at fridge 1. The fridge 1 is closed.",
        "You arrive at sinkbasin 1. On the sinkbasin 1, you see a mug 2.",
        NOTHING,  # the fridge is out of reach
        "You arrive at fridge 1. The fridge 1 is closed.",
    ]


@pytest.mark.parametrize("command", ["go to fridge 1", "go to fridge 2", "go to", "go fridge 1", "go to mug 1", "go"])
def test_go_is_valid_only_to_another_receptacle(play, command: str):
    engine, state, observations = play(kitchen(), "go to fridge 1", command)
    assert observations[1] == NOTHING
    assert command not in engine.admissible(state)


def test_look_in_the_middle_of_the_room_sees_nothing(play):
    assert play(kitchen(), "look")[2] == [
        "You are in the middle of a room. Looking quickly around you, you see nothing."
    ]


def test_look_at_a_receptacle_does_not_list_its_contents(play):
    assert play(kitchen(), "go to countertop 1", "look")[2][1] == (
        "You are facing the countertop 1. Next to it, you see nothing."
    )


def test_look_names_all_receptacles_of_a_shared_location(play):
    assert play(bedroom(), "go to desk 1", "look")[2] == [
        "You arrive at desk 1. On the desk 1, you see a desklamp 1.",
        "You are facing the desk 1, and drawer 1. Next to it, you see nothing.",
    ]


def test_look_lists_an_item_moved_between_receptacles_of_one_location(play):
    _, _, observations = play(
        bedroom(), "go to desk 1", "take pencil 1 from drawer 1", "move pencil 1 to desk 1", "look"
    )
    assert observations[-1] == "You are facing the desk 1, and drawer 1. Next to it, you see a pencil 1."


def test_receptacles_of_a_shared_location_are_used_without_go(play):
    engine, state, _ = play(bedroom(), "go to desk 1")
    assert engine.admissible(state) == [
        "close drawer 1",
        "examine desk 1",
        "examine drawer 1",
        "go to shelf 1",
        "help",
        "inventory",
        "look",
        "take pencil 1 from drawer 1",
        "use desklamp 1",
    ]


def test_examine_a_receptacle(play):
    assert play(kitchen(), "go to countertop 1", "examine countertop 1", "examine fridge 1")[2][1:] == [
        "On the countertop 1, you see a knife 1, and a mug 1.",
        NOTHING,
    ]


def test_an_item_can_be_examined_only_in_hand(play):
    _, _, observations = play(
        kitchen(), "go to countertop 1", "examine mug 1", "take mug 1 from countertop 1", "examine mug 1"
    )
    assert observations[1] == NOTHING
    assert observations[3] == "There's nothing special about mug 1."


def test_examine_describes_the_state_of_an_item(play):
    _, _, observations = play(
        kitchen(),
        *("go to sinkbasin 1", "take mug 2 from sinkbasin 1", "clean mug 2 with sinkbasin 1", "examine mug 2"),
        *("go to microwave 1", "heat mug 2 with microwave 1", "examine mug 2"),
        *("go to fridge 1", "cool mug 2 with fridge 1", "examine mug 2"),
    )
    assert [observations[3], observations[6], observations[9]] == [
        "This is a clean mug 2.",
        "This is a hot and clean mug 2.",
        "This is a cool and clean mug 2.",
    ]


def test_inventory(play):
    assert play(kitchen(), "inventory", "go to sinkbasin 1", "take mug 2 from sinkbasin 1", "inventory")[2][::3] == [
        "You are not carrying anything.",
        "You are carrying: a mug 2.",
    ]


def test_help_lists_the_verbs(play):
    observations = play(kitchen(), "help")[2][0]
    assert observations.startswith(
        "Available commands:\n  look:                             look around your current location\n"
    )
    assert "  move (object) to (receptacle):  place an object in or on a receptacle\n" in observations
    assert observations.endswith("  slice (object) with (object):     slice an object using a sharp object\n")


# ---- open, close, take, move ----------------------------------------------------------------------------------------


def test_open_and_close(play):
    engine, state, observations = play(
        kitchen(), "go to fridge 1", "open fridge 1", "open fridge 1", "close fridge 1", "close fridge 1"
    )
    assert observations[1:] == [
        "You open the fridge 1. The fridge 1 is open. In it, you see a egg 1.",
        NOTHING,
        "You close the fridge 1.",
        NOTHING,
    ]
    assert "open fridge 1" in engine.admissible(state)
    assert "close fridge 1" not in engine.admissible(state)


def test_an_open_receptacle_may_be_empty(play):
    assert play(kitchen(), "go to microwave 1", "open microwave 1")[2][1] == (
        "You open the microwave 1. The microwave 1 is open. In it, you see nothing."
    )


def test_a_receptacle_without_a_door_is_neither_opened_nor_closed(play):
    _, _, observations = play(kitchen(), "go to countertop 1", "open countertop 1", "close countertop 1")
    assert observations[1:] == [NOTHING, NOTHING]


def test_a_receptacle_stays_open(play):
    assert play(kitchen(), "go to fridge 1", "open fridge 1", "go to microwave 1", "go to fridge 1")[2][3] == (
        "You arrive at fridge 1. The fridge 1 is open. In it, you see a egg 1."
    )


def test_take(play):
    engine, state, observations = play(
        kitchen(), "go to countertop 1", "take mug 1 from countertop 1", "examine countertop 1"
    )
    assert observations[1:] == [
        "You pick up the mug 1 from the countertop 1.",
        "On the countertop 1, you see a knife 1.",
    ]
    assert state.holding == "Mug_bar_2"  # mug 1: the last id of its kind has the lowest number
    assert not any(command.startswith("take") for command in engine.admissible(state))  # one hand


@pytest.mark.parametrize(
    "command",
    [
        "take egg 1 from fridge 1",  # closed
        "take mug 1 from countertop 1",  # elsewhere
        "take mug 1 from fridge 1",  # not in it
        "take fridge 1 from fridge 1",
        "take egg 1",
        "take",
    ],
)
def test_invalid_take_commands(play, command: str):
    assert play(kitchen(), "go to fridge 1", command)[2][1] == NOTHING


def test_two_items_cannot_be_held(play):
    _, _, observations = play(
        kitchen(), "go to countertop 1", "take mug 1 from countertop 1", "take knife 1 from countertop 1"
    )
    assert observations[2] == NOTHING


def test_a_lamp_cannot_be_taken(play):
    assert play(bedroom(), "go to desk 1", "take desklamp 1 from desk 1")[2][1] == NOTHING


def test_move(play):
    _, state, observations = play(
        kitchen(),
        *("go to countertop 1", "take knife 1 from countertop 1", "go to sinkbasin 1", "move knife 1 to sinkbasin 1"),
        "examine sinkbasin 1",
    )
    assert observations[3:] == [
        "You move the knife 1 to the sinkbasin 1.",
        "On the sinkbasin 1, you see a knife 1, and a mug 2.",
    ]
    assert state.holding is None


@pytest.mark.parametrize(
    "command",
    [
        "move mug 1 to cabinet 1",  # closed
        "move mug 1 to countertop 1",  # elsewhere
        "move mug 2 to cabinet 1",  # not in hand
        "move mug 1 to mug 2",
        "put mug 1 in/on cabinet 1",  # the grammar of old versions
        "move mug 1",
    ],
)
def test_invalid_move_commands(play, command: str):
    _, _, observations = play(
        kitchen(TaskType.PICK), "go to countertop 1", "take mug 1 from countertop 1", "go to cabinet 1", command
    )
    assert observations[3] == NOTHING


def test_a_receptacle_accepts_only_allowed_types(play):
    engine, state, observations = play(
        kitchen(),
        *("go to countertop 1", "take knife 1 from countertop 1", "go to cabinet 1", "open cabinet 1"),
        "move knife 1 to cabinet 1",
    )
    assert observations[4] == NOTHING
    assert "move knife 1 to cabinet 1" not in engine.admissible(state)


def test_a_receptacle_is_never_full():
    mugs = [thing("Mug", number, "Shelf_bar_1") for number in range(30)]
    goal = Goal(TaskType.PICK, "Mug", "CoffeeMachine")
    game = build(goal, "put a mug in it", [place("Shelf", 1), place("Bed", 2)], mugs, {"Bed": {"Mug"}})
    engine = Engine(game)
    state = engine.start()
    for item in engine.items.values():
        for command in ("go to shelf 1", f"take {item.name} from shelf 1", "go to bed 1", f"move {item.name} to bed 1"):
            assert engine.step(state, command)[1]
    assert len(state.inside["Bed_bar_2"]) == 30


# ---- clean, heat, cool, use, slice ----------------------------------------------------------------------------------


def test_heat_and_cool_undo_each_other_and_work_with_closed_doors(play):
    engine, state, observations = play(
        kitchen(),
        *("go to sinkbasin 1", "take mug 2 from sinkbasin 1", "clean mug 2 with sinkbasin 1"),
        *("go to microwave 1", "heat mug 2 with microwave 1"),
    )
    mug = state.holding
    assert observations[2] == "You clean the mug 2 using the sinkbasin 1."
    assert observations[4] == "You heat the mug 2 using the microwave 1."
    assert mug in state.clean
    assert mug in state.hot
    assert mug not in state.cool
    assert engine.step(state, "go to fridge 1")[0] == "You arrive at fridge 1. The fridge 1 is closed."
    assert engine.step(state, "cool mug 2 with fridge 1") == ("You cool the mug 2 using the fridge 1.", True)
    assert mug in state.cool
    assert mug not in state.hot
    assert mug in state.clean
    assert state.holding == mug


@pytest.mark.parametrize(
    "command",
    [
        "heat knife 1 with microwave 1",  # not heatable
        "heat mug 1 with microwave 1",  # not in hand
        "clean knife 1 with microwave 1",
        "heat knife 1",
        "heat knife 1 with fridge 1",
    ],
)
def test_invalid_heat_and_clean_commands(play, command: str):
    assert (
        play(kitchen(), "go to countertop 1", "take knife 1 from countertop 1", "go to microwave 1", command)[2][3]
        == NOTHING
    )


def test_the_admissible_commands_with_a_mug_at_the_open_fridge(play):
    engine, state, _ = play(
        kitchen(), "go to sinkbasin 1", "take mug 2 from sinkbasin 1", "go to fridge 1", "open fridge 1"
    )
    assert engine.admissible(state) == [
        "close fridge 1",
        "cool mug 2 with fridge 1",
        "examine fridge 1",
        "examine mug 2",
        "go to cabinet 1",
        "go to cabinet 2",
        "go to countertop 1",
        "go to microwave 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
        "move mug 2 to fridge 1",
    ]


def test_use_turns_a_lamp_on_permanently(play):
    _, state, observations = play(bedroom(), "use desklamp 1", "go to desk 1", "use desklamp 1", "use desklamp 1")
    assert observations == [
        NOTHING,
        "You arrive at desk 1. On the desk 1, you see a desklamp 1.",
        "You turn on the desklamp 1.",
        "You turn on the desklamp 1.",
    ]
    assert state.lit == {"DeskLamp_bar_1"}


def test_slice(play):
    engine, state, observations = play(
        oddities(),
        *("slice apple 1 with butterknife 1", "take butterknife 1 from countertop 1"),
        *("slice bread 1 with butterknife 1", "slice plate 1 with butterknife 1", "slice apple 1 with butterknife 1"),
    )
    assert observations == [
        NOTHING,  # no knife in hand
        "You pick up the butterknife 1 from the countertop 1.",
        NOTHING,  # the bread is not sliceable, and elsewhere
        NOTHING,
        "You sliced the apple 1 with the butterknife 1.",
    ]
    assert "Apple_bar_1" in state.sliced
    assert "slice apple 1 with butterknife 1" in engine.admissible(state)  # repeatedly


# ---- features of official games only --------------------------------------------------------------------------------


def test_examine_lists_the_contents_of_a_container(play):
    assert play(oddities(), "take bowl 1 from countertop 1", "examine bowl 1")[2][1] == (
        "This is a normal bowl 1. In it, you see a apple 1."
    )


def test_a_toggled_item_in_hand_is_on(play):
    _, _, observations = play(
        oddities(),
        *("go to sidetable 1", "take candle 1 from sidetable 1", "examine candle 1", "use candle 1"),
        *("go to countertop 1", "move candle 1 to countertop 1", "use candle 1"),
        *("take candle 1 from countertop 1", "examine candle 1"),
    )
    assert observations[2:4] == ["There's nothing special about candle 1.", NOTHING]  # a lamp in hand is not used
    assert observations[8] == "This candle 1 is on."


def test_items_may_start_sliced_and_clean(play):
    assert play(oddities(), "go to sidetable 1", "take bread 1 from sidetable 1", "examine bread 1")[2][2] == (
        "This is a clean sliced bread 1."
    )


def test_an_item_may_start_in_two_receptacles(play):
    _, state, observations = play(
        oddities(), "take plate 1 from countertop 1", "go to sidetable 1", "examine sidetable 1"
    )
    assert "plate 1" in observations[2]
    assert state.inside["CounterTop_bar_1"].count("Plate_bar_1") == 0


def test_an_item_on_the_floor_is_out_of_reach():
    engine = Engine(oddities())
    assert not any("book" in command for command in engine.admissible(engine.start()))


# ---- states, steps, hostile commands --------------------------------------------------------------------------------


def test_every_command_counts_as_a_step_valid_or_not(play):
    assert play(kitchen(), "look", "fly", "")[1].steps == 3


def test_spaces_around_a_command_are_ignored(play):
    assert play(kitchen(), "  look \n")[2][0].startswith("You are in the middle")


@pytest.mark.parametrize(
    "command", ["LOOK", "Go to fridge 1", "go  to fridge 1", "go to fridge 01", "look around", "\0"]
)
def test_commands_must_match_exactly(play, command: str):
    assert play(kitchen(), command)[2] == [NOTHING]


def test_a_very_long_command_does_nothing(play):
    assert play(kitchen(), "go to " * 200_000, "take " + " from " * 100_000)[2] == [NOTHING, NOTHING]


# ---- inconsistent games ---------------------------------------------------------------------------------------------


def test_duplicate_ids_are_rejected():
    game = kitchen()
    with pytest.raises(ValueError, match="by hand: two things have the same id"):
        Engine(replace(game, items=(*game.items, game.items[0])))


def test_duplicate_names_are_rejected():
    game = kitchen()
    twin = replace(game.items[0], id="Egg_bar_9")
    with pytest.raises(ValueError, match="by hand: two things have the same name"):
        Engine(replace(game, items=(*game.items, twin)))


def test_an_item_in_an_unknown_receptacle_is_rejected():
    game = kitchen()
    stray = replace(game.items[0], home="Attic_bar_1")
    with pytest.raises(ValueError, match="Egg_bar_1 lies in Attic_bar_1, which is not a receptacle"):
        Engine(replace(game, items=(stray, *game.items[1:])))
