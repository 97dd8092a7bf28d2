"""Text that can be encoded, whatever a model, a file or another machine wrote."""

from __future__ import annotations


def clean_text(text: str) -> str:
    """Replace lone surrogates, which JSON can contain, by question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
