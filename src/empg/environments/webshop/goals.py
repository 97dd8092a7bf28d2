"""Every goal of a catalogue as a pair of numbers, and how one becomes an instruction.

Synthetic goals: a product with an instruction has one goal per combination of its option values. Human goals: one per
instruction that people wrote. The order (products as they come, combinations as `itertools.product` makes them, then
one shuffle with seed 233) is the original's, so that goal i here is goal i there.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from empg.environments.webshop.world import Goal, Product

GoalKind = Literal["synthetic", "human"]
SplitScheme = Literal["paper", "verl-agent"]

SHUFFLE_SEED = 233
ANY_PRICE = 1_000_000.0  # dollars
_PRICE_STEPS = [10.0 * step for step in range(1, 100)]

# Positions after the shuffle; the last split takes the rest.
_SPLITS: dict[SplitScheme, tuple[tuple[str, int], ...]] = {
    "paper": (("test", 500), ("dev", 1000), ("train", 0)),
    "verl-agent": (("test", 500), ("train", 0)),
}


@dataclass(frozen=True, slots=True)
class GoalTable:
    """The goals of one kind, shuffled: `(G,)` arrays, perhaps memory-mapped.

    Attributes:
        row: int32, the product's row in the catalogue.
        choice: int32, which combination of its options, or which of its human instructions.
        weight: float64, how often the goal is drawn when none is named.
    """

    row: npt.NDArray[np.int32]
    choice: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)


class GoalCounter:
    """Collects the goals of one kind while products stream by."""

    def __init__(self, kind: GoalKind) -> None:
        self.kind = kind
        self._rows: list[int] = []
        self._counts: list[int] = []
        self._attributes: list[tuple[str, ...]] = []
        self._frequency: Counter[str] = Counter()

    def add(self, row: int, product: Product) -> None:
        """The next product."""
        count = goal_count(product, self.kind)
        if not count:
            return
        self._rows.append(row)
        self._counts.append(count)
        if self.kind == "synthetic":
            self._attributes.append(product.instruction_attributes)
            for attribute in product.instruction_attributes:
                self._frequency[attribute] += count

    def table(self) -> GoalTable:
        """All goals, shuffled. Rare attributes weigh more in synthetic goals; human goals weigh the same."""
        counts = np.asarray(self._counts, dtype=np.int64)
        order = list(range(int(counts.sum())))
        random.Random(SHUFFLE_SEED).shuffle(order)
        starts = counts.cumsum() - counts
        choice = np.arange(len(order)) - np.repeat(starts, counts)
        weights = [sum(1 / self._frequency[a] for a in own) / len(own) for own in self._attributes]
        per_product = np.asarray(weights, dtype=np.float64) if weights else np.ones(len(counts))
        return GoalTable(
            np.repeat(np.asarray(self._rows, dtype=np.int32), counts)[order],
            choice.astype(np.int32)[order],
            np.repeat(per_product, counts)[order],
        )


def goal_count(product: Product, kind: GoalKind) -> int:
    """How many goals a product makes."""
    if kind == "human":
        return len(product.human)
    return 0 if product.instruction is None else math.prod(len(values) for values in product.options.values())


def make_goal(product: Product, price: float, kind: GoalKind, choice: int) -> Goal:
    """The goal that a row of a `GoalTable` stands for.

    The price bound is drawn from a seed of its own (the product for synthetic goals, as all its combinations share
    one; the instruction for human goals), so it is the same in every process. The original draws it unseeded.
    """
    if kind == "human":
        asked = product.human[choice]
        attributes = asked.attributes
        options: tuple[tuple[str | None, str], ...] = tuple((None, value) for value in asked.options)
        bound, words = price_bound(price, f"{product.asin}/human/{choice}")
        instruction = asked.text.strip(".") + words
    else:
        attributes = product.instruction_attributes
        pairs = _combination(product, choice)
        options = pairs
        bound, words = price_bound(price, product.asin)
        listed = ", and ".join(f"{name}: {value}" for name, value in pairs)
        instruction = f"{product.instruction}{' with ' + listed if listed else ''}{words}"
    content = repr((product.asin, product.title, product.query, instruction, attributes, options, bound))
    return Goal(
        task_id=f"{product.asin}-{hashlib.sha256(content.encode()).hexdigest()[:12]}",
        asin=product.asin,
        title=product.title,
        category=product.category,
        query=product.query,
        product_category=product.product_category,
        instruction=instruction,
        attributes=attributes,
        options=options,
        price_upper=bound,
    )


def price_bound(price: float, key: str) -> tuple[float, str]:
    """The highest price that will do, in dollars, and the words for it; any price, if there are no steps above."""
    above = [step for step in _PRICE_STEPS if step > price][:4]
    if len(above) < 2:
        return ANY_PRICE, ""
    bound = max(random.Random(f"webshop price bound/{key}").sample(above, 2))
    return bound, f", and price lower than {bound:.2f} dollars"


def split_range(scheme: SplitScheme, split: str, goals: int) -> range:
    """Which positions of a `GoalTable` a split plays.

    "paper": test [0, 500), dev [500, 1500), train the rest. "verl-agent": test [0, 500), train the rest. A catalogue
    with so few goals that train would be less than half gives its held-out splits a share in proportion instead.

    Raises:
        ValueError: there is no such scheme or split, or it would be empty.
    """
    if scheme not in _SPLITS:
        raise ValueError(f"split_scheme={scheme!r}: one of {', '.join(_SPLITS)}")
    sizes = dict(_SPLITS[scheme])
    if split not in sizes:
        raise ValueError(f"split={split!r}: one of {', '.join(sizes)}")
    held_out = sum(sizes.values())
    scale = min(1.0, goals / (2 * held_out))
    start = 0
    for name, size in _SPLITS[scheme]:
        end = start + int(size * scale) if size else goals
        if name == split:
            if start == end:
                raise ValueError(f"split {split!r} is empty: the catalogue has only {goals} goals; use more products")
            return range(start, end)
        start = end
    raise AssertionError(split)


def _combination(product: Product, choice: int) -> tuple[tuple[str, str], ...]:
    """The `choice`-th of `itertools.product` over the option values, names sorted."""
    pairs = []
    for name in sorted(product.options, reverse=True):
        choice, digit = divmod(choice, len(product.options[name]))
        pairs.append((name, product.options[name][digit]))
    return tuple(reversed(pairs))
