"""The settings of requests in a recipe."""

from __future__ import annotations

import subprocess
import sys

from empg.web.client import RequestPolicy
from empg.web.options import Requests


def test_requests_change_what_they_name() -> None:
    usual = RequestPolicy(timeout=60.0, attempts=3)
    assert Requests(timeout=2.0).over(usual) == RequestPolicy(timeout=2.0, attempts=3)
    assert Requests(per_second=5.0, attempts=1).over(usual) == RequestPolicy(timeout=60.0, attempts=1, per_second=5.0)


def test_a_recipe_is_read_without_the_client() -> None:
    program = "import sys, empg.recipe; print([name for name in ('httpx', 'starlette') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
