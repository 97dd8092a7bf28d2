"""`make setup`, with the downloads left out: an environment that does not work is made again, errors name the cause."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
WITHOUT_DOWNLOADS = ["PIP=pip", "UV=", "TORCH=pip", "install=true"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads."""
    folder = tmp_path / "with a space"
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "PYTHON", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={sys.executable}", *WITHOUT_DOWNLOADS, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def works(folder: Path) -> bool:
    python = folder / ".venv" / "bin" / "python"
    if not python.exists():
        return False
    return subprocess.run([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL).returncode == 0


def test_a_second_setup_has_nothing_to_do_until_a_version_changes(checkout: Path) -> None:
    first = make(checkout, "setup")
    assert first.returncode == 0, first.stdout
    assert works(checkout)
    assert "nothing to be done" in make(checkout, "setup").stdout.lower()
    for name in ("requirements/dev.txt", "pyproject.toml"):
        later = time.time() + 5
        os.utime(checkout / name, (later, later))
        assert make(checkout, "--question", "setup").returncode == 1, name
        os.utime(checkout / name, (1, 1))


def test_an_environment_that_does_not_work_is_made_again(checkout: Path) -> None:
    def without_python() -> None:
        (checkout / ".venv" / "bin" / "python").unlink()

    def python_was_removed_from_the_system() -> None:
        without_python()
        (checkout / ".venv" / "bin" / "python").symlink_to("/nosuch/python3")

    def interrupted_before_pip() -> None:
        for package in (checkout / ".venv" / "lib").glob("*/site-packages/pip*"):
            shutil.rmtree(package)

    def interrupted_before_the_end() -> None:
        (checkout / ".venv" / ".installed").unlink()

    def an_empty_folder() -> None:
        shutil.rmtree(checkout / ".venv")
        (checkout / ".venv").mkdir()

    assert make(checkout, "setup").returncode == 0
    for damage in (
        without_python,
        python_was_removed_from_the_system,
        interrupted_before_pip,
        interrupted_before_the_end,
        an_empty_folder,
    ):
        damage()
        done = make(checkout, "setup")
        assert done.returncode == 0, f"{damage.__name__}: {done.stdout}"
        assert works(checkout), damage.__name__
        assert (checkout / ".venv" / ".installed").exists(), damage.__name__


def test_a_python_that_does_not_exist_is_named(checkout: Path) -> None:
    done = make(checkout, "setup", "PYTHON=nosuch")
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == (
        "PYTHON=nosuch: command not found. Name Python 3.10 or later: make PYTHON=python3.12"
    )
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_too_old_is_named(checkout: Path) -> None:
    old = checkout / "old python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(checkout, "setup", f"PYTHON={old}")
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == (
        f"PYTHON={old}: expected Python 3.10 or later. Name another: make PYTHON=python3.12"
    )
