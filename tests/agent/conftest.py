"""These conversations have capital letters, so the tests use a tokenizer that keeps them."""

from __future__ import annotations

import pytest

from empg.policy.model import Policy


@pytest.fixture
def policy(cased_policy: Policy) -> Policy:
    return cased_policy
