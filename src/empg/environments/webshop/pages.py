"""The pages of the shop as text, and their clickable elements.

A page is a list of `Node`s, one per piece of visible text of the original's HTML. The mode `text` joins them with
" [SEP] "; the mode `text_rich` writes one per line and marks clickable ones. Both are identical to the original.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from empg.environments.webshop.world import Product, State

SEPARATOR = " [SEP] "
SUB_PAGES = ("Description", "Features", "Reviews")
BACK, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
BUTTONS = frozenset(name.lower() for name in ("Search", BACK, PREVIOUS, NEXT, BUY, *SUB_PAGES))
_HTML_SPACE = " \t\n\f\r"


class Kind(str, Enum):
    """The role of a piece of text on its page."""

    TEXT = "text"
    BUTTON = "button"
    PRODUCT = "product"  # the asin of a result, a link
    OPTION = "option"  # a value that can be chosen


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of visible text. For the value of an option, `name` is the option's name."""

    kind: Kind
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """One page of search results: its products, its page number, and the total number of results."""

    products: Sequence[Product]
    number: int
    total: int
    has_next: bool = True


def _text(*texts: str) -> list[Node]:
    return [Node(Kind.TEXT, text) for text in texts]


def _buttons(*texts: str) -> list[Node]:
    return [Node(Kind.BUTTON, text) for text in texts]


def index_page(instruction: str) -> list[Node]:
    """Return the page with the search bar."""
    return [*_text("WebShop", "Instruction: ", instruction), *_buttons("Search")]


def results_page(instruction: str, results: Results) -> list[Node]:
    """Return a page of search results."""
    nodes = [*_text("Instruction:", instruction), *_buttons(BACK)]
    nodes += _text(f"Page {results.number} (Total results: {results.total})")
    nodes += _buttons(*([PREVIOUS] if results.number > 1 else []), *([NEXT] if results.has_next else []))
    for product in results.products:
        nodes.append(Node(Kind.PRODUCT, product.asin))
        nodes += _text(product.title, product.price_tag)
    return nodes


def item_page(instruction: str, product: Product) -> list[Node]:
    """Return the page of a product with its options."""
    nodes = [*_text("Instruction:", instruction), *_buttons(BACK, PREVIOUS)]
    for name, values in product.options.items():
        nodes += _text(name)
        nodes += [Node(Kind.OPTION, value, name) for value in values]
    nodes += _text(product.title, f"Price: {product.price_tag}", "Rating: N.A.")
    return [*nodes, *_buttons(*SUB_PAGES, BUY)]


def sub_page(instruction: str, product: Product, name: str) -> list[Node]:
    """Return the description, the features or the (always empty) reviews of a product."""
    nodes = [*_text("Instruction:", instruction), *_buttons(BACK, PREVIOUS)]
    if name == "Description":
        nodes += _text(product.description)
    elif name == "Features":
        nodes += _text(*(f" {bullet}" for bullet in product.bullets))
    return nodes


def done_page(asin: str, options: dict[str, str], reward: float) -> list[Node]:
    """Return the page after a purchase. The original also shows the text of hidden fields, most of them empty."""
    chosen = json.dumps(options, sort_keys=True)
    for character in "<>&'":  # escaped like Flask's tojson
        chosen = chosen.replace(character, f"\\u{ord(character):04x}")
    return _text(
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *("Purchased", "asin", asin, "options", chosen, "attrs", "None", "category", "None", "query", "None"),
        *("product category", "None", "Target", "asin", "options", "attrs", "price upper", "instuction text"),
        *("category", "product category", "query", "Goal ", "None", "Reward"),
        *("Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None"),
    )


def as_text(nodes: Sequence[Node], chosen: dict[str, str] | None = None) -> str:
    """Render the `text` mode. `chosen` options (by name) are marked; the original never marks them in this mode."""
    marked = (chosen or {}).items()
    return SEPARATOR.join(
        f"[clicked] {node.text.strip()}" if (node.name, node.text) in marked else node.text.strip()
        for node in _visible(nodes)
    )


def as_rich_text(nodes: Sequence[Node], state: State) -> str:
    """Render the `text_rich` mode: one piece per line; buttons, visited products and chosen options are marked."""
    address = f"{'+'.join(state.keywords)}/{json.dumps(state.options)}"
    head, body = "", []
    for node in _visible(nodes):
        if node.kind is Kind.BUTTON:
            line = f"[button] {node.text} [button_]"
        elif node.kind is Kind.OPTION:
            # The original searches for the quoted value in the page's URL, which contains the options and keywords.
            clicked = f'"{node.text}"' in address
            word = "clicked button" if clicked else "button"
            line = f"  [{word}] {node.text} [{word}_]"
            if clicked:
                head = f"You have clicked {node.text}.\n{head}"
        elif node.kind is Kind.PRODUCT:
            word = "clicked button" if node.text in state.visited else "button"
            line = f"\n[{word}] {node.text} [{word}_]"
        else:
            line = node.text
        body.append(f"{line}\n")
    return head + "".join(body)


def clickables(nodes: Sequence[Node]) -> dict[str, Node]:
    """Map each lower-case argument of `click[...]` to its node, in the original's order: buttons, products, options.

    Equal values of several options share one entry, which belongs to the last option.
    """
    found = {node.text.lower(): node for node in nodes if node.kind is Kind.BUTTON}
    found |= {node.text.lower(): node for node in nodes if node.kind is Kind.PRODUCT}
    for node in nodes:
        if node.kind is Kind.OPTION:
            found[node.text] = node
    return found


def _visible(nodes: Sequence[Node]) -> list[Node]:
    """Return the pieces that an HTML parser reports.

    Empty text and white space with a line break are dropped; other white space becomes one space.
    """
    seen = []
    for node in nodes:
        if node.text.strip(_HTML_SPACE):
            seen.append(node)
        elif node.text and "\n" not in node.text:
            seen.append(Node(node.kind, " ", node.name))
    return seen
