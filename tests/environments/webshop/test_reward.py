"""Each term of the reward, on cases computed by hand."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments.webshop import nouns
from empg.environments.webshop.catalogue import write_catalogue
from empg.environments.webshop.nouns import SPACY_MODELS, lexicon_nouns, noun_finder, rule_of
from empg.environments.webshop.reward import Score, meets_attribute, meets_option, score_purchase, similarity
from empg.environments.webshop.spec import WebShopOptions
from empg.environments.webshop.world import Goal, Product
from empg.errors import MissingExtraError
from tests.environments.webshop.shops import small_products

PRODUCT = Product(
    asin="B0",
    title="Ovella Console Table",
    description="Stands in every living room.",
    bullets=("Easy Clean top", "Solid Wood legs"),
    pricing=(60.0,),
    options={"color": ("white | grey", "black"), "size": ("36 inch", "54 inch")},
    category="garden",
    query="console tables",
    product_category="Home & Kitchen › Furniture › Tables",
    attributes=("easy assemble",),
)
GOAL = Goal(
    task_id="g",
    asin="B0",
    title=PRODUCT.title,
    category="garden",
    query="console tables",
    product_category="Home & Kitchen › Furniture › Tables",
    instruction="",
    attributes=("easy assemble", "solid wood"),
    options=(("color", "white | grey"), ("size", "54 inch")),
    price_upper=80.0,
)


def buy(product: Product = PRODUCT, goal: Goal = GOAL, price: float = 60.0, chosen: tuple[str, ...] = ()) -> Score:
    return score_purchase(product, price, chosen, goal, lexicon_nouns(product.title), lexicon_nouns(goal.title))


@pytest.mark.parametrize(
    ("price", "chosen", "reward"),
    [
        (60.0, ("white | grey", "54 inch"), 5 / 5),
        (80.0, ("white | grey", "54 inch"), 5 / 5),  # a price equal to the bound is accepted
        (80.01, ("white | grey", "54 inch"), 4 / 5),
        (60.0, ("white | grey", "36 inch"), 4 / 5),
        (60.0, ("54 inch",), 4 / 5),
        (60.0, (), 3 / 5),
        (99.0, ("black", "36 inch"), 2 / 5),
    ],
)
def test_price_and_options(price: float, chosen: tuple[str, ...], reward: float) -> None:
    assert buy(price=price, chosen=chosen).reward == reward


@pytest.mark.parametrize(
    ("attribute", "met"),
    [
        ("easy assemble", True),  # its own attribute
        ("assemble easy", True),  # in any order
        ("easy assembly", True),  # 25 of 26 letters alike: 96
        ("solid wood", True),  # in a bullet
        ("living room", True),  # in the description
        ("console", True),  # in the title
        ("wood legs easy", False),
        ("Solid Wood", False),  # the texts are lower-cased, the attribute is not
        ("heavy duty", False),
    ],
)
def test_attributes(attribute: str, met: bool) -> None:
    assert meets_attribute(PRODUCT, attribute) == met


@pytest.mark.parametrize(
    ("title", "query", "breadcrumb", "kind", "title_score"),
    [
        # goal nouns: ovella, console, table
        ("Ovella Console Table", "console tables", "X", 1.0, 1.0),
        ("Ovella Console Table", "sofas", "X", 1.0, 1.0),  # the title alone
        ("Ovella Lamp", "sofas", "X", 1.0, 1 / 3),
        ("Table Lamp", "sofas", "Home & Kitchen › Furniture › Sofas", 1.0, 1 / 3),
        (
            "Lamp",
            "console tables",
            "Home & Kitchen › Furniture › Tables",
            0.0,
            0.0,
        ),  # a title without common nouns overrides everything
    ],
)
def test_type(title: str, query: str, breadcrumb: str, kind: float, title_score: float) -> None:
    score = buy(replace(PRODUCT, title=title, query=query, product_category=breadcrumb), chosen=("white", "54 inch"))
    assert (score.type, score.title_score) == (kind, title_score)
    # The attributes are met in all cases, so the reward is proportional to the type term.
    assert score.reward == kind


@pytest.mark.parametrize(("shared", "goal_words", "same_query", "kind"), [
    (1, 5, False, 0.5),  # 0.2 is not more than 0.2
    (1, 5, True, 1.0),
    (1, 11, True, 0.1),  # below a tenth, the query no longer helps
    (1, 10, True, 1.0),
    (0, 3, True, 0.0),
    (0, 0, False, 0.5),  # no nouns: 0.2
    (0, 0, True, 1.0),
])  # fmt: skip
def test_type_thresholds(shared: int, goal_words: int, same_query: bool, kind: float) -> None:
    wanted = [f"n{i}" for i in range(goal_words)]
    product = replace(PRODUCT, query=GOAL.query if same_query else "sofas", product_category="X")
    assert score_purchase(product, 1.0, (), GOAL, wanted[:shared] or ["other"], wanted).type == kind


def test_repeated_nouns_of_the_goal_count_each_time() -> None:
    score = score_purchase(PRODUCT, 1.0, (), GOAL, ["table", "table"], ["table", "top", "table", "leg"])
    assert score.title_score == 1 / 4


def test_two_common_breadcrumbs_match_the_category() -> None:
    for breadcrumb, match in (
        ("Home & Kitchen › Furniture", True),
        ("Home & Kitchen › Bath", False),
        ("Furniture", False),
    ):
        assert buy(replace(PRODUCT, product_category=breadcrumb)).category_match == match


@pytest.mark.parametrize(
    ("value", "name", "wanted", "met"),
    [
        ("54 inch", "size", "54 inch", True),
        ("36 inch", "size", "54 inch", False),
        ("white", "color", "white | grey", True),  # additional words do not count
        ("white | grey", "color", "white | grey", True),
        ("off white", "color", "white", True),  # both are white
        ("dark red", "color", "red", False),  # dark comes first in the list of colours
        ("large", "size", "x-large", True),  # a quirk of the original: "large" is one of the words
        ("rose gold", None, "gold", True),
        ("rose", None, "rose gold", False),  # rose against gold
        ("white", None, "white | grey", False),  # grey comes first in the list, so this is white against grey
        ("grey", None, "white | grey", True),
        ("navy", "navy", "dark blue", True),  # a quirk: the name is a colour
        ("5″ wide", None, "5 wide", True),  # only ASCII is compared
        ("", None, "x", False),
    ],
)
def test_options(value: str, name: str | None, wanted: str, met: bool) -> None:
    assert meets_option(value, name, wanted) == met


def test_similarity_is_that_of_thefuzz() -> None:
    recorded = json.loads(Path(__file__).with_name("thefuzz.json").read_text(encoding="utf-8"))
    assert len(recorded) > 1_000
    for first, second, expected in recorded:
        assert similarity(first, second) == expected, (first, second)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("easy clean", "easy to clean", 100),  # a subset
        ("a b c", "c b a", 100),
        ("abc def", "", 0),
        ("women’s", "women's", 100),  # ’ separates words, as ' does
        ("size_8", "8", 29),  # _ is a letter
        ("café", "caf", 100),  # é is deleted
    ],
)
def test_similarity(first: str, second: str, expected: int) -> None:
    assert similarity(first, second) == expected


def test_nouns_exclude_descriptions_counts_and_measures() -> None:
    title = "Harrow's Long Lasting Solid-Wood Console Table for the Living Room, 54 Inch, Adjustable, T-Shirt"
    assert lexicon_nouns(title) == ("harrow", "wood", "console", "table", "room", "shirt")


def test_nouns_of_a_generated_shop_do_not_depend_on_installed_packages() -> None:
    assert noun_finder("auto", generated=True) is lexicon_nouns


def test_spacys_tagger_finds_nouns_if_installed() -> None:
    pytest.importorskip("spacy", reason="spaCy is not installed")
    if not any(importlib.util.find_spec(name) for name in SPACY_MODELS):
        pytest.skip(f"none of the models {', '.join(SPACY_MODELS)} is installed")
    find = noun_finder("spacy", generated=True)
    assert rule_of(find) == "spacy"
    assert rule_of(noun_finder("auto", generated=False)) == "spacy"
    found = find("Adjustable Wooden Console Table with Two Drawers")
    assert {"table", "drawers"} <= set(found)
    assert not {"with", "two"} & set(found)


def test_without_spacy_its_rule_is_rejected_and_auto_uses_the_lexicon_and_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    nouns._warn.cache_clear()
    assert noun_finder("auto", generated=True) is lexicon_nouns
    assert caplog.text == ""
    assert rule_of(lexicon_nouns) == "lexicon"
    assert noun_finder("auto", generated=False) is noun_finder("auto", generated=False) is lexicon_nouns
    (warning,) = caplog.messages
    assert warning.startswith("nouns=auto: spaCy is not installed, so the lexicon finds the nouns of titles.")
    assert "the type term of 11 to 16% of purchases" in warning
    assert "pip install 'empg[spacy]'" in warning
    with pytest.raises(MissingExtraError, match=r"^nouns='spacy' requires spaCy and its model: pip install"):
        noun_finder("spacy", generated=True)


@pytest.mark.parametrize("installed", [True, False])
def test_resolved_options_name_the_noun_rule_of_this_machine(
    installed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if installed else None)
    write_catalogue(iter(small_products()), tmp_path / "official")
    write_catalogue(iter(small_products()), tmp_path / "generated", generated=True)

    def resolved(**options: Any) -> str:
        return WebShopOptions(**options).resolved().nouns

    assert resolved() == resolved(data=tmp_path / "generated") == "lexicon"
    for data in (tmp_path, tmp_path / "official", tmp_path / "items_shuffle_1000.json"):
        assert resolved(data=data) == ("spacy" if installed else "lexicon")
    for damaged in ("", "{", "[]", "\udcff", "9" * 5_000):
        (tmp_path / "official" / "catalogue.json").write_text(damaged, encoding="utf-8", errors="surrogateescape")
        assert resolved(data=tmp_path / "official") == ("spacy" if installed else "lexicon")
    assert resolved(nouns="spacy") == "spacy"
    assert resolved(data=tmp_path, nouns="lexicon") == "lexicon"


words = st.sampled_from(["easy", "solid wood", "red", "dark red", "54 inch", "table", "lamp", "", "é", "x-large"])


@given(
    price=st.floats(0, 200),
    chosen=st.lists(words, max_size=4),
    attributes=st.lists(words, max_size=3),
    options=st.lists(st.tuples(st.sampled_from([None, "color", "size"]), words), max_size=3),
    title=st.lists(words, min_size=1, max_size=3).map(" ".join),
)
def test_the_score_is_1_exactly_when_every_term_is_full(
    price: float, chosen: list[str], attributes: list[str], options: list[tuple[str | None, str]], title: str
) -> None:
    goal = replace(GOAL, attributes=tuple(attributes), options=tuple(options))
    score = buy(replace(PRODUCT, title=title), goal, price, tuple(chosen))
    assert 0 <= score.reward <= 1
    full = score.type == 1 and score.price and (score.attributes, score.options) == (len(attributes), len(options))
    assert (score.reward == 1.0) == full
