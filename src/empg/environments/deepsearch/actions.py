"""Parse the agent's commands `search[query]`, `open[page]`, `next` and `answer[text]`, and name pages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from empg.environments.base import ANSWER, SEARCH
from empg.environments.deepsearch.world import Document

MAX_TEXT = 500  # characters between the brackets
MAX_ANY_TEXT = 10_000  # where texts of any length are accepted, the rest is cut
NEXT = "next"  # the command that reads on
MAX_LABEL = 200  # characters of a title, an id or an address in observations
CUT = "..."
_FORM = re.compile(r"\s*(search|open|answer)\s*\[(.*)\]\s*", re.IGNORECASE | re.DOTALL)

Verb = Literal["search", "open", "next", "answer"]


@dataclass(frozen=True, slots=True)
class Command:
    """A verb and the text between its brackets, on one line; `next` has no text."""

    verb: Verb
    text: str


def parse_command(action: str, *, any_text: bool = False) -> Command | None:
    """Parse a command. Return None if it is not one, or is one of the placeholders.

    The text must have 1 to `MAX_TEXT` characters. With `any_text`, as in Search-R1, it may also be empty or longer.
    """
    if not any_text and len(action) > MAX_TEXT + 100:
        return None
    if action.strip().lower() == NEXT:
        return Command("next", "")
    match = _FORM.fullmatch(action)
    if match is None:
        return None
    verb, text = match[1].lower(), " ".join(match[2].split())
    if f"{verb}[{text}]" in (SEARCH, ANSWER) or not (any_text or 0 < len(text) <= MAX_TEXT):
        return None
    return Command(verb, text[:MAX_ANY_TEXT])  # type: ignore[arg-type]  # the pattern names the verbs


def page_names(listed: Sequence[Document]) -> list[str]:
    """Return the name of each listed page for `open[...]`; "" for a page without a name.

    A web page is named by its address, any other page by its title. Passages that share a title, and passages without
    one, are named by their ids. All names are shown and accepted in the form that `label` returns.
    """
    titles = Counter(folded(label(document.title)) for document in listed)
    names = []
    for document in listed:
        title = label(document.title)
        by_id = is_address(document.id) or not title or titles[folded(title)] > 1
        names.append((label(document.id) if by_id else "") or title)
    return names


def open_command(name: str) -> str:
    """Return the command that opens the page with this name."""
    return f"open[{name}]"


def label(text: str) -> str:
    """Return a title, an id or an address on one line, cut to `MAX_LABEL` characters and marked with `...`.

    Text from a server, a provider or a corpus can therefore neither start a new line nor fill the context.
    """
    line = " ".join(text.split())
    return line if len(line) <= MAX_LABEL else line[:MAX_LABEL].rstrip() + CUT


def folded(name: str) -> str:
    """Return the form of a title that ignores case and repeated spaces."""
    return " ".join(name.split()).casefold()


def is_address(name: str) -> bool:
    """Return whether a page's id is a web address."""
    return name.startswith(("http://", "https://"))
