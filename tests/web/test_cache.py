"""Responses on disk: found by their whole key, and ignored where a file is damaged."""

from __future__ import annotations

from pathlib import Path

from empg.web.cache import DiskCache


def test_a_damaged_cache_file_is_ignored(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.put({"a": 1}, "url", "fox", 1)
    assert cache.get("url", "fox", 1) == {"a": 1}
    assert cache.get("url", "fox", 2) is None
    [file] = tmp_path.rglob("*.json")
    for damage in (b"", b"{", b"[]", b"\xff", b'{"key": ["other"], "value": 1}', b"[" * 100_000):
        file.write_bytes(damage)
        assert cache.get("url", "fox", 1) is None
