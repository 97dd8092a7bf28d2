"""Answers of other machines, kept on disk: asked once, the same ever after, in every process.

One small JSON file an answer, named by the hash of its question, written beside and renamed: several processes may
share a folder. Nothing expires; deleting the folder forgets. Only answers are kept, never failures, and no keys.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class DiskCache:
    """JSON values by JSON keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, *key: str | int) -> Any | None:
        """What was put there; None where nothing was, or where the file is damaged."""
        try:
            stored = json.loads(self._file(key).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        # The key is kept too: a file that another version or hand left there is no answer.
        return stored["value"] if isinstance(stored, dict) and stored.get("key") == list(key) else None

    def put(self, value: Any, *key: str | int) -> None:
        """Keep a value that is not None. A folder that cannot be written is a warning: the answer itself is there."""
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            work = file.parent / f".{secrets.token_hex(8)}"
            try:
                work.write_text(json.dumps({"key": list(key), "value": value}), encoding="utf-8")
                os.replace(work, file)
            except BaseException:
                work.unlink(missing_ok=True)
                raise
        except OSError as error:
            _log.warning("an answer is not kept, and will be asked for again: %s", error)

    def _file(self, key: tuple[str | int, ...]) -> Path:
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.json"
