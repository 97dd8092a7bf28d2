"""The observations of the agent: result lists, passages, pages and fixed hints. Cuts are always marked."""

from __future__ import annotations

from collections.abc import Sequence

from empg.environments.deepsearch.actions import CUT, label, page_names
from empg.environments.deepsearch.world import Document

NOTHING = "Nothing found."
NO_PAGE = "There is no such page. Open one of the results, or search."
HINT = "Not understood. Say search[query], open[title] or answer[text]."
PASSAGES_HINT = "Not understood. Say search[query] or answer[text]."
WORD = 20  # characters counted per word; bounds text without spaces


def result_list(documents: Sequence[Document], words: int) -> str:
    """Render one line per result: number, title, name (if it differs from the title), and the first `words` words."""
    lines = []
    for number, (document, name) in enumerate(zip(documents, page_names(documents), strict=True), start=1):
        title = label(document.title)
        called = " ".join(part for part in (title, f"({name})" if name != title else "") if part)
        lines.append(f"{number}. {called}: {beginning(document.text, words)}")
    return "\n".join(lines) or NOTHING


def passages(documents: Sequence[Document], words: int) -> str:
    """Render the results in Search-R1's format, each cut to `words` words."""
    lines = [
        f'Doc {number}(Title: "{label(document.title)}") {beginning(document.text, words)}'
        for number, document in enumerate(documents, start=1)
    ]
    return "\n".join(lines) or NOTHING


def page(document: Document, words: int) -> str:
    """Render a page: its title and its first `words` words."""
    return f"{label(document.title)}: {beginning(document.text, words)}"


def failed(reason: str) -> str:
    """Render a failed search or page request, with at most 200 characters of the reason."""
    return f"Search failed: {one_line(reason)[:200].rstrip('.')}."


def beginning(text: str, words: int) -> str:
    """Return the first `words` words (at most 20 characters per word) on one line, and `...` if there are more."""
    parts = text[: WORD * words].split(maxsplit=words)
    return " ".join(parts[:words]) + (CUT if len(parts) > words or len(text) > WORD * words else "")


def one_line(text: str) -> str:
    """Replace every run of white space by one space."""
    return " ".join(text.split())
