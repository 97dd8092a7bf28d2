"""The settings of requests in a recipe."""

from __future__ import annotations

import subprocess
import sys

import pytest

from empg.web.client import RequestPolicy
from empg.web.options import Judging, Requests


def test_requests_change_what_they_name() -> None:
    usual = RequestPolicy(timeout=60.0, attempts=3)
    assert Requests(timeout=2.0).over(usual) == RequestPolicy(timeout=2.0, attempts=3)
    assert Requests(per_second=5.0, attempts=1).over(usual) == RequestPolicy(timeout=60.0, attempts=1, per_second=5.0)


def test_a_recipe_is_read_without_the_client() -> None:
    program = "import sys, empg.recipe; print([name for name in ('httpx', 'starlette') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_a_time_limit_is_at_most_a_day() -> None:
    assert Requests(timeout=86_400.0).timeout == 86_400.0
    with pytest.raises(ValueError, match="less than or equal to 86400"):
        Requests(timeout=1e10)
    with pytest.raises(ValueError, match="less than or equal to 86400"):
        Judging(url="http://x", model="m", timeout=1e10)


def test_each_description_says_its_own_time_limits() -> None:
    described = {model: str(model.model_fields["timeout"].description) for model in (Requests, Judging)}
    assert ["judge" in text for text in described.values()] == [False, False]
    assert described[Judging] == "seconds per attempt; null: 60"
