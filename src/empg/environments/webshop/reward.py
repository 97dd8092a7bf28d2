"""WebShop's reward: how well a purchase matches the goal.

    reward = type * (attributes met + options met + price met) / (attributes asked + options asked + 1)

It is 1 only if everything is met. The quirks of the official reward are kept; see docs/webshop.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import combinations

from empg.environments.webshop.world import Goal, Product

MATCH_ABOVE = 85  # token_set_ratio, from 0 to 100
_DELETED = dict.fromkeys(range(0x80, 0x100))

# The first match in this order decides: "dark red" is dark, "rose gold" is gold.
COLOURS = tuple(
    """
    alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
    caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream
    crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather
    indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha
    multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal
    rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise
    violet walnut wheat white wine yellow
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of a purchase and its terms.

    `type` is 1, 0.5, 0.1 or 0. `attributes` and `options` count the met ones. `price` is whether the price is within
    the bound. `reward` is in [0, 1].
    """

    reward: float
    type: float
    attributes: int
    options: int
    price: bool
    title_score: float
    query_match: bool
    category_match: bool


def score_purchase(
    product: Product,
    price: float,
    chosen: Iterable[str],
    goal: Goal,
    product_nouns: Sequence[str],
    goal_nouns: Sequence[str],
) -> Score:
    """Score the purchase of `product` at `price` dollars with the `chosen` option values.

    Args:
        product: the bought product.
        price: its actual price; the price tag may show a range.
        chosen: the chosen option values, in the order in which their options were first chosen.
        goal: the goal of the episode.
        product_nouns: the nouns of the product's title, with repetitions (`nouns.py`).
        goal_nouns: the nouns of the goal's title.
    """
    query_match = product.query == goal.query
    category_match = len(_breadcrumbs(product.product_category) & _breadcrumbs(goal.product_category)) >= 2
    title_score = _title_score(product_nouns, goal_nouns)
    kind = _type_score(query_match or category_match, title_score)
    attributes = sum(meets_attribute(product, wanted) for wanted in goal.attributes)
    chosen = list(chosen)
    options = sum(any(meets_option(value, *wanted) for value in chosen) for wanted in goal.options)
    within = price <= goal.price_upper
    asked = len(goal.attributes) + len(goal.options) + 1
    reward = kind * ((attributes + options + within) / asked)
    return Score(reward, kind, attributes, options, within, title_score, query_match, category_match)


def meets_attribute(product: Product, wanted: str) -> bool:
    """Return whether a product has an attribute: as one of its attributes, or literally in its text."""
    if any(similarity(own, wanted) > MATCH_ABOVE for own in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(wanted in text.lower() for text in texts)


def meets_option(value: str, name: str | None, wanted: str) -> bool:
    """Return whether a chosen value matches a wanted option. Colours are compared by their basic colour.

    A synthetic goal's option is a (name, value) pair; the official code compares its printed form. A pair is reduced to
    a basic colour only if its name or value *is* one. Additional words do not prevent a match.
    """
    if name is None:
        return similarity(_colour(value), _colour(wanted)) > MATCH_ABOVE
    basic = next((colour for colour in COLOURS if colour in (name, wanted)), None)
    return similarity(_colour(value), basic or str((name, wanted))) > MATCH_ABOVE


@lru_cache(65536)
def similarity(first: str, second: str) -> int:
    """Return the similarity of two phrases as word sets, 0 to 100: thefuzz 0.19's `token_set_ratio` with difflib.

    thefuzz uses difflib unless python-Levenshtein is installed. The original's requirements do not install it.
    """
    words, others = _fuzzy_words(first), _fuzzy_words(second)
    if not words or not others:
        return 0
    common = " ".join(sorted(words & others))
    texts = [common, *(f"{common} {' '.join(sorted(own))}".strip() for own in (words - others, others - words))]
    return max(_ratio(one, other) for one, other in combinations(texts, 2))


def _ratio(first: str, second: str) -> int:
    if first == second:
        return 100
    return round(100 * SequenceMatcher(None, first, second).ratio())


@lru_cache(65536)
def _fuzzy_words(text: str) -> frozenset[str]:
    """Return the words that thefuzz 0.19 compares: it deletes U+0080 to U+00FF, and keeps other letters and `_`."""
    return frozenset(re.sub(r"\W", " ", text.translate(_DELETED)).lower().split())


@lru_cache(65536)
def _colour(value: str) -> str:
    return next((colour for colour in COLOURS if colour in value), value)


def _breadcrumbs(product_category: str) -> set[str]:
    return {part.strip() for part in product_category.split("›")}


def _title_score(product_nouns: Sequence[str], goal_nouns: Sequence[str]) -> float:
    if not goal_nouns:
        return 0.2
    # The numerator counts each common noun once; the denominator counts the goal's nouns with repetitions.
    return len(set(product_nouns) & set(goal_nouns)) / len(goal_nouns)


def _type_score(same_kind: bool, title_score: float) -> float:
    # A title without common nouns overrides a matching query or category.
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if same_kind or title_score > 0.2 else 0.5
