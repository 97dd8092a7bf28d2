"""The hand-written shop, made once."""

from __future__ import annotations

import pytest
from shops import small_shop

from empg.environments.webshop.shop import Shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    return small_shop()
