"""Every goal of a catalogue as a pair of numbers, and how one becomes an instruction.

Synthetic goals: a product with an instruction has one goal per combination of its option values. Human goals: one per
instruction that people wrote. The order (products as they come, combinations as `itertools.product` makes them, then
one shuffle with seed 233) is the original's, so that goal i here is goal i there, up to the first that repeats another:
where a product's data says a value or an instruction twice, only the first of equal goals stays, so that none is in two
splits.
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

from empg.environments.webshop.spec import SplitScheme
from empg.environments.webshop.world import Goal, HumanInstruction, Product
from empg.errors import UserError

GoalKind = Literal["synthetic", "human"]

SHUFFLE_SEED = 233
ANY_PRICE = 1_000_000.0  # dollars
MAX_GOALS = 100_000  # of one product; those of the thousand official products have 17 on average
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
        self._goals = 0
        self._repeats: list[npt.NDArray[np.int64]] = []  # places, before the shuffle, of goals that were there before
        self._attributes: list[tuple[str, ...]] = []
        self._frequency: Counter[str] = Counter()

    def add(self, row: int, product: Product) -> None:
        """The next product."""
        count = goal_count(product, self.kind)
        if not count:
            return
        self._rows.append(row)
        self._counts.append(count)
        repeats = _repeats(product, self.kind, count)
        if len(repeats):
            self._repeats.append(self._goals + repeats)
        self._goals += count
        if self.kind == "synthetic":
            self._attributes.append(product.instruction_attributes)
            for attribute in product.instruction_attributes:
                self._frequency[attribute] += count

    def table(self) -> GoalTable:
        """All goals, shuffled. Rare attributes weigh more in synthetic goals; human goals weigh the same."""
        counts = np.asarray(self._counts, dtype=np.int64)
        shuffled = list(range(self._goals))
        random.Random(SHUFFLE_SEED).shuffle(shuffled)
        order = np.asarray(shuffled, dtype=np.int64)
        if self._repeats:
            order = order[~np.isin(order, np.concatenate(self._repeats))]
        starts = counts.cumsum() - counts
        choice = np.arange(self._goals) - np.repeat(starts, counts)
        weights = [sum(1 / self._frequency[a] for a in own) / len(own) for own in self._attributes]
        per_product = np.asarray(weights, dtype=np.float64) if weights else np.ones(len(counts))
        return GoalTable(
            np.repeat(np.asarray(self._rows, dtype=np.int32), counts)[order],
            choice.astype(np.int32)[order],
            np.repeat(per_product, counts)[order],
        )


def goal_count(product: Product, kind: GoalKind) -> int:
    """How many goals a product makes, the repeated ones among them: the first `MAX_GOALS`, if it would make more."""
    if kind == "human":
        return min(len(product.human), MAX_GOALS)
    return 0 if product.instruction is None else min(combinations(product), MAX_GOALS)


def combinations(product: Product) -> int:
    """How many ways there are to choose one value of each option."""
    return math.prod(len(values) for values in product.options.values())


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
    asked_for = (instruction, attributes, options, bound)
    content = repr((product.asin, product.title, product.query, product.product_category, *asked_for))
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
        UserError: there is no such scheme or split, or it would be empty.
    """
    if scheme not in _SPLITS:
        raise UserError(f"split_scheme={scheme!r}: one of {', '.join(_SPLITS)}")
    sizes = dict(_SPLITS[scheme])
    if split not in sizes:
        raise UserError(f"split={split!r}: one of {', '.join(sizes)}")
    held_out = sum(sizes.values())
    scale = min(1.0, goals / (2 * held_out))
    start = 0
    for name, size in _SPLITS[scheme]:
        end = start + int(size * scale) if size else goals
        if name == split:
            if start == end:
                raise UserError(f"split {split!r} is empty: the catalogue has only {goals} goals; use more products")
            return range(start, end)
        start = end
    raise AssertionError(split)


def _repeats(product: Product, kind: GoalKind, count: int) -> npt.NDArray[np.int64]:
    """Which of the `count` goals of a product say what an earlier one says."""
    if kind == "human":
        first: dict[HumanInstruction, int] = {}
        again = [first.setdefault(asked, place) != place for place, asked in enumerate(product.human[:count])]
        return np.flatnonzero(again)
    repeated, rest = np.zeros(count, dtype=np.bool_), np.arange(count)
    if all(len(set(values)) == len(values) for values in product.options.values()):
        return rest[:0]
    for name in sorted(product.options, reverse=True):
        values, known = product.options[name], dict[str, int]()
        rest, digits = np.divmod(rest, len(values))
        repeated |= np.asarray([known.setdefault(v, place) != place for place, v in enumerate(values)])[digits]
    return np.flatnonzero(repeated)


def _combination(product: Product, choice: int) -> tuple[tuple[str, str], ...]:
    """The `choice`-th of `itertools.product` over the option values, names sorted."""
    pairs = []
    for name in sorted(product.options, reverse=True):
        choice, digit = divmod(choice, len(product.options[name]))
        pairs.append((name, product.options[name][digit]))
    return tuple(reversed(pairs))
