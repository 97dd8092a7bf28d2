"""The sentences and names of alfworld 0.4.2."""

from __future__ import annotations

import itertools

import pytest

from empg.environments.alfworld import words


def test_the_first_id_of_a_kind_gets_the_highest_number():
    names = words.display_names(["Mug_bar_a", "Cabinet_bar_1", "Mug_bar_c", "Mug_bar_b"])
    assert names == {"Cabinet_bar_1": "cabinet 1", "Mug_bar_a": "mug 3", "Mug_bar_b": "mug 2", "Mug_bar_c": "mug 1"}


def test_ids_are_ordered_without_regard_to_case():
    assert words.display_names(["Mug_bar_B", "Mug_bar_a"]) == {"Mug_bar_a": "mug 2", "Mug_bar_B": "mug 1"}


def test_a_sink_with_a_basin_is_a_sinkbasin():
    names = words.display_names(["Sink_bar_1_bar_SinkBasin", "SinkBasin_bar_2", "Sink_bar_3"])
    assert names["Sink_bar_1_bar_SinkBasin"] == "sinkbasin 1"
    assert names["SinkBasin_bar_2"] == "sinkbasinbasin 1"  # a quirk: such ids do not occur in official games
    assert names["Sink_bar_3"] == "sink 1"


def test_names_do_not_depend_on_the_order_of_ids():
    ids = ["Mug_bar_2", "Mug_bar_1", "Cup_bar_9", "Cup_bar_10"]
    named = [words.display_names(order) for order in itertools.permutations(ids)]
    assert all(names == named[0] for names in named)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "nothing"),
        (["egg 2"], "a egg 2"),  # "a" even before a vowel
        (["cup 1", "mug 3"], "a cup 1, and a mug 3"),  # a comma before "and", even between two
        (["cup 1", "egg 2", "mug 3"], "a cup 1, a egg 2, and a mug 3"),
    ],
)
def test_names_are_listed_with_articles(names: list[str], sentence: str):
    assert words.things(names) == sentence


def test_opening():
    assert words.opening("You are at sea.", "find land") == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are at sea.\n\nYour task is to: find land."
    )


@pytest.mark.parametrize(
    ("marks", "sentence"),
    [
        ("", "There's nothing special about mug 1."),
        ("clean", "This is a clean mug 1."),
        ("hot", "This is a hot mug 1."),
        ("cool", "This is a cold mug 1."),  # alone it is "cold" ...
        ("cool clean", "This is a cool and clean mug 1."),  # ... beside another word it is "cool"
        ("hot clean", "This is a hot and clean mug 1."),
        ("sliced", "This is a sliced mug 1."),
        ("sliced clean", "This is a clean sliced mug 1."),
        ("sliced hot", "This is a hot sliced mug 1."),
        ("sliced cool", "This is a cool sliced mug 1."),
        ("sliced hot clean", "This is a hot and clean sliced mug 1."),
        ("sliced cool clean", "This is a cool and clean sliced mug 1."),
        ("lit", "This mug 1 is on."),
        ("lit hot", "This is a hot mug 1."),  # temperature takes precedence over light
    ],
)
def test_an_item_in_hand_is_described_by_its_state(marks: str, sentence: str):
    state = {mark: mark in marks.split() for mark in ("clean", "hot", "cool", "sliced", "lit")}
    assert words.item_sight("mug 1", **state) == sentence
