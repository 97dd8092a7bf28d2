"""The pages are identical to the original's. golden.json was recorded from the original code (record_official.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from empg.environments.webshop import pages
from empg.environments.webshop.goals import GoalKind
from empg.environments.webshop.shop import Shop, ShopRules
from empg.environments.webshop.world import Goal, Page, State
from tests.environments.webshop.shops import shelves_shop, small_shop

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shelves() -> Shop:
    return shelves_shop()


def goal_of(shop: Shop, asin: str, kind: GoalKind = "synthetic") -> Goal:
    return next(g for g in (shop.goal(kind, i) for i in range(len(shop.catalogue.goals[kind]))) if g.asin == asin)


def walk(shop: Shop, goal: Goal, *actions: str) -> State:
    state = State()
    for action in actions:
        assert shop.step(state, goal, action), action
    return state


def text(shop: Shop, state: State, goal: Goal) -> str:
    return pages.as_text(shop.nodes(state, goal), state.options if shop.rules.show_chosen_options else None)


@pytest.mark.parametrize("play", GOLDEN, ids=lambda play: f"{play['kind']}-{play['goals'][play['goal']]}")
def test_every_page_is_identical_to_the_original(shop: Shop, shelves: Shop, play: dict) -> None:
    shop, kind = {"small": shop, "shelves": shelves}[play["shop"]], play["kind"]
    assert [shop.goal(kind, i).asin for i in range(len(shop.catalogue.goals[kind]))] == play["goals"]
    goal, state = shop.goal(kind, play["goal"]), State()
    for turn in play["turns"]:
        if turn["action"] is not None:
            # The original's page has "wood  |  steel"; the original rejects "wood | steel".
            action = turn["action"] if turn["action"] != "click[wood | steel]" else "nonsense"
            shop.step(state, goal, action)
        nodes = shop.nodes(state, goal)
        assert pages.as_text(nodes) == turn["text"]
        assert pages.as_rich_text(nodes, state) == turn["text_rich"]
        assert list(pages.clickables(nodes)) == turn["clickables"]
        assert (state.page is Page.DONE) == turn["done"]
        assert (shop.score(state, goal).reward if turn["done"] else 0.0) == turn["reward"]


def test_the_golden_episodes_have_good_and_bad_purchases() -> None:
    assert {play["turns"][-1]["reward"] for play in GOLDEN} > {1.0}
    assert all(play["turns"][-1]["done"] for play in GOLDEN)


def test_the_text_of_the_index_results_and_item_pages(shop: Shop) -> None:
    goal = goal_of(shop, "B000TABLE1")
    wish = goal.instruction
    assert text(shop, State(), goal) == f"WebShop [SEP] Instruction: [SEP] {wish} [SEP] Search"
    state = walk(shop, goal, "search[harrow moss]")
    assert text(shop, state, goal) == (
        f"Instruction: [SEP] {wish} [SEP] Back to Search [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] "
        "B000TABLE2 [SEP] Moss Console Table [SEP] $20.0 to $35.5 [SEP] "
        "B000TABLE1 [SEP] Harrow Console Table with Drawers [SEP] $65.99"
    )
    shop.step(state, goal, "click[b000table1]")
    assert text(shop, state, goal) == (
        f"Instruction: [SEP] {wish} [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] antique wood [SEP] "
        "white | grey [SEP] size [SEP] 54 inch [SEP] 36 inch [SEP] Harrow Console Table with Drawers [SEP] "
        "Price: $65.99 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )


def test_a_search_returns_50_products_in_asin_order_on_pages_of_10(shelves: Shop) -> None:
    goal = goal_of(shelves, "B000RANGED")
    head = f"Instruction: [SEP] {goal.instruction} [SEP] Back to Search [SEP] "
    state = walk(shelves, goal, "search[shelf]", *["click[next >]"] * 4)
    hits = " [SEP] ".join(f"B000SHLF{n} [SEP] Shelf {n} [SEP] $20.0" for n in range(41, 51))
    assert text(shelves, state, goal) == f"{head}Page 5 (Total results: 50) [SEP] < Prev [SEP] Next > [SEP] {hits}"
    shelves.step(state, goal, "click[next >]")
    assert text(shelves, state, goal) == f"{head}Page 6 (Total results: 50) [SEP] < Prev [SEP] Next >"
    shelves.step(state, goal, "search[<q> shelves]")  # all shelves, in catalogue order
    assert text(shelves, state, goal).startswith(f"{head}Page 1 (Total results: 54) [SEP] Next > [SEP] B000SHLF54")


def test_the_pages_of_the_search_prefixes(shop: Shop, shelves: Shop) -> None:
    """These pages follow the rules, not a recording: in the original `<r>` is unseeded and `<a>` raises an error."""
    goal = goal_of(shop, "B000TABLE1")
    head = f"Instruction: [SEP] {goal.instruction} [SEP] Back to Search [SEP] Page 1 (Total results: "
    assert text(shop, walk(shop, goal, "search[<a> easy assemble]"), goal) == (
        f"{head}1) [SEP] Next > [SEP] B000TABLE1 [SEP] Harrow Console Table with Drawers [SEP] $65.99"
    )
    assert text(shop, walk(shop, goal, "search[<a> easy]"), goal) == f"{head}0) [SEP] Next >"
    assert text(shop, walk(shop, goal, "search[<r> whatever]"), goal).startswith(f"{head}7) [SEP] Next > [SEP] B000")
    state = walk(shelves, goal, "search[<r>]")
    assert len(shelves.results(state, goal).products) == 10
    assert shelves.results(state, goal).total == 50
    first = text(shelves, state, goal)
    assert text(shelves, walk(shelves, goal, "search[<r>]", "click[next >]", "click[< prev]"), goal) != first


def test_a_search_works_on_every_page_and_clears_the_options(shop: Shop) -> None:
    goal = goal_of(shop, "B000TABLE1")
    state = walk(shop, goal, "search[table]", "click[b000table1]", "click[54 inch]", "click[features]", "search[stool]")
    assert (state.page, state.number, state.options, state.row) == (Page.RESULTS, 1, {}, None)
    assert state.visited == {"B000TABLE1"}


def test_previous_clears_the_options_on_item_pages_but_not_on_sub_pages(shop: Shop) -> None:
    goal = goal_of(shop, "B000TABLE1")
    state = walk(
        shop, goal, "search[table]", "click[b000table1]", "click[54 inch]", "click[description]", "click[< prev]"
    )
    assert (state.page, state.options) == (Page.ITEM, {"size": "54 inch"})
    shop.step(state, goal, "click[< prev]")
    assert (state.page, state.keywords, state.options) == (Page.RESULTS, ("table",), {})


def test_choosing_again_replaces_the_value_of_that_option_only(shop: Shop) -> None:
    goal = goal_of(shop, "B000TABLE1")
    state = walk(
        shop, goal, "search[table]", "click[b000table1]", "click[54 inch]", "click[antique wood]", "click[36 inch]"
    )
    assert state.options == {"size": "36 inch", "color": "antique wood"}


def test_a_click_on_a_missing_element_does_nothing(shop: Shop) -> None:
    goal, state = goal_of(shop, "B000TABLE1"), State()
    for action in ("click[search]", "click[buy now]", "search[]", "click[]", "look around", "", "buy[b000table1]"):
        assert not shop.step(state, goal, action)
        assert state == State(steps=state.steps)


def test_a_value_shared_by_two_options_selects_the_last_one(shop: Shop) -> None:
    goal = goal_of(shop, "B000RUGRUG")
    state = walk(shop, goal, "search[rug]", "click[b000rugrug]", "click[plain]", "click[red]")
    assert state.options == {"trim": "red"}  # both are also values of color


def test_next_is_unlimited_unless_stop_at_last_page_is_set() -> None:
    official, stopping = small_shop(), small_shop(ShopRules(stop_at_last_page=True))
    goal = goal_of(official, "B000TABLE1")
    state = walk(official, goal, "search[table]", *["click[next >]"] * 7)
    assert state.number == 8
    assert "Page 8 (Total results: 3) [SEP] < Prev [SEP] Next >" in text(official, state, goal)
    assert "next >" not in pages.clickables(stopping.nodes(walk(stopping, goal, "search[table]"), goal))


def test_shorter_pages_have_the_same_results_in_the_same_order() -> None:
    whole, short = small_shop(), small_shop(ShopRules(results_per_page=2, stop_at_last_page=True))
    goal = goal_of(whole, "B000TABLE1")
    state = walk(short, goal, "search[table]")
    shown = [p.asin for p in short.results(state, goal).products]
    short.step(state, goal, "click[next >]")
    shown += [p.asin for p in short.results(state, goal).products]
    assert shown == [p.asin for p in whole.results(walk(whole, goal, "search[table]"), goal).products]
    assert not short.step(state, goal, "click[next >]")


def test_chosen_values_are_unmarked_in_text_unless_show_chosen_options_is_set() -> None:
    official, showing = small_shop(), small_shop(ShopRules(show_chosen_options=True))
    goal = goal_of(official, "B000TABLE1")
    before = ("search[table]", "click[b000table1]")
    choice = (*before, "click[54 inch]")
    assert text(official, walk(official, goal, *before), goal) == text(official, walk(official, goal, *choice), goal)
    assert "[SEP] [clicked] 54 inch [SEP] 36 inch [SEP]" in text(showing, walk(showing, goal, *choice), goal)


def test_bracketed_values_cannot_be_clicked_unless_the_rule_is_set() -> None:
    official, extended = small_shop(), small_shop(ShopRules(reach_bracketed_values=True))
    goal = goal_of(official, "B000RUGRUG")
    for shop, reached in ((official, False), (extended, True)):
        state = walk(shop, goal, "search[rug]", "click[b000rugrug]")
        assert shop.step(state, goal, "click[plain [2 pack]]") == reached
        assert state.options == ({"style": "plain [2 pack]"} if reached else {})


def test_an_invalid_page_size_is_rejected() -> None:
    with pytest.raises(ValueError, match="results_per_page=0"):
        ShopRules(results_per_page=0)
