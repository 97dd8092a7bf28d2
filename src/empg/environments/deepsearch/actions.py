"""What an agent may say: `search[query]`, `open[title, id or address]`, `answer[text]`; and what pages are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from empg.environments.base import ANSWER, SEARCH
from empg.environments.deepsearch.world import Document

MAX_TEXT = 500  # characters between the brackets
MAX_LABEL = 200  # characters of a title, an id or an address, wherever it is shown
CUT = "..."
_FORM = re.compile(r"\s*(search|open|answer)\s*\[(.*)\]\s*", re.IGNORECASE | re.DOTALL)

Verb = Literal["search", "open", "answer"]


@dataclass(frozen=True, slots=True)
class Command:
    """A verb and the text between its brackets: on one line, not empty."""

    verb: Verb
    text: str


def parse_command(action: str) -> Command | None:
    """Read a command; None if it is none, is over-long, or is one of the placeholders."""
    match = _FORM.fullmatch(action) if len(action) <= MAX_TEXT + 100 else None
    if match is None:
        return None
    verb, text = match[1].lower(), " ".join(match[2].split())
    if not 0 < len(text) <= MAX_TEXT or f"{verb}[{text}]" in (SEARCH, ANSWER):
        return None
    return Command(verb, text)  # type: ignore[arg-type]  # the pattern names the verbs


def page_names(listed: Sequence[Document]) -> list[str]:
    """What `open[...]` calls each of the pages that a search listed; "" for one that has no name at all.

    A page of the web goes by its address, any other by its title. Passages of one title, and those without any, go by
    their ids. All are shown, and understood, as `label` has them.
    """
    titles = Counter(folded(label(document.title)) for document in listed)
    names = []
    for document in listed:
        title = label(document.title)
        by_id = is_address(document.id) or not title or titles[folded(title)] > 1
        names.append((label(document.id) if by_id else "") or title)
    return names


def open_command(name: str) -> str:
    """How a page of that name is opened."""
    return f"open[{name}]"


def label(text: str) -> str:
    """A title, an id or an address as it is shown within a line: at most `MAX_LABEL` characters, then `...`.

    Whatever a server, a provider or a corpus holds there, it can neither begin a line of its own nor fill a context.
    """
    line = " ".join(text.split())
    return line if len(line) <= MAX_LABEL else line[:MAX_LABEL].rstrip() + CUT


def folded(name: str) -> str:
    """A title without regard to case and spaces."""
    return " ".join(name.split()).casefold()


def is_address(name: str) -> bool:
    """Whether a page's id is an address of the web."""
    return name.startswith(("http://", "https://"))
