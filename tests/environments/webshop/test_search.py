"""Search: the searchable text, the order of hits, by hand and as Anserini's, the special prefixes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from empg.environments.analysis import TermCollector
from empg.environments.webshop.catalogue import make_catalogue
from empg.environments.webshop.search import SearchIndex, product_text
from empg.environments.webshop.shop import Shop
from empg.environments.webshop.world import Product
from tests.environments.facts import ANSERINI

MUG = Product("B0", "Red Mug", "For Tea.", (), (1.0,), {}, "", "", "", ())


def index_of(*texts: str, ranks: npt.NDArray[np.int32] | None = None) -> SearchIndex:
    collector = TermCollector()
    for text in texts:
        collector.add(text)
    return SearchIndex.build(collector, np.arange(len(texts), dtype=np.int32) if ranks is None else ranks)


def test_product_text_is_title_description_first_bullet_and_options() -> None:
    product = Product(
        "B0", "Red Mug", "For Tea.", ("Holds 9 oz", "Second"), (1.0,), {"color": ("red", "blue"), "size": ("s",)},
        "", "", "", (),
    )  # fmt: skip
    assert product_text(product) == "red mug for tea. holds 9 oz color: red, blue, and size: s"
    assert product_text(replace(product, bullets=(), options={})) == "red mug for tea.  "


def test_results_are_ordered_by_score_then_rank_and_share_a_term_with_the_query() -> None:
    index = index_of("pot", "mug", "tea mug", "mug", "pan", "mug")
    assert index.find("mug") == (1, 3, 5, 2)
    assert index.find("tea mug") == (2, 1, 3, 5)
    assert index.find("mug", 2) == (1, 3)
    assert index.find("spoon") == index.find("") == index.find("the of") == ()
    ranked = SearchIndex(index._index, np.array([0, 5, 1, 2, 4, 3], dtype=np.int32))
    assert ranked.find("mug") == (3, 5, 1, 2)
    assert [ranked.find("mug", count) for count in (1, 2)] == [(3,), (3, 5)]


def test_equal_scores_are_ordered_by_asin_like_anserini() -> None:
    products = [replace(MUG, asin=asin) for asin in ("B0C", "B0A", "B1", "B0B", "A9")]
    catalogue = make_catalogue(products)
    found = [catalogue.product(row).asin for row in catalogue.index.find("mug")]
    assert found == ["A9", "B0A", "B0B", "B0C", "B1"]
    assert [catalogue.product(row).asin for row in catalogue.index.find("mug", 2)] == ["A9", "B0A"]


def test_hits_and_their_order_are_those_of_anserini() -> None:
    names = list(ANSERINI["documents"])
    ranks = np.argsort(np.argsort(np.asarray(names))).astype(np.int32)
    index = index_of(*ANSERINI["documents"].values(), ranks=ranks)
    for query, hits in ANSERINI["hits"].items():
        assert [names[row] for row in index.find(query, 20)] == [name for name, _ in hits], query


def test_a_saved_index_gives_the_same_results(tmp_path: Path) -> None:
    index = index_of(*(f"mug number {i % 7} {'tea' * (i % 3)}" for i in range(200)))
    index.save(tmp_path / "index")
    mapped = SearchIndex.open(tmp_path / "index", np.arange(200, dtype=np.int32))
    for query in ("mug", "tea number 3", "5 tea", "nothing"):
        assert mapped.find(query) == index.find(query)


def asins(shop: Shop, query: str, seed: str = "s") -> list[str]:
    return [shop.catalogue.product(int(row)).asin for row in shop.find(query.split(" "), seed)]


def test_prefixes(shop: Shop) -> None:
    assert asins(shop, "<c> beauty") == ["B000SCRIPT"]
    assert asins(shop, "<c> beauty and more") == ["B000SCRIPT"]  # only one word is used
    assert asins(shop, "<q> bar stools") == ["B000EMPTY1", "B000BLANKS"]
    assert asins(shop, "<a> easy assemble") == ["B000TABLE1"]
    assert asins(shop, "<c>") == asins(shop, "<q> zzz") == asins(shop, "<a>") == []
    assert sorted(asins(shop, "<r>")) == sorted(shop.catalogue.product(row).asin for row in range(7))
    assert asins(shop, "<r>", "one") == asins(shop, "<r>", "one") != asins(shop, "<r>", "another")
