"""The `contents` of Search-R1's corpora and servers: the title, usually in quotes, on the first line; then the text."""

from __future__ import annotations

from empg.environments.deepsearch.world import Document
from empg.web.text import clean_text

MAX_TITLE = 500  # characters; a longer first line belongs to the text


def split_contents(contents: str) -> tuple[str, str]:
    """Split contents into title and text.

    One pair of quotes around the title is removed, because a title may contain quotes itself. A single line is a title
    if it is in quotes, else text without a title.
    """
    first, newline, text = contents.partition("\n")
    title = first.strip()
    quoted = len(title) > 1 and title[0] == title[-1] == '"'
    if len(first) > MAX_TITLE or not (newline or quoted):
        return "", contents
    return title[1:-1] if quoted else title, text


def join_contents(document: Document) -> str:
    """Return the contents of a document, with the title on one line."""
    return clean_text(f'"{" ".join(document.title.splitlines())}"\n{document.text}')
