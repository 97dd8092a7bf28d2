"""The observations of the agent: result lists, passages, pages and fixed hints. Cuts are always marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from empg.environments.deepsearch.actions import CUT, label, page_names
from empg.environments.deepsearch.world import Document, Reading

NOTHING = "Nothing found."
NO_PAGE = "There is no such page. Open one of the results, or search."
NO_NEXT = "There is no next part. Open one of the results, or search."
HINT = "Not understood. Say search[query], open[title] or answer[text]."
HINT_WITH_NEXT = "Not understood. Say search[query], open[title], next or answer[text]."
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


def read(document: Document, part: int, words: int) -> Reading:
    """Return a part of a page, of at most `words` words. Parts count from 1; the page must have this part."""
    texts = list(_parts(document.text, words))
    return Reading(document, texts[part - 1], part, len(texts))


def page(reading: Reading) -> str:
    """Render a part of a page: the title, which part of how many it is if there are several, and the text."""
    several = f" (part {reading.part} of {reading.parts})" if reading.parts > 1 else ""
    return f"{label(reading.page.title)}{several}: {reading.text}{CUT if reading.part < reading.parts else ''}"


def failed(verb: str, reason: str) -> str:
    """Render a failed `search` or `open`, with at most 200 characters of the reason."""
    what = "Search failed" if verb == "search" else "The page cannot be opened"
    return f"{what}: {one_line(reason)[:200].rstrip('.')}."


def beginning(text: str, words: int) -> str:
    """Return the first `words` words (at most 20 characters per word) on one line, and `...` if there are more.

    White space between words counts as one character, however long it is.
    """
    found = text.split(maxsplit=words)
    line = " ".join(found[:words])
    return line[: WORD * words].rstrip() + (CUT if len(found) > words or len(line) > WORD * words else "")


def _parts(text: str, words: int) -> Iterator[str]:
    """Split a text into parts as `beginning` cuts them; there is at least one, and no empty one after it."""
    text, start = one_line(text), 0
    while True:
        window = text[start : start + WORD * words]
        found = window.split(maxsplit=words)
        yield " ".join(found[:words])
        start += len(window) - (len(found[words]) if len(found) > words else 0)
        start += text[start : start + 1] == " "
        if start >= len(text):
            return


def one_line(text: str) -> str:
    """Replace every run of white space by one space."""
    return " ".join(text.split())
