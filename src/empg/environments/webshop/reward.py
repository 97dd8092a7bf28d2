"""WebShop's reward, term by term: how near a purchase comes to what was asked for.

    reward = type * (attributes met + options met + price met) / (attributes asked + options asked + 1)

It is 1 only if everything is met. The oddities are the official ones and are kept: see docs/webshop.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from empg.environments.webshop.world import Goal, Product

MATCH_ABOVE = 85  # token_set_ratio, from 0 to 100

# The order decides: "dark red" is dark, "rose gold" is gold.
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
    """The reward of a purchase and what it is made of.

    `type` is 1, 0.5, 0.1 or 0; `attributes` and `options` count what is met; `price` says whether the price is within
    the bound; `reward` is in [0, 1].
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
    """The reward of buying `product` at `price` dollars with the `chosen` option values.

    Args:
        product: what is bought.
        price: its actual price; the price tag may show a range.
        chosen: the chosen option values, in the order in which their options were first chosen.
        goal: what was asked for.
        product_nouns: the nouns of the product's title, repetitions kept (`nouns.py`).
        goal_nouns: those of the goal's title.
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
    """Whether a product has an attribute: among its own, or word for word in its text."""
    if any(similarity(own, wanted) > MATCH_ABOVE for own in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(wanted in text.lower() for text in texts)


def meets_option(value: str, name: str | None, wanted: str) -> bool:
    """Whether a chosen value does for a wanted option; colours are compared by their basic colour.

    A synthetic goal's option is a (name, value) pair, of which the official code compares the printed form. Only a
    pair whose name or value *is* a basic colour is reduced to it; words in excess do not count against a match.
    """
    if name is None:
        return similarity(_colour(value), _colour(wanted)) > MATCH_ABOVE
    basic = next((colour for colour in COLOURS if colour in (name, wanted)), None)
    return similarity(_colour(value), basic or str((name, wanted))) > MATCH_ABOVE


@lru_cache(65536)
def similarity(first: str, second: str) -> int:
    """How alike two phrases are as sets of words: 0 to 100, as thefuzz computes and rounds it (ASCII only)."""
    return round(token_set_ratio(_ascii(first), _ascii(second), processor=default_process))


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode()


@lru_cache(65536)
def _colour(value: str) -> str:
    return next((colour for colour in COLOURS if colour in value), value)


def _breadcrumbs(product_category: str) -> set[str]:
    return {part.strip() for part in product_category.split("›")}


def _title_score(product_nouns: Sequence[str], goal_nouns: Sequence[str]) -> float:
    if not goal_nouns:
        return 0.2
    # Common nouns count once, the goal's nouns as often as they occur.
    return len(set(product_nouns) & set(goal_nouns)) / len(goal_nouns)


def _type_score(same_kind: bool, title_score: float) -> float:
    # A title that shares nothing overrides a matching query or category.
    if title_score == 0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if same_kind or title_score > 0.2 else 0.5
