"""The rules of `search[...]` and `click[...]`. All episodes in a shop share one `Shop` object."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from empg.environments.webshop import pages
from empg.environments.webshop.catalogue import Catalogue
from empg.environments.webshop.goals import GoalKind, make_goal
from empg.environments.webshop.nouns import NounFinder, rule_of
from empg.environments.webshop.pages import Kind, Node, Results
from empg.environments.webshop.reward import Score, score_purchase
from empg.environments.webshop.world import HITS, Goal, Page, Product, State
from empg.errors import UserError

SEARCHES_KEPT = 8_192
GOALS_KEPT = 4_096
Rows = Sequence[int] | npt.NDArray[np.int32]

MAX_COMMAND = 1_000  # characters; a longer command is invalid
_COMMAND = re.compile(r"(.+)\[(.+)\]")
_COMMAND_WITH_BRACKETS = re.compile(r"([^\[]+)\[(.+)\]")


@dataclass(frozen=True, slots=True)
class ShopRules:
    """Options that deviate from the original; the defaults do not.

    Attributes:
        results_per_page: products per results page.
        show_chosen_options: mark chosen values in `text` mode; the original does not mark them in this mode.
        stop_at_last_page: hide `Next >` on the last page; the original continues with empty pages without end.
        reach_bracketed_values: allow `click[...]` on a value that contains a bracket or is the word "search"; the
            original does not.
    """

    results_per_page: int = 10
    show_chosen_options: bool = False
    stop_at_last_page: bool = False
    reach_bracketed_values: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.results_per_page <= HITS:
            raise UserError(f"results_per_page={self.results_per_page}: expected 1 to {HITS}")


def parse_command(action: str, *, reach: bool) -> tuple[str, str]:
    """Parse a command into its name and its lower-case argument. Return two empty strings if it is not a command.

    `reach` is `ShopRules.reach_bracketed_values`. Without it, as in the original, the argument starts at the last
    opening bracket, and `click[search]` is never a command.
    """
    pattern = _COMMAND_WITH_BRACKETS if reach else _COMMAND
    match = pattern.match(action) if len(action) <= MAX_COMMAND else None
    name, argument = (match.group(1), match.group(2).lower()) if match else ("", "")
    return ("", "") if (name, argument) == ("click", "search") and not reach else (name, argument)


class Shop:
    """A catalogue with the rules of navigation and purchase.

    `nouns` is the name of the reward's noun rule. `identity` is a fingerprint of everything on which the difficulty of
    a goal depends: the catalogue, the rules and the noun rule.
    """

    def __init__(self, catalogue: Catalogue, find_nouns: NounFinder, rules: ShopRules) -> None:
        self.catalogue, self.rules, self.find_nouns, self.nouns = catalogue, rules, find_nouns, rule_of(find_nouns)
        content = json.dumps([catalogue.fingerprint, asdict(rules), self.nouns])
        self.identity = hashlib.sha256(content.encode()).hexdigest()[:8]
        self._nouns = lru_cache(65_536)(find_nouns)
        self._search = lru_cache(SEARCHES_KEPT)(catalogue.index.find)
        self._goal = lru_cache(GOALS_KEPT)(self._make_goal)

    def goal(self, kind: GoalKind, number: int) -> Goal:
        """Return the goal at a position of the shuffled table."""
        return self._goal(kind, number)

    # ---- commands --------------------------------------------------------------------------------------------------

    def parse(self, action: str) -> tuple[str, str]:
        """Parse a command under the rules of this shop; see `parse_command`."""
        return parse_command(action, reach=self.rules.reach_bracketed_values)

    def clicks(self, nodes: Sequence[Node]) -> list[str]:
        """Return the valid click commands of a page, in page order, with white space squeezed as in a parsed turn."""
        found = pages.clickables(nodes)
        arguments = dict.fromkeys(squeeze(name) for name in found)
        return [
            f"click[{argument}]"
            for argument in arguments
            if self.parse(f"click[{argument}]") == ("click", argument) and self._named(found, argument) is not None
        ]

    def step(self, state: State, goal: Goal, action: str) -> bool:
        """Apply a command to `state`. Return False if it is not a command or its argument is not on this page."""
        state.steps += 1
        name, argument = self.parse(action)
        if name == "search" and argument:
            self._show_results(state, tuple(argument.split(" ")), 1)
            return True
        found = self._named(pages.clickables(self.nodes(state, goal)), argument) if name == "click" else None
        if found is None:
            return False
        self._click(state, *found)
        return True

    @staticmethod
    def _named(clickables: dict[str, Node], argument: str) -> tuple[str, Node] | None:
        """Return the element that an argument names and its name on the page, or None if there is none.

        White space is squeezed in parsed turns but not on pages ("white  |  grey", no-break spaces). An exact match
        takes precedence over the first match that differs only in white space.
        """
        squeezed = squeeze(argument)
        alike = (name for name in clickables if squeeze(name) == squeezed)
        name = next((name for name in (argument, squeezed) if name in clickables), None) or next(alike, None)
        if name is None or (name == "search" and clickables[name].kind is not Kind.OPTION):
            return None  # the button of the search bar cannot be clicked
        return name, clickables[name]

    def _click(self, state: State, name: str, node: Node) -> None:
        # The name takes precedence over the kind, as in the original: an option value "features" opens the features.
        if name == pages.BUY.lower():
            state.page = Page.DONE
        elif name == pages.BACK.lower():
            state.page, state.keywords, state.number, state.row = Page.INDEX, (), 1, None
            state.options, state.visited = {}, set()
        elif name == pages.NEXT.lower() and state.page is Page.RESULTS:
            self._show_results(state, state.keywords, state.number + 1)
        elif name == pages.PREVIOUS.lower() and state.page is Page.RESULTS:
            self._show_results(state, state.keywords, state.number - 1)
        elif name == pages.PREVIOUS.lower() and state.page is Page.ITEM:
            self._show_results(state, state.keywords, state.number)
        elif name in _SUB_PAGES:
            state.page, state.sub = Page.SUB, _SUB_PAGES[name]
        else:
            state.page = Page.ITEM
            if node.kind is Kind.PRODUCT:
                state.row = self.catalogue.row(node.text)
                state.visited.add(node.text)
            elif node.kind is Kind.OPTION:
                state.options[node.name.lower()] = node.text

    def _show_results(self, state: State, keywords: tuple[str, ...], number: int) -> None:
        state.page, state.keywords, state.number = Page.RESULTS, keywords, number
        state.row, state.options, state.draw = None, {}, state.steps

    # ---- pages -----------------------------------------------------------------------------------------------------

    def nodes(self, state: State, goal: Goal) -> list[Node]:
        """Return the current page."""
        if state.page is Page.INDEX:
            return pages.index_page(goal.instruction)
        if state.page is Page.RESULTS:
            return pages.results_page(goal.instruction, self.results(state, goal))
        product = self.product(state)
        if state.page is Page.ITEM:
            return pages.item_page(goal.instruction, product)
        if state.page is Page.SUB:
            return pages.sub_page(goal.instruction, product, state.sub)
        return pages.done_page(product.asin, state.options, self.score(state, goal).reward)

    def product(self, state: State) -> Product:
        """Return the current product."""
        assert state.row is not None, f"the {state.page.value} page has no product"
        return self.catalogue.product(state.row)

    def results(self, state: State, goal: Goal) -> Results:
        """Return the last results page."""
        hits = self.find(state.keywords, f"{goal.task_id}/{state.draw}")
        size = self.rules.results_per_page
        shown = [self.catalogue.product(int(row)) for row in hits[(state.number - 1) * size : state.number * size]]
        has_next = not self.rules.stop_at_last_page or state.number * size < len(hits)
        return Results(shown, state.number, len(hits), has_next)

    def find(self, keywords: Sequence[str], seed: str) -> Rows:
        """Return the catalogue rows for keywords, best first.

        The prefix `<r>` selects 50 random products (drawn from `seed`). `<c>`, `<q>` and `<a>` select all products of
        the category, query or attribute that follows, in catalogue order. All other keywords are a text search.
        """
        first, rest = keywords[0], keywords[1:]
        groups = self.catalogue.groups
        if first == "<r>":
            count = len(self.catalogue)
            return random.Random(f"webshop random/{seed}").sample(range(count), min(HITS, count))
        if first == "<c>":
            return groups["category"].find(rest[0].strip() if rest else "")  # the original reads one word
        if first in ("<q>", "<a>"):
            return groups["query" if first == "<q>" else "attribute"].find(" ".join(rest).strip())
        return self._search(" ".join(keywords))

    # ---- purchase --------------------------------------------------------------------------------------------------

    def score(self, state: State, goal: Goal) -> Score:
        """Score the purchase of the current product with the options chosen so far."""
        assert state.row is not None
        product = self.product(state)
        price = float(self.catalogue.prices[state.row])
        nouns, wanted = self._nouns(product.title), self._nouns(goal.title)
        return score_purchase(product, price, state.options.values(), goal, nouns, wanted)

    def _make_goal(self, kind: GoalKind, number: int) -> Goal:
        table = self.catalogue.goals[kind]
        row = int(table.row[number])
        price = float(self.catalogue.prices[row])
        return make_goal(self.catalogue.product(row), price, kind, int(table.choice[number]))


def squeeze(text: str) -> str:
    """Return the words of a text separated by single spaces."""
    return " ".join(text.split())


_SUB_PAGES = {name.lower(): name for name in pages.SUB_PAGES}
