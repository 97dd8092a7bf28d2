"""What several test folders share: a tiny real policy, made in milliseconds, and the names of test cases."""

from __future__ import annotations

import os
import signal

# nohup ignores SIGHUP, and a script that starts the tests in the background ignores SIGINT. Processes inherit that.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# The same examples in every run, and nothing that depends on how busy the machine is.
settings.register_profile("empg", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("empg")

from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import PolicySection, TinyModel


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: what packs them may write the time of day, and then every process that
    collects the tests has other names."""
    return argname if isinstance(val, bytes) else None


WORDS = [
    f"You arrive at {place} {n}. On the {place} {n}, you see a {thing} {n}. Your task is to: put a {thing} in {place}."
    for place in ("cabinet", "fridge", "desk", "drawer")
    for thing in ("mug", "apple", "book", "pen")
    for n in range(1, 5)
]


@pytest.fixture(scope="session")
def tiny_section() -> PolicySection:
    shape = TinyModel(
        hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=400, max_positions=512
    )
    return PolicySection(model="tiny", tiny=shape, device="cpu")


@pytest.fixture
def policy(tiny_section: PolicySection) -> Policy:
    """A fresh tiny policy with spread-out (not uniform) next-token distributions."""
    return _spread_out(tiny_section)


@pytest.fixture
def cased_policy(tiny_section: PolicySection) -> Policy:
    """The same with a tokenizer that keeps capital letters, for tests of what is told word by word."""
    made = _spread_out(tiny_section)
    made.tokenizer.backend_tokenizer.normalizer = None
    return made


def _spread_out(tiny_section: PolicySection) -> Policy:
    made = load_policy(tiny_section, WORDS, seed=0)
    with torch.no_grad():
        for parameter in made.parameters:
            if parameter.ndim >= 2:
                parameter.mul_(6.0)
    return made
