"""The other names of answers that 2WikiMultiHopQA distributes in `id_aliases.json`.

Each line is `{"Q_id": "Q183", "aliases": ["Federal Republic of Germany"], "demonyms": ["German"]}`. A question names
its answer by `answer_id`. The evaluation script of the dataset accepts aliases and demonyms, and so do we.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.opened_files import content_key
from empg.environments.deepsearch.record_files import Columns, read_records
from empg.web.text import clean_text

FILE = "id_aliases.json"
_COLUMNS = Columns(frozenset(("q_id",)))
_log = logging.getLogger(__name__)


def aliases_beside(questions: Path) -> Mapping[str, tuple[str, ...]]:
    """Return the names by entity id, from the file of aliases beside a file of questions; empty if there is none.

    Malformed lines are skipped, and counted in one warning.

    Raises:
        UserError: the file cannot be read.
    """
    path = questions.with_name(FILE)
    # Asked for every question, and train, dev and test files stand beside the same file, so it is read once.
    return _read(path, content_key(path)) if path.is_file() else {}


@lru_cache(1)
def _read(path: Path, key: str) -> Mapping[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    skipped = []
    for row, record in read_records(path, _COLUMNS):
        key, found = _entry(record)
        if not key:
            skipped.append(row)
        elif found:
            names[key] = found
    if skipped:
        _log.warning("%s: %d malformed lines skipped (first: row %d)", path, len(skipped), skipped[0])
    return names


def _entry(record: Any) -> tuple[str, tuple[str, ...]]:
    """Return id and names of a line; an empty id if it is malformed."""
    if not isinstance(record, dict) or not isinstance(record.get("Q_id"), str):
        return "", ()
    parts = [record.get("aliases", []), record.get("demonyms", [])]
    if not all(isinstance(part, list) for part in parts):
        return "", ()
    found = [" ".join(clean_text(name).split()) for part in parts for name in part if isinstance(name, str)]
    return record["Q_id"], tuple(dict.fromkeys(name for name in found if name))
