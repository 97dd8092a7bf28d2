"""Data model of a shop: the constant products and goals, and the changing `State` of one episode.

A `Product` is a catalogue entry, from the generator or from an official file. A `Goal` is the goal of one episode. The
rules (`shop.py`), the pages (`pages.py`), the reward (`reward.py`) and the expert (`expert.py`) all use these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

HITS = 50  # products that a search finds, at most


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """A human request for a shown product: the sentence, and the attributes and options that annotators found in it."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One entry of the catalogue, cleaned by WebShop's rules (`records.py`).

    `pricing` contains the lowest and highest price in dollars (one value if they are equal). `options` maps a
    lower-case name ("color") to its lower-case values in page order. `query` is the product type; it and `attributes`
    are hidden from the agent. `instruction` and `instruction_attributes` define synthetic goals; `human` defines human
    goals.
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
        """The price in the format of the pages: "$65.99", or "$20.0 to $35.5"."""
        return " to ".join(f"${price}" for price in self.pricing)


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of one episode.

    `options` are (name, value) pairs; the name is None for human goals, which list values only. `price_upper` is in
    dollars; it is 1,000,000 if there is no price limit. `task_id` is the asin and a fingerprint of the goal; an
    environment appends a fingerprint of its shop (`WebShopEnv.task_id`).
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
    """The type of the current page."""

    INDEX = "index"
    RESULTS = "results"
    ITEM = "item"
    SUB = "sub"  # description, features or reviews of the item
    DONE = "done"


@dataclass(slots=True)
class State:
    """Everything that changes during an episode. Copying it is all that `clone()` does.

    `keywords` and `number` identify the last results page. `row` is the current product. `sub` is the open sub page.
    `options` maps names to chosen values. `visited` contains the asins opened since the last `Back to Search`. `draw`
    is the step of the last search; it seeds the random prefix `<r>`.
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
        """Return an independent copy; this takes about a microsecond."""
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
