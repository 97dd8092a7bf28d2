"""An expert that shops like a careful person told exactly what is wanted, and thinks aloud in a line.

It knows the goal's attributes and options as the reward does, and of the products what it has read on this visit:
titles and prices among the results, options on the item's page, features on theirs. Its thoughts say what decided:
what is chosen, and what is wanted and what is seen, side by side, as the household expert's do.
"""

from __future__ import annotations

from empg.environments.analysis import analyze
from empg.environments.base import Decision, Info
from empg.environments.webshop.pages import BACK, BUY, NEXT, PREVIOUS
from empg.environments.webshop.reward import meets_attribute, meets_option, similarity
from empg.environments.webshop.shop import Shop
from empg.environments.webshop.world import Goal, Page, Product, State

_MAX_PAGES = 3  # results pages looked at for one query


class ShoppingExpert:
    """Plays one episode for `goal`, looking at `state` as it changes."""

    satisfied = False  # a purchase ends the episode

    def __init__(self, shop: Shop, goal: Goal, state: State) -> None:
        self._shop, self._goal, self._state = shop, goal, state
        self._rejected: set[str] = set()  # asins that were looked at and will not do
        self._read: set[str] = set()  # asins whose features were read
        self._queries = _queries(goal)
        self._asked = 0

    def act(self, observation: str, info: Info) -> Decision:
        """The next thought and command."""
        page = self._state.page
        if page is Page.INDEX:
            thought, action = self._search()
        elif page is Page.RESULTS:
            thought, action = self._pick()
        elif page is Page.ITEM:
            thought, action = self._weigh()
        elif page is Page.SUB:
            thought, action = self._judge()
        else:
            thought, action = "Done", f"click[{BACK}]"
        return Decision(thought=f"{thought}.", action=action)

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Buy what the page shows, with what is chosen so far."""
        if self._state.page is not Page.ITEM:
            return None
        return Decision(thought=f"{self._chosen()}. Buy.", action=f"click[{BUY}]")

    # ---- what to do ------------------------------------------------------------------------------------------------

    def _search(self) -> tuple[str, str]:
        """The next query: all that is wanted first, then fewer words."""
        query = self._queries[min(self._asked, len(self._queries) - 1)]
        self._asked += 1
        return "Search", f"search[{query}]"

    def _pick(self) -> tuple[str, str]:
        """The first result whose title and price look right; else look on."""
        results = self._shop.results(self._state, self._goal)
        fitting = [product for product in results.products if self._looks_right(product)]
        if fitting:
            # A title that says everything spares reading the features.
            best = min(fitting, key=lambda product: len(self._missing(product)))
            return "This fits", f"click[{best.asin}]"
        seen = self._state.number * self._shop.rules.results_per_page
        if seen < results.total and self._state.number < _MAX_PAGES:
            return "None fits. Look on", f"click[{NEXT}]"
        thought, action = self._search()
        return f"None fits. {thought}", action

    def _weigh(self) -> tuple[str, str]:
        """On an item's page: leave it, read on, choose the next option, or buy."""
        product, done = self._shop.product(self._state), self._chosen()
        if not self._looks_right(product):
            self._rejected.add(product.asin)
            return "This lacks something. Go back", f"click[{PREVIOUS}]"
        for name, asked in self._goal.options:
            value = self._value(product, name, asked)
            if value is None:
                self._rejected.add(product.asin)
                return f"{done}. I want {asked} and see {_last(product, name)}", f"click[{PREVIOUS}]"
            if value not in self._state.options.values():
                return f"{done}. I want {asked} and see {value}", f"click[{value}]"
        missing = self._missing(product)
        if missing and product.asin not in self._read:
            return f"{done}. Has it {missing[0]}? Read the features", "click[Features]"
        return f"{done}. Buy", f"click[{BUY}]"

    def _judge(self) -> tuple[str, str]:
        """On a sub page: whether the product has what its title does not say. It is left with a verdict."""
        product = self._shop.product(self._state)
        self._read.add(product.asin)
        lacking = [attribute for attribute in self._goal.attributes if not meets_attribute(product, attribute)]
        if lacking:
            self._rejected.add(product.asin)
            return f"This lacks {lacking[0]}. Go back", f"click[{PREVIOUS}]"
        return f"This has {', '.join(self._missing(product)) or 'all'}. Go back", f"click[{PREVIOUS}]"

    def _chosen(self) -> str:
        return f"Chosen: {', '.join(self._state.options.values()) or 'nothing'}"

    # ---- what is known ---------------------------------------------------------------------------------------------

    def _looks_right(self, product: Product) -> bool:
        """By what the results page shows, and what was found out before."""
        if product.asin in self._rejected or product.pricing[-1] > self._goal.price_upper:
            return False
        some = len(self._missing(product)) < len(self._goal.attributes) or not self._goal.attributes
        return product.query == self._goal.query and some

    def _missing(self, product: Product) -> list[str]:
        """The wanted attributes that the title does not say."""
        title = product.title.lower()
        return [attribute for attribute in self._goal.attributes if attribute not in title]

    def _value(self, product: Product, name: str | None, wanted: str) -> str | None:
        """The value of the product that does for a wanted option."""
        values = [value for own, values in product.options.items() if name in (None, own) for value in values]
        fitting = [value for value in values if meets_option(value, name, wanted)]
        return max(fitting, key=lambda value: (value == wanted, similarity(value, wanted)), default=None)


def _last(product: Product, name: str | None) -> str:
    """What stands last on the page among the values that an option could have had."""
    values = [value for own, values in product.options.items() if name in (None, own) for value in values]
    return values[-1] if values else "nothing"


def _queries(goal: Goal) -> list[str]:
    """From all that is wanted to the bare type, and at last the instruction itself."""
    attributes, options = " ".join(goal.attributes), " ".join(value for _, value in goal.options)
    queries = [f"{attributes} {goal.query} {options}", f"{attributes} {goal.query}", goal.query, goal.instruction]
    return [query.replace("[", " ").replace("]", " ").strip() for query in queries if analyze(query)]
