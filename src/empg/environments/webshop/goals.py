"""All goals of a catalogue as pairs of numbers, and the construction of a goal and its instruction.

Synthetic goals: a product with an instruction has one goal per combination of its option values. Human goals: one per
human instruction. The order is the original's: products in catalogue order, combinations in the order of
`itertools.product`, then one shuffle with seed 233. Goal i is therefore goal i of the original up to the first repeated
goal. If a product's data repeats a value or an instruction, only the first of equal goals is kept, so that no goal is
in two splits.
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
MAX_GOALS = 100_000  # per product; the thousand official products have 17 on average
_PRICE_STEPS = [10.0 * step for step in range(1, 100)]

# Positions after the shuffle; the last split takes the rest.
_SPLITS: dict[SplitScheme, tuple[tuple[str, int], ...]] = {
    "paper": (("test", 500), ("dev", 1000), ("train", 0)),
    "verl-agent": (("test", 500), ("train", 0)),
}


@dataclass(frozen=True, slots=True)
class GoalTable:
    """The goals of one kind, shuffled: `(G,)` arrays, possibly memory-mapped.

    Attributes:
        row: int32, the product's row in the catalogue.
        choice: int32, index of the combination of options or of the human instruction.
        weight: float64, relative probability of the goal when `reset` draws one.
    """

    row: npt.NDArray[np.int32]
    choice: npt.NDArray[np.int32]
    weight: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)


class GoalCollector:
    """Collects the goals of one kind from streamed products."""

    def __init__(self, kind: GoalKind) -> None:
        self.kind = kind
        self._rows: list[int] = []
        self._counts: list[int] = []
        self._goals = 0
        self._repeats: list[npt.NDArray[np.int64]] = []  # positions of repeated goals, before the shuffle
        self._attributes: list[tuple[str, ...]] = []
        self._frequency: Counter[str] = Counter()

    def add(self, row: int, product: Product) -> None:
        """Add the next product."""
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
        """Return all goals, shuffled. Synthetic goals with rare attributes weigh more; human goals weigh the same."""
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
    """Return the number of goals of a product, including repeated ones and at most `MAX_GOALS`."""
    if kind == "human":
        return min(len(product.human), MAX_GOALS)
    return 0 if product.instruction is None else min(combinations(product), MAX_GOALS)


def combinations(product: Product) -> int:
    """Return the number of ways to choose one value of each option."""
    return math.prod(len(values) for values in product.options.values())


def make_goal(product: Product, price: float, kind: GoalKind, choice: int) -> Goal:
    """Construct the goal of a row of a `GoalTable`.

    The price bound is drawn from its own seed, so it is the same in every process; the original draws it unseeded. The
    seed is the product for synthetic goals, whose combinations share one bound, and the instruction for human goals.
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
    """Draw the highest acceptable price in dollars, and its words. Without two higher steps there is no price limit."""
    above = [step for step in _PRICE_STEPS if step > price][:4]
    if len(above) < 2:
        return ANY_PRICE, ""
    bound = max(random.Random(f"webshop price bound/{key}").sample(above, 2))
    return bound, f", and price lower than {bound:.2f} dollars"


def check_split(scheme: SplitScheme, split: str) -> None:
    """Check that a scheme has a split, which needs no catalogue.

    Raises:
        UserError: the scheme or split is unknown.
    """
    if scheme not in _SPLITS:
        raise UserError(f"split_scheme={scheme!r}: expected one of {', '.join(_SPLITS)}")
    names = [name for name, _ in _SPLITS[scheme]]
    if split not in names:
        raise UserError(f"split: expected one of {', '.join(names)}, got {split!r:.80}")


def split_range(scheme: SplitScheme, split: str, goals: int) -> range:
    """Return the positions of a `GoalTable` that belong to a split.

    "paper": test [0, 500), dev [500, 1500), train the rest. "verl-agent": test [0, 500), train the rest. If `train`
    would have less than half of the goals, the held-out splits are scaled down proportionally.

    Raises:
        UserError: the scheme or split is unknown, or the split is empty.
    """
    check_split(scheme, split)
    held_out = sum(size for _, size in _SPLITS[scheme])
    scale = min(1.0, goals / (2 * held_out))
    start = 0
    for name, size in _SPLITS[scheme]:
        end = start + int(size * scale) if size else goals
        if name == split:
            if start == end:
                raise UserError(f"split {split!r} is empty: the catalogue has only {goals} goals. Use more products")
            return range(start, end)
        start = end
    raise AssertionError(split)


def _repeats(product: Product, kind: GoalKind, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of those of the `count` goals of a product that equal an earlier one."""
    if kind == "human":
        first: dict[HumanInstruction, int] = {}
        again = [first.setdefault(asked, place) != place for place, asked in enumerate(product.human[:count])]
        return np.flatnonzero(again)
    repeated, rest = np.zeros(count, dtype=np.bool_), np.arange(count)
    if all(len(set(values)) == len(values) for values in product.options.values()):
        return rest[:0]
    for name in sorted(product.options, reverse=True):
        values, first_place = product.options[name], dict[str, int]()
        rest, digits = np.divmod(rest, len(values))
        repeated |= np.asarray([first_place.setdefault(v, place) != place for place, v in enumerate(values)])[digits]
    return np.flatnonzero(repeated)


def _combination(product: Product, choice: int) -> tuple[tuple[str, str], ...]:
    """Return the `choice`-th combination of `itertools.product` over the option values, with names sorted."""
    pairs = []
    for name in sorted(product.options, reverse=True):
        choice, digit = divmod(choice, len(product.options[name]))
        pairs.append((name, product.options[name][digit]))
    return tuple(reversed(pairs))
