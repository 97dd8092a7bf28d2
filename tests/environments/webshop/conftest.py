"""The hand-written shop, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from shops import small_shop

from empg.environments.webshop.shop import Shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    return small_shop()
