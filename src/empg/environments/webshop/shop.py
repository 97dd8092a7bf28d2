"""The rules: what `search[...]` and `click[...]` do. One `Shop` is shared by every episode that plays in it."""

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

MAX_COMMAND = 1_000  # characters; a longer one is not understood
_COMMAND = re.compile(r"(.+)\[(.+)\]")
_COMMAND_WITH_BRACKETS = re.compile(r"([^\[]+)\[(.+)\]")


@dataclass(frozen=True, slots=True)
class ShopRules:
    """Where this shop may differ from the original; the defaults do not.

    Attributes:
        results_per_page: products on a results page.
        show_chosen_options: mark chosen values in `text` mode; the original does not show them there at all.
        stop_at_last_page: no `Next >` where nothing follows; the original goes on to empty pages without end.
        reach_bracketed_values: let `click[...]` name a value that holds a bracket, or is the word "search"; the
            original cannot.
    """

    results_per_page: int = 10
    show_chosen_options: bool = False
    stop_at_last_page: bool = False
    reach_bracketed_values: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.results_per_page <= HITS:
            raise UserError(f"results_per_page={self.results_per_page}: from 1 to {HITS}")


def parse_command(action: str, *, reach: bool) -> tuple[str, str]:
    """The name and the (lower-case) argument of a command; two empty strings if it is none.

    `reach` is `ShopRules.reach_bracketed_values`. Without it the last bracket that opens is the one that counts, and
    `click[search]` is no command, whatever the page shows: as in the original.
    """
    pattern = _COMMAND_WITH_BRACKETS if reach else _COMMAND
    match = pattern.match(action) if len(action) <= MAX_COMMAND else None
    name, argument = (match.group(1), match.group(2).lower()) if match else ("", "")
    return ("", "") if (name, argument) == ("click", "search") and not reach else (name, argument)


class Shop:
    """A catalogue that can be walked through.

    `nouns` names the rule by which the reward finds nouns. `identity` is a fingerprint of what every goal's difficulty
    depends on: the catalogue, the rules, the nouns.
    """

    def __init__(self, catalogue: Catalogue, find_nouns: NounFinder, rules: ShopRules) -> None:
        self.catalogue, self.rules, self.find_nouns, self.nouns = catalogue, rules, find_nouns, rule_of(find_nouns)
        content = json.dumps([catalogue.fingerprint, asdict(rules), self.nouns])
        self.identity = hashlib.sha256(content.encode()).hexdigest()[:8]
        self._nouns = lru_cache(65_536)(find_nouns)
        self._search = lru_cache(SEARCHES_KEPT)(catalogue.index.find)
        self._goal = lru_cache(GOALS_KEPT)(self._make_goal)

    def goal(self, kind: GoalKind, number: int) -> Goal:
        """The goal at a position of the shuffled table."""
        return self._goal(kind, number)

    # ---- moving ----------------------------------------------------------------------------------------------------

    def parse(self, action: str) -> tuple[str, str]:
        """See `parse_command`."""
        return parse_command(action, reach=self.rules.reach_bracketed_values)

    def clicks(self, nodes: Sequence[Node]) -> list[str]:
        """The commands that click something on a page, in its order; white space is squeezed, as in a parsed turn."""
        found = pages.clickables(nodes)
        arguments = dict.fromkeys(squeeze(name) for name in found)
        return [
            f"click[{argument}]"
            for argument in arguments
            if self.parse(f"click[{argument}]") == ("click", argument) and self._named(found, argument) is not None
        ]

    def step(self, state: State, goal: Goal, action: str) -> bool:
        """Act. False if nothing came of it: no command, or nothing on this page goes by that name."""
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
        """What an argument names, and its name on the page; None if nothing can be clicked by it.

        Turns are read with white space squeezed, while pages have it as the data does ("white  |  grey", a no-break
        space): a name in full comes first, then the first that differs in white space only.
        """
        squeezed = squeeze(argument)
        alike = (name for name in clickables if squeeze(name) == squeezed)
        name = next((name for name in (argument, squeezed) if name in clickables), None) or next(alike, None)
        if name is None or (name == "search" and clickables[name].kind is not Kind.OPTION):
            return None  # the search bar is for words
        return name, clickables[name]

    def _click(self, state: State, name: str, node: Node) -> None:
        # By name before kind, as the original: an option value "features" opens the features.
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

    # ---- looking ---------------------------------------------------------------------------------------------------

    def nodes(self, state: State, goal: Goal) -> list[Node]:
        """The page in view."""
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
        """The product in view."""
        assert state.row is not None, f"no product is in view on the {state.page.value} page"
        return self.catalogue.products(state.row)

    def results(self, state: State, goal: Goal) -> Results:
        """The results page that was last looked at."""
        hits = self.find(state.keywords, f"{goal.task_id}/{state.draw}")
        size = self.rules.results_per_page
        shown = [self.catalogue.products(int(row)) for row in hits[(state.number - 1) * size : state.number * size]]
        has_next = not self.rules.stop_at_last_page or state.number * size < len(hits)
        return Results(shown, state.number, len(hits), has_next)

    def find(self, keywords: Sequence[str], seed: str) -> Rows:
        """The rows that keywords find, best first.

        A first word of `<r>` finds 50 at random (drawn from `seed`); `<c>`, `<q>` and `<a>` find every product of the
        category, query or attribute that follows, in the catalogue's order; anything else is searched for.
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

    # ---- the end ---------------------------------------------------------------------------------------------------

    def score(self, state: State, goal: Goal) -> Score:
        """What buying the product in view, with the options chosen so far, is worth."""
        assert state.row is not None
        product = self.product(state)
        price = float(self.catalogue.prices[state.row])
        nouns, wanted = self._nouns(product.title), self._nouns(goal.title)
        return score_purchase(product, price, state.options.values(), goal, nouns, wanted)

    def _make_goal(self, kind: GoalKind, number: int) -> Goal:
        table = self.catalogue.goals[kind]
        row = int(table.row[number])
        price = float(self.catalogue.prices[row])
        return make_goal(self.catalogue.products(row), price, kind, int(table.choice[number]))


def squeeze(text: str) -> str:
    """The words of a text, one blank between them."""
    return " ".join(text.split())


_SUB_PAGES = {name.lower(): name for name in pages.SUB_PAGES}
