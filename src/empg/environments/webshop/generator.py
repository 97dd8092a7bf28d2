"""A shop from a seed, in the official schema: 10 products or a million, each a function of (seed, number).

Products come in families of four near-duplicates: of one type and with one set of attributes, but one member lacks an
attribute that the others have, one is dearer by more than any price bound allows, and one has other option values.
So the right product is told by what is read, not by its type.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from empg.environments.webshop import tables
from empg.environments.webshop.records import LoadReport, clean
from empg.environments.webshop.tables import Department, Kind
from empg.environments.webshop.world import Product

Options = dict[str, tuple[str, ...]]

FAMILY = 4
ATTRIBUTES = 3  # of a product: two in its title, one in its first bullet
INSTRUCTION_SHARE = 0.5
FROM_BULLET_SHARE = 0.3  # of the instructions: ask for the attribute that the title does not have
_DEARER = (45, 80)  # dollars; a price bound is at most 40 above the price
_ASIN_SYLLABLES = tuple(f"{c}{v}" for c in "BDFGHJKLMNPRSTVWXYZC" for v in "AEIOU")


def generate(count: int, seed: int = 0) -> Iterator[Product]:
    """The first `count` products of the shop of a seed.

    Raises:
        ValueError: `count` is not positive or more than there are asins (100 million).
    """
    if not 1 <= count <= len(_ASIN_SYLLABLES) ** 4:
        raise ValueError(f"products={count}: from 1 to {len(_ASIN_SYLLABLES) ** 4:,}")
    report = LoadReport()
    for number in range(count):
        record, extra = make_record(number, seed)
        yield from clean([record], {record["asin"]: extra}, {}, report)


def make_record(number: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Product `number` as `items_shuffle.json` would hold it, and its entry in `items_ins_v2.json`."""
    family, place = divmod(number, FAMILY)
    shared = _family(family, seed)
    department, kind, options, role = shared.department, shared.kind, shared.options, shared.roles[place]
    dice = random.Random(f"webshop/{seed}/product/{number}")
    attributes = list(shared.attributes)
    if role == "lacks":
        others = [attribute for attribute in department.attributes if attribute not in attributes]
        attributes[dice.randrange(ATTRIBUTES)] = dice.choice(others)
    price = shared.price + (dice.randint(*_DEARER) if role == "dearer" else dice.randint(-2, 2))
    if role == "others":
        options = _draw_options(dice, department)
    shown, in_bullet = attributes[:2], attributes[2]
    brand = "".join(dice.sample(tables.BRAND_SYLLABLES, 2)).title()
    uses = dice.sample(department.uses, 2)
    record = {
        "name": f"{brand} {' '.join(shown).title()} {kind.name.title()}",
        "full_description": f"A {kind.name} by {brand}, made for {uses[0]}.",
        "pricing": _price_tag(dice, price),
        "small_description": [in_bullet.capitalize(), f"Good for {uses[1]}", f"Made by {brand}"],
        "customization_options": {name.title(): [{"value": v} for v in values] for name, values in options.items()},
        "product_category": f"{department.breadcrumb} › {kind.shelf} › {kind.name.title()}",
        "asin": asin(number, seed),
        "category": department.category,
        "query": kind.name.capitalize(),
        "images": [""],
    }
    extra: dict[str, Any] = {"attributes": attributes}
    if dice.random() < INSTRUCTION_SHARE:
        wanted = [shown[0], in_bullet] if dice.random() < FROM_BULLET_SHARE else shown
        request = dice.choice(tables.REQUESTS).format(f"{', '.join(wanted)} {kind.name}")
        extra |= {"instruction": request, "instruction_attributes": wanted}
    return record, extra


def asin(number: int, seed: int = 0) -> str:
    """The asin of a product: "B0" and four syllables, which a small model copies more easily than random letters."""
    base = len(_ASIN_SYLLABLES)
    # A bijection on [0, base**4): the factor is odd and no multiple of 5, and base is 100.
    code = (number * 61_803_399 + random.Random(f"webshop/{seed}/asin").randrange(base**4)) % base**4
    syllables = []
    for _ in range(4):
        code, digit = divmod(code, base)
        syllables.append(_ASIN_SYLLABLES[digit])
    return "B0" + "".join(syllables)


@dataclass(frozen=True, slots=True)
class _Family:
    """What near-duplicates share, and which of them plays which role."""

    department: Department
    kind: Kind
    attributes: tuple[str, ...]
    price: int
    options: Options
    roles: tuple[str, ...]


@lru_cache(1)
def _family(family: int, seed: int) -> _Family:
    dice = random.Random(f"webshop/{seed}/family/{family}")
    department = dice.choice(tables.DEPARTMENTS)
    kind = dice.choice(department.kinds)
    shared = tuple(dice.sample(department.attributes, ATTRIBUTES))
    price = dice.randint(*kind.price)
    options = _draw_options(dice, department)
    roles = dice.sample(("plain", "lacks", "dearer", "others"), FAMILY)
    return _Family(department, kind, shared, price, options, tuple(roles))


def _draw_options(dice: random.Random, department: Department) -> Options:
    """Mostly two options, sometimes one or none, each with a few values in a fixed order."""
    kept = dice.choices((2, 1, 0), (75, 20, 5))[0]
    drawn: Options = {}
    for name, values, count in department.options[:kept]:
        chosen = set(dice.sample(values, count))
        drawn[name] = tuple(value for value in values if value in chosen)
    return drawn


def _price_tag(dice: random.Random, price: int) -> str:
    """One price; sometimes a narrow range; seldom nothing, which stands for 100 dollars."""
    cents = dice.choice((0.99, 0.95, 0.49, 0.0))
    sort = dice.choices(("price", "range", "nothing"), (84, 14, 2))[0]
    low = max(price, 3) + cents
    if sort == "price":
        return f"${low:.2f}"
    return f"${low:.2f}${low + dice.randint(2, 9):.2f}" if sort == "range" else ""
