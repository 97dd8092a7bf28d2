"""The generated shop is the same in every process, follows the official schema, and needs more than a search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from empg.environments.webshop import WebShopEnv, tables
from empg.environments.webshop.catalogue import make_catalogue
from empg.environments.webshop.generator import FAMILY, _family, asin, generate, make_record
from empg.environments.webshop.goals import ANY_PRICE, make_goal
from empg.environments.webshop.nouns import lexicon_nouns
from empg.environments.webshop.reward import meets_attribute, meets_option
from empg.environments.webshop.world import Product

DIGEST = """
import hashlib, json
from empg.environments.webshop import WebShopEnv
from empg.environments.webshop.generator import make_record
records = json.dumps([make_record(n, 5) for n in range(60)])
environment = WebShopEnv("train", products=60, seed=5)
seen = [environment.shop.catalogue.fingerprint, hashlib.sha256(records.encode()).hexdigest()]
for task in range(environment.num_tasks):
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    over = False
    while not over:
        decision = expert.act(observation, info)
        observation, reward, terminated, truncated, info = environment.step(decision["action"])
        seen += [observation, decision["thought"], str(reward), *info["admissible"]]
        over = terminated or truncated
observation, info = environment.reset(seed=3)
seen.append(info["task_id"])
print(hashlib.sha256("\\n".join(seen).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def products() -> list[Product]:
    return list(generate(1000))


def test_every_process_generates_and_plays_the_same_shop() -> None:
    digests = set()
    for hash_seed in ("0", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def test_a_product_depends_only_on_its_number_and_the_seed(products: list[Product]) -> None:
    assert list(generate(10)) == products[:10]
    assert make_record(123, 7) == make_record(123, 7) != make_record(123, 8)


def test_a_thousand_products_cover_five_departments(products: list[Product]) -> None:
    assert len(products) == 1000
    counts = Counter(product.category for product in products)
    assert set(counts) == {"beauty", "fashion", "garden", "grocery", "electronics"}
    assert min(counts.values()) > 120
    assert {len(product.options) for product in products} == {0, 1, 2}
    assert {len(product.pricing) for product in products} == {1, 2}
    assert all(2 <= len(product.instruction_attributes) <= 3 for product in products if product.instruction)
    assert len(make_catalogue(products).goals["synthetic"]) > 3000


def test_asins_are_unique_and_well_formed() -> None:
    asins = {asin(number) for number in range(50_000)}
    assert len(asins) == 50_000
    assert all(len(a) == 10 and a.isalnum() and a.isupper() for a in asins)


def test_the_asins_of_near_duplicates_share_no_word() -> None:
    """On a results page, the first word of an asin determines the second."""
    for first in range(0, 2000, FAMILY):
        asins = [asin(number) for number in range(first, first + FAMILY)]
        assert len({a[2:6] for a in asins}) == len({a[6:] for a in asins}) == FAMILY


def test_records_are_json_in_the_official_schema() -> None:
    record, extra = make_record(0)
    assert json.loads(json.dumps(record)) == record
    assert {"asin", "name", "full_description", "pricing", "small_description", "customization_options"} <= set(record)
    assert set(extra) <= {"attributes", "instruction", "instruction_attributes"}


def test_the_products_of_a_family_share_a_type_and_differ_in_relevant_ways() -> None:
    for number in range(60):
        family = sorted(_family(number, 0), key=lambda member: member.is_twin)
        assert len({member.kind for member in family}) == 1
        originals, twins = family[:3], family[3:]
        attributes = Counter(member.attributes for member in originals)
        (usual, _), (odd, count) = attributes.most_common()
        assert count == 1
        assert len(set(odd) - set(usual)) == 1
        assert [member.is_twin for member in family] == [False] * 3 + [True] * 2
        for twin in twins:
            assert any((twin.attributes, twin.options) == (one.attributes, one.options) for one in originals)


def test_an_expensive_twin_exceeds_the_price_bound() -> None:
    catalogue = make_catalogue(generate(500))
    compared = 0
    for place in range(0, 500, FAMILY):
        family = _family(place // FAMILY, 0)
        for row, original in enumerate(family, start=place):
            product, price = catalogue.product(row), float(catalogue.prices[row])
            if original.is_twin or product.instruction is None or product.pricing == (100.0,):
                continue
            bound = make_goal(product, price, "synthetic", 0).price_upper
            for twin_row, twin in enumerate(family, start=place):
                if twin.is_twin and catalogue.product(twin_row).pricing != (100.0,) and bound < ANY_PRICE:
                    assert catalogue.prices[twin_row] > bound
                    compared += 1
    assert compared > 400


def test_the_first_result_is_often_wrong() -> None:
    environment, won = WebShopEnv("dev"), 0
    for task in range(200):
        environment.reset(options={"task": task})
        goal = environment.goal
        values = [value for _, value in goal.options]
        environment.step(f"search[{' '.join([*goal.attributes, goal.query, *values])}]")
        (first, *_) = environment.shop.results(environment.state, goal).products
        for action in (first.asin, *values):
            environment.step(f"click[{action}]")
        won += environment.step("click[Buy Now]")[4]["won"]
    assert 100 < won < 160


def test_attributes_are_readable_and_do_not_match_each_other(products: list[Product]) -> None:
    for product in products[:200]:
        text = f"{product.title} {product.bullets[0]}".lower()
        assert all(attribute in text for attribute in product.attributes)
    for department in tables.DEPARTMENTS:
        for own in department.attributes:
            bare = Product("B0", "", "", (), (1.0,), {}, "", "", "", (own,))
            assert [other for other in department.attributes if meets_attribute(bare, other)] == [own]


def test_values_of_one_option_do_not_match_each_other() -> None:
    for department in tables.DEPARTMENTS:
        for name, values, _ in department.options:
            for value in values:
                assert [other for other in values if meets_option(value, name, other)] == [value]


def test_values_of_different_options_do_not_match() -> None:
    for department in tables.DEPARTMENTS:
        (first, values, _), (second, others, _) = department.options
        assert not any(meets_option(value, second, other) for value in values for other in others)
        assert not any(meets_option(other, first, value) for value in values for other in others)


def test_every_product_type_has_a_noun() -> None:
    for department in tables.DEPARTMENTS:
        assert all(lexicon_nouns(kind.name.title()) for kind in department.kinds)


def test_an_invalid_number_of_products_is_rejected() -> None:
    with pytest.raises(ValueError, match="products=0"):
        next(generate(0))


def test_the_default_shop_has_the_pinned_hash(products: list[Product]) -> None:
    """Success rates of different versions are comparable only with the same shop. Change this hash deliberately."""
    assert make_catalogue(products).fingerprint[:16] == "ae55489ac1e4ef6c"
