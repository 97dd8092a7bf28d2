"""The wheel, and virtual environments that it is installed in. Made once per session."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNREACHABLE = ("NewConnectionError", "Failed to fetch", "dns error", "ConnectTimeout", "operation timed out")


def run(command: Sequence[str | Path], folder: Path, accept: int = 0) -> str:
    """Run a command without this checkout on Python's path; returns what it printed, on standard error if it failed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    if done.returncode != accept:
        if any(sign in done.stderr for sign in UNREACHABLE):
            pytest.skip(f"the package index is unreachable: {done.stderr.strip().splitlines()[-1][:200]}")
        pytest.fail(f"{command[0]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stderr if accept else done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the backend that the lock brought."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder], ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a new environment with the torch of this one and the given requirements."""

    def make(*requirements: str) -> Path:
        folder = tmp_path_factory.mktemp("environment") / "venv"
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        torch = metadata.version("torch").split("+")[0]
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, f"torch=={torch}"], folder)
        run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *requirements], folder)
        return folder / "bin"

    return make
