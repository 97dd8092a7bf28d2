"""What an agent may say: `search[query]`, `open[title or address]`, `answer[text]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from empg.environments.base import ANSWER, SEARCH
from empg.environments.deepsearch.world import Document

MAX_TEXT = 500  # characters between the brackets
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


def open_command(document: Document) -> str:
    """How a listed page is opened: a page of the web by its address, any other by its title."""
    return f"open[{page_name(document)}]"


def page_name(document: Document) -> str:
    """What `open[...]` calls a page."""
    return document.id if is_address(document.id) else " ".join(document.title.split())


def folded(name: str) -> str:
    """A title without regard to case and spaces."""
    return " ".join(name.split()).casefold()


def is_address(name: str) -> bool:
    """Whether a page's id is an address of the web."""
    return name.startswith(("http://", "https://"))
