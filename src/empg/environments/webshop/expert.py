"""The shopping expert. It is given the goal and some hidden facts, and gives a one-line thought for each action.

It uses the goal's product type, price bound, attributes and options like the reward does. It opens pages like the
agent, but it judges products by more than an agent can read there:

- On a results page it knows the product type of each result (`Product.query`). It takes no product of another type.
- Of a price that is shown as a range, it knows the price in it that the reward uses.
- On a sub page it applies the rule of the reward. This rule uses the hidden attributes of the product and all of its
  text, whichever sub page is open.

Titles and option values are those of the pages. Its thoughts give the reason of the action: the chosen options,
and the wanted and the seen value side by side, like those of the household expert.
"""

from __future__ import annotations

from empg.environments.analysis import analyze
from empg.environments.base import Decision, Info
from empg.environments.webshop.pages import BACK, BUY, NEXT, PREVIOUS
from empg.environments.webshop.reward import meets_attribute, meets_option, similarity
from empg.environments.webshop.shop import Shop
from empg.environments.webshop.world import Goal, Page, Product, State

_MAX_PAGES = 3  # results pages read per query


class ShoppingExpert:
    """Plays one episode for `goal`. It reads `state`, which the environment updates."""

    satisfied = False  # a purchase ends the episode

    def __init__(self, shop: Shop, goal: Goal, state: State) -> None:
        self._shop, self._goal, self._state = shop, goal, state
        self._rejected: set[str] = set()  # asins of opened products that do not fit
        self._read: set[str] = set()  # asins whose features were read
        self._queries = _queries(goal)
        self._searches = 0  # number of queries sent

    def act(self, observation: str, info: Info) -> Decision:
        """Return the next thought and command."""
        page = self._state.page
        if page is Page.INDEX:
            thought, action = self._search()
        elif page is Page.RESULTS:
            thought, action = self._choose_result()
        elif page is Page.ITEM:
            thought, action = self._handle_item()
        elif page is Page.SUB:
            thought, action = self._check_features()
        else:
            thought, action = "Done", f"click[{BACK}]"
        return Decision(thought=f"{thought}.", action=action)

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Buy the current product with the options chosen so far."""
        if self._state.page is not Page.ITEM:
            return None
        return Decision(thought=f"{self._chosen()}. Buy.", action=f"click[{BUY}]")

    # ---- actions ---------------------------------------------------------------------------------------------------

    def _search(self) -> tuple[str, str]:
        """Send the next query. The first one has all wanted words; later ones have fewer."""
        query = self._queries[min(self._searches, len(self._queries) - 1)]
        self._searches += 1
        return "Search", f"search[{query}]"

    def _choose_result(self) -> tuple[str, str]:
        """Click the best result with a fitting title and price; otherwise go to the next page or query."""
        results = self._shop.results(self._state, self._goal)
        fitting = [product for product in results.products if self._looks_right(product)]
        if fitting:
            # If the title contains all wanted attributes, the features need not be read.
            best = min(fitting, key=lambda product: len(self._missing(product)))
            return "This fits", f"click[{best.asin}]"
        seen = self._state.number * self._shop.rules.results_per_page
        if seen < results.total and self._state.number < _MAX_PAGES:
            return "None fits. Look on", f"click[{NEXT}]"
        thought, action = self._search()
        return f"None fits. {thought}", action

    def _handle_item(self) -> tuple[str, str]:
        """On an item page, go back, choose the next option, read the features, or buy."""
        product, done = self._shop.product(self._state), self._chosen()
        if not self._looks_right(product):
            self._rejected.add(product.asin)
            return "This lacks something. Go back", f"click[{PREVIOUS}]"
        for name, asked in self._goal.options:
            fitting = _fitting_values(product, name, asked)
            value = next(filter(self._can_choose, fitting), None)
            if value is None:
                self._rejected.add(product.asin)
                why = "cannot choose it" if fitting else f"see {_last_value(product, name)}"
                return f"{done}. I want {asked} and {why}", f"click[{PREVIOUS}]"
            if value not in self._state.options.values():
                return f"{done}. I want {asked} and see {value}", f"click[{value}]"
        missing = self._missing(product)
        if missing and product.asin not in self._read:
            return f"{done}. Has it {missing[0]}? Read the features", "click[Features]"
        return f"{done}. Buy", f"click[{BUY}]"

    def _check_features(self) -> tuple[str, str]:
        """On a sub page, check the wanted attributes by the rule of the reward, and go back."""
        product = self._shop.product(self._state)
        self._read.add(product.asin)
        lacking = [attribute for attribute in self._goal.attributes if not meets_attribute(product, attribute)]
        if lacking:
            self._rejected.add(product.asin)
            return f"This lacks {lacking[0]}. Go back", f"click[{PREVIOUS}]"
        return f"This has {', '.join(self._missing(product)) or 'all'}. Go back", f"click[{PREVIOUS}]"

    def _chosen(self) -> str:
        return f"Chosen: {', '.join(self._state.options.values()) or 'nothing'}"

    # ---- checks ----------------------------------------------------------------------------------------------------

    def _looks_right(self, product: Product) -> bool:
        """Return whether a product may fit, judged by its title, price and hidden type and by earlier rejections."""
        if product.asin in self._rejected or product.query != self._goal.query:
            return False
        if self._price(product) > self._goal.price_upper:
            return False
        # The title of a generated product has at least one of the attributes that a goal made from it asks for, so
        # a title without any is passed over. An official title need not have one, so there the features decide.
        wanted = len(self._goal.attributes)
        return not wanted or len(self._missing(product)) < wanted or not self._shop.catalogue.generated

    def _price(self, product: Product) -> float:
        """Return the price that the reward uses, which lies within the range of a price tag."""
        row = self._shop.catalogue.row(product.asin)
        assert row is not None
        return float(self._shop.catalogue.prices[row])

    def _missing(self, product: Product) -> list[str]:
        """Return the wanted attributes that are not in the title."""
        title = product.title.lower()
        return [attribute for attribute in self._goal.attributes if attribute not in title]

    def _can_choose(self, value: str) -> bool:
        """Return whether a click chooses a value. Brackets prevent it, and a value may have the name of a button."""
        tried = self._state.clone()
        return self._shop.step(tried, self._goal, f"click[{value}]") and value in tried.options.values()


def _fitting_values(product: Product, name: str | None, wanted: str) -> list[str]:
    """Return the product's values that fit a wanted option, the best one first."""
    values = [value for own, values in product.options.items() if name in (None, own) for value in values]
    fitting = [value for value in values if meets_option(value, name, wanted)]
    return sorted(fitting, key=lambda value: (value == wanted, similarity(value, wanted)), reverse=True)


def _last_value(product: Product, name: str | None) -> str:
    """Return the last value on the page among the candidate values of an option."""
    values = [value for own, values in product.options.items() if name in (None, own) for value in values]
    return values[-1] if values else "nothing"


def _queries(goal: Goal) -> list[str]:
    """Return the queries in order: all wanted words first, then fewer, finally the instruction itself."""
    attributes, options = " ".join(goal.attributes), " ".join(value for _, value in goal.options)
    queries = [f"{attributes} {goal.query} {options}", f"{attributes} {goal.query}", goal.query, goal.instruction]
    return [query.replace("[", " ").replace("]", " ").strip() for query in queries if analyze(query)]
