"""A fixture with the hand-written shop, built once."""

from __future__ import annotations

import pytest

from empg.environments.webshop.shop import Shop
from tests.environments.webshop.shops import small_shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    return small_shop()
