"""Two fingerprints are equal as long as the files of a model are."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.file_download
import pytest

from empg.errors import UserError
from empg.policy.fingerprint import fingerprint
from empg.policy.model import Policy

NAMES = ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors")


def test_every_file_that_is_loaded_counts(policy: Policy, tmp_path: Path) -> None:
    policy.save(tmp_path / "model")
    before = fingerprint(str(tmp_path / "model"))
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("A model.")
    assert fingerprint(str(tmp_path / "copy")) == before
    found = {before}
    for name in NAMES:
        shutil.copytree(tmp_path / "model", tmp_path / name)
        content = bytearray((tmp_path / name / name).read_bytes())
        content[-1] ^= 1
        (tmp_path / name / name).write_bytes(content)
        found.add(fingerprint(str(tmp_path / name)))
    assert len(found) == 1 + len(NAMES)


@pytest.mark.parametrize("place", [0, 8, 9_000, 40_000_000, 80_000_000 - 1])
def test_large_weights_are_covered_from_their_header_to_their_end(tmp_path: Path, place: int) -> None:
    file = tmp_path / "model-00001-of-00002.safetensors"
    with file.open("wb") as stream:
        stream.write((10_000).to_bytes(8, "little"))
        stream.truncate(80_000_000)  # without blocks on the disk
    before = fingerprint(str(tmp_path))
    changed = range(place, min(place + 2_000_000, 80_000_000))  # any two MB overlap one of the chunks
    with file.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\x01" * len(changed))
    assert fingerprint(str(tmp_path)) != before


def test_another_size_is_another_model(tmp_path: Path) -> None:
    found = set()
    for size in (80_000_000, 80_000_001):
        with (tmp_path / "model.safetensors").open("wb") as stream:
            stream.truncate(size)
        found.add(fingerprint(str(tmp_path)))
    assert len(found) == 2


def test_a_name_is_identified_by_its_commit_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit, repository = "0123456789abcdef0123456789abcdef01234567", tmp_path / "models--lab--toy"
    assert fingerprint("lab/toy") is None
    for file, content in (("refs/main", commit), (f"snapshots/{commit}/config.json", "{}")):
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        (repository / file).write_text(content)
    assert fingerprint("lab/toy") == commit


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "", "\0", "openai:http://h/v1#m"])
def test_other_names_have_none(name: str) -> None:
    assert fingerprint(name) is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")

    def refuse(self: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"^policy\.model=.*: cannot read .*config\.json: Permission denied$"):
        fingerprint(str(tmp_path))
