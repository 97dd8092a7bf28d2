"""What an agent reads: results as a list or as passages, pages, and fixed hints. All of it is bounded, visibly."""

from __future__ import annotations

from collections.abc import Sequence

from empg.environments.deepsearch.actions import CUT, label, page_names
from empg.environments.deepsearch.world import Document

NOTHING = "Nothing found."
NO_PAGE = "There is no such page. Open one of the results, or search."
HINT = "Not understood. Say search[query], open[title] or answer[text]."
PASSAGES_HINT = "Not understood. Say search[query] or answer[text]."
WORD = 20  # characters of a long word: bounds text that has no spaces


def result_list(documents: Sequence[Document], words: int) -> str:
    """One line a result: its number, its title, its name where that is another, and the first `words` words."""
    lines = []
    for number, (document, name) in enumerate(zip(documents, page_names(documents), strict=True), start=1):
        title = label(document.title)
        called = " ".join(part for part in (title, f"({name})" if name != title else "") if part)
        lines.append(f"{number}. {called}: {beginning(document.text, words)}")
    return "\n".join(lines) or NOTHING


def passages(documents: Sequence[Document], words: int) -> str:
    """The results as Search-R1 shows them, each bounded to `words` words."""
    lines = [
        f'Doc {number}(Title: "{label(document.title)}") {beginning(document.text, words)}'
        for number, document in enumerate(documents, start=1)
    ]
    return "\n".join(lines) or NOTHING


def page(document: Document, words: int) -> str:
    """A page: its title and its first `words` words."""
    return f"{label(document.title)}: {beginning(document.text, words)}"


def failed(reason: str) -> str:
    """A search or a page that could not be had; the reason in at most 200 characters."""
    return f"Search failed: {one_line(reason)[:200].rstrip('.')}."


def beginning(text: str, words: int) -> str:
    """The first `words` words (and at most 20 characters for each) on one line, and `...` if there are more."""
    parts = text[: WORD * words].split(maxsplit=words)
    return " ".join(parts[:words]) + (CUT if len(parts) > words or len(text) > WORD * words else "")


def one_line(text: str) -> str:
    """The text with every run of white space made one space."""
    return " ".join(text.split())
