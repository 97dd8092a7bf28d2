"""Generate a shop from a seed, in the official schema: 10 products or a million, each a function of (seed, number).

Products come in families of five near-duplicates of one type: one is plain, one lacks an attribute that the others
have, one has other option values, and two are twins of those three whose price exceeds every price bound of theirs.
Goals are made from the first three. A good search alone is therefore not enough: the first result is wrong one time in
three.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from empg.environments.webshop import tables
from empg.environments.webshop.records import LoadReport, clean
from empg.environments.webshop.tables import Department, ProductType
from empg.environments.webshop.world import Product
from empg.errors import UserError

Options = dict[str, tuple[str, ...]]

FAMILY = 5
ATTRIBUTES = 3  # per product: two in its title, one in its first bullet
INSTRUCTION_SHARE = 0.8  # share of the products, without the expensive twins, that have an instruction
FROM_BULLET_SHARE = 0.3  # share of the instructions that ask for the attribute in the bullet
_TWIN_SURCHARGE = (55, 90)  # dollars above the family's price; the price bounds of the others are lower
_ASIN_SYLLABLES = tuple(f"{c}{v}" for c in "BDFGHJKLMNPRSTVWXYZC" for v in "AEIOU")
_ASIN_WORDS = len(_ASIN_SYLLABLES) ** 2
_ASIN_SIDE = 40  # words per place that 1,600 neighbouring products share; divides 10,000 evenly


def generate(count: int, seed: int = 0) -> Iterator[Product]:
    """Generate the first `count` products of the shop of a seed.

    Raises:
        UserError: `count` is not positive or exceeds the number of asins (100 million).
    """
    if not 1 <= count <= _ASIN_WORDS**2:
        raise UserError(f"products={count}: expected 1 to {_ASIN_WORDS**2:,}")
    report = LoadReport()
    for number in range(count):
        record, extra = make_record(number, seed)
        yield from clean([record], {record["asin"]: extra}, {}, report)


def make_record(number: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return product `number` in the format of `items_shuffle.json`, and its entry for `items_ins_v2.json`."""
    family, place = divmod(number, FAMILY)
    member = _family(family, seed)[place]
    department, kind, attributes = member.department, member.kind, member.attributes
    rng = random.Random(f"webshop/{seed}/product/{number}")
    shown, in_bullet = attributes[:2], attributes[2]
    brand = "".join(rng.sample(tables.BRAND_SYLLABLES, 2)).title()
    uses = rng.sample(department.uses, 2)
    record = {
        "name": f"{brand} {' '.join(shown).title()} {kind.name.title()}",
        "full_description": f"A {kind.name} by {brand}, made for {uses[0]}.",
        "pricing": _price_tag(rng, member.price),
        "small_description": [in_bullet.capitalize(), f"Good for {uses[1]}", f"Made by {brand}"],
        "customization_options": {
            name.title(): [{"value": v} for v in values] for name, values in member.options.items()
        },
        "product_category": f"{department.breadcrumb} › {kind.shelf} › {kind.name.title()}",
        "asin": asin(number, seed),
        "category": department.category,
        "query": kind.name.capitalize(),
        "images": [""],
    }
    extra: dict[str, Any] = {"attributes": list(attributes)}
    if not member.is_twin and rng.random() < INSTRUCTION_SHARE:
        wanted = [shown[0], in_bullet] if rng.random() < FROM_BULLET_SHARE else list(shown)
        request = rng.choice(tables.REQUESTS).format(f"{', '.join(wanted)} {kind.name}")
        extra |= {"instruction": request, "instruction_attributes": wanted}
    return record, extra


def asin(number: int, seed: int = 0) -> str:
    """Return the asin of a product: "B0" and two words of two syllables.

    Products with low numbers share few words (1,000 products have 40 per place), so that a small model's tokenizer has
    whole tokens for them and an asin is a few tokens long. Neighbours, which are the near-duplicates that a search
    finds together, have no word in common. On a results page, the first word of an asin thus determines the second.
    """
    block, within = divmod(number, _ASIN_SIDE**2)
    shell = math.isqrt(block)
    past = block - shell * shell
    corner = (past, shell) if past < shell else (shell, past - shell)  # each pair once, the smallest first
    row, column = divmod(within, _ASIN_SIDE)
    places = (corner[0] * _ASIN_SIDE + column, corner[1] * _ASIN_SIDE + (column + row) % _ASIN_SIDE)
    words = []
    for shift, which in zip(_asin_shifts(seed), places, strict=True):
        # A bijection: there are 100 ** 2 words, and the factor is coprime to 10.
        code = (which * 6_181 + shift) % _ASIN_WORDS
        words.append("".join(_ASIN_SYLLABLES[digit] for digit in divmod(code, len(_ASIN_SYLLABLES))))
    return "B0" + "".join(words)


@lru_cache
def _asin_shifts(seed: int) -> tuple[int, ...]:
    """Return the shifts of the two words of an asin. Cached, because seeding a random generator is slow."""
    return tuple(random.Random(f"webshop/{seed}/asin/{place}").randrange(_ASIN_WORDS) for place in range(2))


@dataclass(frozen=True, slots=True)
class _Member:
    """A product of a family, without the fields that are drawn per product."""

    department: Department
    kind: ProductType
    attributes: tuple[str, ...]
    options: Options
    price: int
    is_twin: bool = False


@lru_cache(1)
def _family(family: int, seed: int) -> list[_Member]:
    """Generate the near-duplicates of a family, in random order."""
    rng = random.Random(f"webshop/{seed}/family/{family}")
    department = rng.choice(tables.DEPARTMENTS)
    attributes = tuple(rng.sample(department.attributes, ATTRIBUTES))
    kind = rng.choice(department.kinds)
    plain = _Member(department, kind, attributes, _draw_options(rng, department), rng.randint(*kind.price))
    changed = list(attributes)
    others = [attribute for attribute in department.attributes if attribute not in attributes]
    changed[rng.randrange(ATTRIBUTES)] = rng.choice(others)
    lacking = replace(plain, attributes=tuple(changed), price=plain.price + rng.randint(-2, 2))
    differing = replace(plain, options=_draw_options(rng, department), price=plain.price + rng.randint(-2, 2))
    originals = [plain, lacking, differing]
    twins = [
        replace(original, price=plain.price + rng.randint(*_TWIN_SURCHARGE), is_twin=True)
        for original in rng.sample(originals, FAMILY - len(originals))
    ]
    members = [*originals, *twins]
    rng.shuffle(members)
    return members


def _draw_options(rng: random.Random, department: Department) -> Options:
    """Draw mostly two options, sometimes one or none, each with a few values in a fixed order."""
    kept = rng.choices((2, 1, 0), (75, 20, 5))[0]
    drawn: Options = {}
    for name, values, count in department.options[:kept]:
        chosen = set(rng.sample(values, count))
        drawn[name] = tuple(value for value in values if value in chosen)
    return drawn


def _price_tag(rng: random.Random, price: int) -> str:
    """Draw a price tag: usually one price, sometimes a narrow range, rarely empty, which means 100 dollars."""
    cents = rng.choice((0.99, 0.95, 0.49, 0.0))
    sort = rng.choices(("price", "range", "nothing"), (84, 14, 2))[0]
    low = max(price, 3) + cents
    if sort == "price":
        return f"${low:.2f}"
    return f"${low:.2f}${low + rng.randint(2, 9):.2f}" if sort == "range" else ""
