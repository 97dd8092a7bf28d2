"""Goals: instructions, price bounds, order and splits."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments.webshop.generator import generate
from empg.environments.webshop.goals import (
    ANY_PRICE,
    MAX_GOALS,
    GoalCollector,
    GoalKind,
    goal_count,
    make_goal,
    price_bound,
    split_range,
)
from empg.environments.webshop.records import LoadReport, clean
from empg.environments.webshop.shop import Shop
from empg.environments.webshop.spec import SplitScheme
from empg.environments.webshop.world import Goal, Product
from tests.environments.webshop.shops import human, record, values


def goals(shop: Shop, kind: GoalKind) -> list[Goal]:
    return [shop.goal(kind, number) for number in range(len(shop.catalogue.goals[kind]))]


def test_synthetic_goals_are_all_combinations_of_option_values(shop: Shop) -> None:
    own = [goal for goal in goals(shop, "synthetic") if goal.asin == "B000TABLE1"]
    assert sorted(goal.options for goal in own) == [
        (("color", "antique wood"), ("size", "36 inch")),
        (("color", "antique wood"), ("size", "54 inch")),
        (("color", "white | grey"), ("size", "36 inch")),
        (("color", "white | grey"), ("size", "54 inch")),
    ]
    assert len({goal.price_upper for goal in own}) == 1
    assert len({goal.task_id for goal in own}) == 4
    goal = next(goal for goal in own if goal.options[0][1] == "white | grey" and goal.options[1][1] == "54 inch")
    assert goal.instruction == (
        "Find me easy assemble console tables with color: white | grey, and size: 54 inch, "
        f"and price lower than {goal.price_upper:.2f} dollars"
    )


def test_an_expensive_product_has_no_price_bound_and_a_product_without_options_one_goal(shop: Shop) -> None:
    expensive = next(goal for goal in goals(shop, "synthetic") if goal.asin == "B000DEAR01")
    assert (expensive.instruction, expensive.price_upper) == (
        "Find me heavy duty console tables with color: gold",
        ANY_PRICE,
    )
    bare = [goal for goal in goals(shop, "synthetic") if goal.asin == "B000EMPTY1"]
    assert [goal.options for goal in bare] == [()]


def test_human_goals_have_values_without_names_and_at_least_one_attribute(shop: Shop) -> None:
    by_asin = {goal.asin: goal for goal in goals(shop, "human")}
    assert len(by_asin) == len(goals(shop, "human")) == 2
    table = by_asin["B000TABLE1"]
    assert (table.attributes, table.options) == (("easy assemble",), ((None, "white"),))
    assert table.instruction.startswith("i need a table that is easy assemble and white, and price lower than ")
    assert by_asin["B000SCRIPT"].options == ((None, "rose gold"), (None, "5 ounce"))


def repeating() -> list[Product]:
    """Return products whose data repeats values and instructions."""
    asked = [human("B1", "red mug", ["red"], ["red"]), human("B1", "red mug", ["red"], ["red"]),
             human("B1", "blue mug", ["red"], ["red"])]  # fmt: skip
    options = {"Color": values("red", "Red ", "RED", "blue"), "Size": values("s", "m", "S")}
    extra = {"attributes": ["x"], "instruction": "Find me a mug", "instruction_attributes": ["x"]}
    records = [record("B0", "Pot"), record("B1", "Mug", customization_options=options), record("B2", "Pan")]
    return list(clean(records, {"B0": extra, "B1": extra, "B2": extra}, {"B1": asked}, LoadReport()))


@pytest.mark.parametrize("kind", ["synthetic", "human"])
def test_repeated_goals_are_dropped_and_the_order_is_kept(kind: GoalKind) -> None:
    products = repeating()
    collector = GoalCollector(kind)
    for row, product in enumerate(products):
        collector.add(row, product)
    table = collector.table()
    made = [make_goal(products[row], 20.0, kind, choice) for row, choice in zip(table.row, table.choice, strict=True)]
    distinct = {
        (goal.asin, goal.attributes, goal.options, goal.instruction.partition(", and price")[0]) for goal in made
    }
    assert len(distinct) == len(made)
    unshuffled = [(row, choice) for row, product in enumerate(products) for choice in range(goal_count(product, kind))]
    random.Random(233).shuffle(unshuffled)
    kept = list(zip(table.row.tolist(), table.choice.tolist(), strict=True))
    assert kept == [goal for goal in unshuffled if goal in kept]
    assert (len(unshuffled), len(kept)) == {"synthetic": (14, 6), "human": (3, 2)}[kind]


def test_the_number_of_goals_per_product_is_limited() -> None:
    options = {f"Option {n}": values(*(f"value {v}" for v in range(100))) for n in range(6)}
    extra = {"attributes": ["x"], "instruction": "Find me a mug", "instruction_attributes": ["x"]}
    report = LoadReport()
    (product,) = clean([record("B1", "Mug", customization_options=options)], {"B1": extra}, {}, report)
    assert report.summary() == "1 products; 1 with more than 100,000 goals, of which the first 100,000 are kept"
    assert not report.is_clean
    collector = GoalCollector("synthetic")
    collector.add(0, product)
    table = collector.table()
    assert sorted(table.choice.tolist()) == list(range(MAX_GOALS))
    last = make_goal(product, 20.0, "synthetic", MAX_GOALS - 1)
    assert [value for _, value in last.options] == ["value 0"] * 3 + ["value 9", "value 99", "value 99"]


def test_the_id_of_a_goal_changes_with_everything_that_affects_its_reward() -> None:
    product = repeating()[1]
    changes: dict[str, Any] = {
        "title": "Pot",
        "query": "pots",
        "product_category": "A › B",
        "instruction": "I want a mug",
    }
    made = [product, *(replace(product, **{name: text}) for name, text in changes.items()),
            replace(product, instruction_attributes=("y",))]  # fmt: skip
    ids = [make_goal(one, 20.0, "synthetic", 0).task_id for one in made]
    ids += [make_goal(product, price, "synthetic", choice).task_id for price, choice in ((99.0, 0), (20.0, 1))]
    assert len(set(ids)) == len(ids)


@given(price=st.floats(0.01, 2000), key=st.text(max_size=5))
def test_a_price_bound_is_the_larger_of_two_of_the_next_four_steps(price: float, key: str) -> None:
    bound, words = price_bound(price, key)
    assert price_bound(price, key) == (bound, words)
    if price >= 980:
        assert (bound, words) == (ANY_PRICE, "")
    else:
        assert bound % 10 == 0
        assert price + 10 < bound <= min(price + 40, 990)
        assert words == f", and price lower than {bound:.2f} dollars"


def test_price_bounds_take_all_possible_values() -> None:
    assert {price_bound(25.0, str(key))[0] for key in range(200)} == {40.0, 50.0, 60.0}


def test_the_order_is_the_shuffle_of_seed_233(shop: Shop) -> None:
    products = [shop.catalogue.product(row) for row in range(len(shop.catalogue))]
    unshuffled: list[tuple[str, str, str | tuple[str, str]]] = []
    for product in products:
        if product.instruction is not None:
            for color in product.options.get("color", ("",)) if product.asin != "B000RUGRUG" else ():
                unshuffled += [(product.asin, color, size) for size in product.options.get("size", ("",))]
            if product.asin == "B000RUGRUG":
                for c in product.options["color"]:
                    unshuffled += [
                        ("B000RUGRUG", c, (s, t)) for s in product.options["style"] for t in product.options["trim"]
                    ]
    random.Random(233).shuffle(unshuffled)
    assert [goal.asin for goal in goals(shop, "synthetic")] == [asin for asin, _, _ in unshuffled]
    for goal, (_, color, rest) in zip(goals(shop, "synthetic"), unshuffled, strict=True):
        wanted = dict(goal.options)
        assert wanted.get("color", "") == color
        assert rest in ("", wanted.get("size"), (wanted.get("style"), wanted.get("trim")))


def test_weights_favour_rare_attributes(shop: Shop) -> None:
    table = shop.catalogue.goals["synthetic"]
    # 4 goals want easy assemble, 3 both long lasting and cruelty free, 18 non slip, 1 each of the others.
    expected = {"B000TABLE1": 1 / 4, "B000SCRIPT": 1 / 3, "B000RUGRUG": 1 / 18, "B000EMPTY1": 1.0, "B000DEAR01": 1.0}
    assert [expected[goal.asin] for goal in goals(shop, "synthetic")] == pytest.approx(list(table.weight))
    assert set(shop.catalogue.goals["human"].weight) == {1.0}


@pytest.mark.parametrize(
    ("scheme", "goals", "ranges"),
    [
        ("paper", 12_087, {"test": (0, 500), "dev": (500, 1500), "train": (1500, 12_087)}),
        ("verl-agent", 6_910, {"test": (0, 500), "train": (500, 6_910)}),
        ("paper", 600, {"test": (0, 100), "dev": (100, 300), "train": (300, 600)}),  # scaled down
        ("verl-agent", 600, {"test": (0, 300), "train": (300, 600)}),
    ],
)
def test_splits(scheme: SplitScheme, goals: int, ranges: dict[str, tuple[int, int]]) -> None:
    for split, (start, end) in ranges.items():
        assert split_range(scheme, split, goals) == range(start, end)
    assert sorted(i for split in ranges for i in split_range(scheme, split, goals)) == list(range(goals))


def test_unknown_and_empty_splits_are_rejected() -> None:
    with pytest.raises(ValueError, match="split: expected one of test, train, got 'dev'"):
        split_range("verl-agent", "dev", 1000)
    with pytest.raises(ValueError, match="split_scheme='mine'"):
        split_range("mine", "test", 1000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only 3 goals"):
        split_range("paper", "test", 3)


def test_the_counter_agrees_with_individually_made_goals() -> None:
    products = list(generate(40, seed=4))
    collector = GoalCollector("synthetic")
    for row, product in enumerate(products):
        collector.add(row, product)
    table = collector.table()
    made = [
        make_goal(products[row], 20.0, "synthetic", choice) for row, choice in zip(table.row, table.choice, strict=True)
    ]
    assert len({goal.task_id for goal in made}) == len(made) == len(table)
    for goal, row in zip(made, table.row, strict=True):
        assert all(value in products[row].options[name] for name, value in goal.options)
