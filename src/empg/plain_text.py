"""Text of models, environments and files as people may safely read it, on a terminal or a page."""

from __future__ import annotations

import unicodedata

# Controls, formats (of the direction of text, or without width), surrogates, private and unassigned characters, and
# separators of lines and paragraphs.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    """Return a text in which each control character is shown instead of obeyed, e.g. as ⟦U+202E⟧.

    Terminals obey escape codes, and both terminals and browsers reorder text by its bidirectional controls, so that a
    text could look like another one. Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text.replace("\r\n", "\n"))


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) not in _HIDDEN:
        return character
    return f"⟦U+{ord(character):04X}⟧"
