"""The wheel, and virtual environments that it is installed in. Made once per session."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[2]
UNREACHABLE = ("NewConnectionError", "Failed to fetch", "dns error", "ConnectTimeout", "operation timed out")


class Run(Protocol):
    """Runs a command without this checkout on Python's path.

    It returns what the command printed: standard output, or standard error if another exit code than 0 is expected.
    """

    def __call__(self, command: Sequence[str | Path], folder: Path, code: int = 0) -> str: ...


@pytest.fixture(scope="session")
def run() -> Run:
    def run(command: Sequence[str | Path], folder: Path, code: int = 0) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        if done.returncode != code:
            if any(sign in done.stderr for sign in UNREACHABLE):
                pytest.skip(f"the package index is unreachable: {done.stderr.strip().splitlines()[-1][:200]}")
            pytest.fail(f"{command[0]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stderr if code else done.stdout

    return run


@pytest.fixture(scope="session")
def wheel(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the backend that the lock brought."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder], ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a new environment with the torch of this one and the given requirements."""

    def make(*requirements: str) -> Path:
        folder = tmp_path_factory.mktemp("environment") / "venv"
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        torch = metadata.version("torch").split("+")[0]
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        uv: list[str | Path] = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
        run([*pip, f"torch=={torch}"], folder)
        run([*uv, *requirements], folder)
        return folder / "bin"

    return make
