"""Conversations are told with capital letters, so these tests read them with a tokenizer that keeps them."""

from __future__ import annotations

import pytest

from empg.policy.model import Policy


@pytest.fixture
def policy(cased_policy: Policy) -> Policy:
    return cased_policy
