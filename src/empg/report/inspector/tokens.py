"""What token ids say, by the tokenizer that the run saved, if it can be read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from empg.record.runfolder import RunFolder

_MAX_BYTES = 200_000_000  # of a tokenizer file


def tokenizer_path(run: RunFolder) -> Path:
    """Return where a run keeps the tokenizer of its policy."""
    return run.start / "tokenizer.json"


class TokenTexts:
    """Texts of single tokens. Without the package `tokenizers`, or without its file, a token is shown by its id."""

    def __init__(self, run: RunFolder) -> None:
        self._tokenizer: Any = None
        self._known: dict[int, str] = {}
        file = tokenizer_path(run)
        try:
            from tokenizers import Tokenizer

            if file.stat().st_size <= _MAX_BYTES:
                self._tokenizer = Tokenizer.from_file(str(file))
        except Exception:  # the library raises bare exceptions; the page then shows ids
            self._tokenizer = None

    def text(self, token: int) -> str:
        """Return the text of a token, or `#` and its id."""
        if token not in self._known:
            self._known[token] = self._decode(token)
        return self._known[token]

    def _decode(self, token: int) -> str:
        if self._tokenizer is None:
            return f"#{token} "
        try:
            text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        except Exception:  # an id that the tokenizer does not have
            return f"#{token} "
        return text or f"#{token} "
