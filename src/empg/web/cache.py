"""A disk cache for the responses of other machines, shared by all processes.

Each response is one small JSON file, named by the hash of its request. It is written under a temporary name and
renamed, so several processes can share a folder. Nothing expires; delete the folder to clear the cache. Only successful
responses are stored, without API keys. An address that may contain a password is part of a key as its hash only
(`endpoints.server_key`).
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
    """Stores JSON values by JSON keys."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, *key: str | int) -> Any | None:
        """Return the stored value, or None if there is none or its file is damaged."""
        try:
            stored = json.loads(self._file(key).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        # The key is stored as well, so that a file from another source or version is ignored.
        return stored["value"] if isinstance(stored, dict) and stored.get("key") == list(key) else None

    def put(self, value: Any, *key: str | int) -> None:
        """Store a value that is not None. If the folder is not writable, only a warning is logged."""
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
            _log.warning("response not cached, it will be requested again: %s", error)

    def _file(self, key: tuple[str | int, ...]) -> Path:
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.json"
