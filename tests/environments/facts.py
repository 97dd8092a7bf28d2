"""Real results of Anserini 0.14.3, recorded by scripts/record_anserini.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ANSERINI: dict[str, Any] = json.loads(Path(__file__).with_name("anserini.json").read_text(encoding="utf-8"))
