"""What a shop is: products and goals, which never change, and the `State` of one shopper, which does.

A `Product` is a catalogue entry as the pages and the reward see it, whether it came from the generator or from an
official file. A `Goal` is what one episode is about. The rules (`shop.py`), the pages (`pages.py`), the reward
(`reward.py`) and the expert (`expert.py`) all read these three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

HITS = 50  # products that a search finds, at most


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """What a person asked for when shown a product: the sentence, and what annotators found in it."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One entry of the catalogue, cleaned as WebShop cleans it (`records.py`).

    `pricing` holds the lowest and highest price in dollars (once, if they are equal); `options` maps a lower-case
    name ("color") to its lower-case values in page order. `attributes` are hidden from the shopper. `instruction`
    and `instruction_attributes` make synthetic goals, `human` makes human ones.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    pricing: tuple[float, ...]
    options: Mapping[str, tuple[str, ...]]
    category: str
    query: str
    product_category: str
    attributes: tuple[str, ...]
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = ()

    @property
    def price_tag(self) -> str:
        """The price as the pages write it: "$65.99", or "$20.0 to $35.5"."""
        return " to ".join(f"${price}" for price in self.pricing)


@dataclass(frozen=True, slots=True)
class Goal:
    """What one episode is about.

    `options` are (name, value) pairs; the name is None for human goals, which list values only. `price_upper` is in
    dollars and 1,000,000 when any price will do. `task_id` is the asin and a fingerprint of the goal; an
    environment adds one of its shop (`WebShopEnv.task_id`).
    """

    task_id: str
    asin: str
    title: str
    category: str
    query: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str | None, str], ...]
    price_upper: float


class Page(str, Enum):
    """Where a shopper can be."""

    INDEX = "index"
    RESULTS = "results"
    ITEM = "item"
    SUB = "sub"  # description, features or reviews of the item
    DONE = "done"


@dataclass(slots=True)
class State:
    """What changes during an episode. Copying it is the whole of `clone()`.

    `keywords` and `number` say which results page was last looked at; `row` is the product in view; `sub` the open sub
    page; `options` the chosen values by name; `visited` the asins looked at since the last `Back to Search`; `draw`
    the step of the last search (it seeds the random prefix `<r>`).
    """

    page: Page = Page.INDEX
    keywords: tuple[str, ...] = ()
    number: int = 1
    row: int | None = None
    sub: str = ""
    options: dict[str, str] = field(default_factory=dict)
    visited: set[str] = field(default_factory=set)
    draw: int = 0
    steps: int = 0

    def clone(self) -> State:
        """An independent copy, in a microsecond."""
        return State(
            self.page,
            self.keywords,
            self.number,
            self.row,
            self.sub,
            self.options.copy(),
            self.visited.copy(),
            self.draw,
            self.steps,
        )
