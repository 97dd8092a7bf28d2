"""The list of episodes: every filter, every order, and an address that says both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

import pytest

from empg.plain_text import visible
from empg.report.inspector.listing import SORTS, Query, choices, select


def row(number: int, **values: Any) -> Mapping[str, Any]:
    known = {"run": 0, "iteration": 1, "split": "train", "task_type": "heat", "success": False, "end": "step_limit"}
    measures = {"invalid_turns": 0, "turns": 5, "entropy": 0.1, "spread": 0.2, "largest": 1.0}
    return {**known, **measures, "episode": number, **values}


ROWS = [
    row(0),
    row(1, run=1, iteration=2, turns=9, entropy=0.4),
    row(2, split="valid_seen", success=True, end="won", largest=3.0),
    row(3, task_type="cool", invalid_turns=4, spread=None, entropy=float("nan"), largest=None),
]


def found(**query: str) -> list[int]:
    return [e["episode"] for e in select([], ROWS, Query.of(query, choices(2, ROWS)))]


@pytest.mark.parametrize(
    ("query", "episodes"),
    [
        ({"run": "1"}, {1}),
        ({"iteration": "2"}, {1}),
        ({"split": "valid_seen"}, {2}),
        ({"type": "cool"}, {3}),
        ({"outcome": "won"}, {2}),
        ({"outcome": "lost"}, {0, 1, 3}),
        ({"end": "won"}, {2}),
        ({"invalid": "some"}, {3}),
        ({"invalid": "none"}, {0, 1, 2}),
        ({"invalid": "none", "outcome": "lost", "run": "0"}, {0}),
        ({"split": "unknown"}, {0, 1, 2, 3}),
        ({"outcome": "draw", "run": "9", "iteration": "01", "invalid": "maybe", "type": "heat"}, {0, 1, 2}),
        ({"run": "x", "end": "x" * 10_000}, {0, 1, 2, 3}),
    ],
)
def test_a_filter_keeps_what_it_names(query: dict[str, str], episodes: set[int]) -> None:
    assert set(found(**query)) == episodes


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [("newest", 1, 0), ("largest", 2, 3), ("spread", 0, 3), ("entropy", 1, 3), ("length", 1, 0), ("invalid", 3, 0)],
)
def test_an_order_begins_with_the_largest_and_ends_with_what_has_no_number(sort: str, first: int, last: int) -> None:
    assert sort in SORTS
    values = [SORTS[sort][1](ROWS[i]) for i in found(sort=sort)]
    assert values == sorted(values, reverse=True)
    assert (found(sort=sort)[0], values[-1]) == (first, SORTS[sort][1](ROWS[last]))
    assert [SORTS[sort][1](ROWS[i]) for i in found(sort=sort, order="up")] == values[::-1]


def test_the_address_of_a_list_gives_the_same_list() -> None:
    offered = {**choices(1, ROWS), "type": ["a&b=c"]}
    given = {"type": "a&b=c", "outcome": "won", "sort": "spread", "order": "up", "q": "Ω", "page": "3"}
    asked = Query.of(given, offered)
    assert given.items() <= {**asdict(asked), "page": "3"}.items()
    fields = {name: values[0] for name, values in parse_qs(asked.address().removeprefix("/?")).items()}
    assert Query.of(fields, offered) == asked
    assert asked.address(page=1).endswith("order=up")


@pytest.mark.parametrize("name", ["a\x1b[31mb", "two\nlines", "x" * 300, "\u202eright"])
def test_a_choice_is_found_as_the_page_shows_it_and_a_form_sends_it(name: str) -> None:
    offered = {**choices(1, ROWS), "type": ["other", name]}
    for sent in (name, visible(name), visible(name).replace("\n", "\r\n")):
        assert Query.of({"type": sent}, offered).type == name


def test_only_the_searched_text_is_cut() -> None:
    assert len(Query.of({"q": "x" * 300}, choices(1, ROWS)).q) == 200


def test_the_filters_offer_what_the_episodes_have() -> None:
    assert choices(2, ROWS) == {
        "run": ["0", "1"],
        "outcome": ["won", "lost"],
        "invalid": ["some", "none"],
        "split": ["train", "valid_seen"],
        "type": ["cool", "heat"],
        "end": ["step_limit", "won"],
        "iteration": ["2", "1"],
    }
