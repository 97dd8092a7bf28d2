"""Where the cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from empg.errors import UserError
from empg.system.cache import cache_folder


def test_it_is_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/empg")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_folder() == Path("/home/ada/.cache/empg")


def test_a_user_without_a_home_folder_must_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(cls: type[Path]) -> Path:  # as `Path.home` without HOME, for a user id that has no name
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(homeless))
    with pytest.raises(UserError, match=r"^the cache folder is unknown: .* Set XDG_CACHE_HOME$"):
        cache_folder()
