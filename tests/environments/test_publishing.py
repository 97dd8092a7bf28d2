"""Folders that are built once: complete or absent, whatever stops the process; damage is one line."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from empg.environments.deepsearch.corpus import open_titles
from empg.environments.deepsearch.options import Searching
from empg.environments.deepsearch.retrieval.dense import open_dense
from empg.environments.deepsearch.retrievers import Corpus, open_search
from empg.environments.deepsearch.world import Document
from empg.environments.publishing import build_once, check_folder, fingerprint_files
from empg.environments.webshop import indexing
from empg.environments.webshop.catalogue import fill_catalogue
from empg.environments.webshop.generator import generate
from empg.errors import UserError
from tests.environments.deepsearch.encoders import Hashing


def write(text: str, work: Path) -> None:
    (work / "by").write_text(text)


def test_the_first_folder_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "index"
    build_once(folder, partial(write, "one"))
    build_once(folder, partial(write, "two"))
    assert (folder / "by").read_text() == "one"
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    build_once(tmp_path, partial(write, "one"))
    check_folder(tmp_path)


def test_a_failure_leaves_nothing_but_the_lock(tmp_path: Path) -> None:
    def broken(work: Path) -> None:
        (work / "half").write_text("x")
        raise OSError("broken")

    with pytest.raises(OSError, match=r"^broken$"):
        build_once(tmp_path / "index", broken)
    assert [path.name for path in tmp_path.iterdir()] == [".index.lock"]
    build_once(tmp_path / "index", partial(write, "one"))


KILLED = """
import os, signal, sys
from pathlib import Path
from empg.environments.publishing import build_once
def write(work):
    (work / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
build_once(Path(sys.argv[1]), write, resume=sys.argv[2] == "True")
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path: Path, resume: bool) -> None:
    folder, found = tmp_path / "index", list[str]()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(resume)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()

    def look(work: Path) -> None:
        found.extend(path.name for path in work.iterdir())
        write("two", work)

    build_once(folder, look, resume=resume)
    assert found == (["half"] if resume else [])
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_fingerprints_depend_on_the_files_and_the_version(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text("1")
    before = fingerprint_files(3, file)
    assert fingerprint_files(3, file) == before != fingerprint_files(4, file)
    file.write_text("22")
    assert fingerprint_files(3, file) != before


# ---- a full disk ---------------------------------------------------------------------------------------------------


def fails(error: Exception, work: Path) -> None:
    (work / "half").write_text("x")
    raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("81920 requested and 4096 written"),  # numpy
        ValueError("An IO error occurred: 'No space left on device (os error 28)'"),  # tantivy
        RuntimeError("Error: 'ret == (size)' failed: write error: 0 != 9 (No space left on device)"),  # faiss
    ],
)
def test_a_full_disk_is_one_line_in_every_library_s_words(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(ValueError, match=r"index cannot be written: .*GB are free\. Free disk space") as caught:
        build_once(tmp_path / "index", partial(fails, error))
    assert str(caught.value).endswith("run the command again: indexing starts again")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()
    with pytest.raises(ValueError, match="indexing continues where it stopped"):
        build_once(tmp_path / "index", partial(fails, error), resume=True)


# ---- a folder that cannot be written --------------------------------------------------------------------------------


def test_a_file_in_the_work_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    def write_into_a_folder(work: Path) -> None:
        (work / "by").mkdir()
        write("one", work)

    with pytest.raises(UserError, match=r"index cannot be written: is a directory\. Set cache to a writable folder$"):
        build_once(tmp_path / "index", write_into_a_folder)


def test_a_file_elsewhere_that_cannot_be_read_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    def read(work: Path) -> None:
        (tmp_path / "corpus").read_text()

    with pytest.raises(FileNotFoundError, match="corpus"):
        build_once(tmp_path / "index", read)


def test_a_read_only_disk_is_one_line(small_disk: Callable[[int], Path]) -> None:
    place = small_disk(1 << 16)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    for folder in (place / "index", place / "parent" / "index"):
        with pytest.raises(UserError, match=r"cannot be written: read-only file system\. Set cache to a writable"):
            build_once(folder, partial(write, "one"))


PAGES = [Document(str(row), f"Page {row}", f"word{row} word{row % 97} {'text ' * 9}") for row in range(2_000)]
CORPUS = Corpus(lambda: PAGES, lambda: "0")


def shop(place: Path) -> None:
    indexing._indexed(place / "webshop", lambda work, stage: fill_catalogue(generate(200), work, stage=stage))


BUILDS: dict[str, Callable[[Path], object]] = {
    "bm25": lambda place: open_search(Searching(cache=place), CORPUS),
    "tantivy": lambda place: open_search(Searching(retriever="tantivy", cache=place), CORPUS),
    "dense": lambda place: open_dense(PAGES, "0", Hashing(), place),
    "faiss": lambda place: open_dense(PAGES, "0", Hashing(), place, "HNSW32"),
    "titles": lambda place: open_titles(PAGES, "0", place),
    "webshop": shop,
}


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import
@pytest.mark.parametrize("kind", BUILDS)
def test_a_cache_that_is_a_file_is_one_line(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "cache"
    place.write_text("a note")
    with pytest.raises(UserError, match=r"cannot be written: (file exists|not a directory)\. Set cache to a") as caught:
        BUILDS[kind](place)
    assert "\n" not in str(caught.value)
    assert place.read_text() == "a note"


def complete(place: Path) -> list[str]:
    """The folders that can be opened."""
    found = [path for path in place.iterdir() if not path.name.startswith(".")]
    for folder in found:
        check_folder(folder)
    return sorted(path.name for path in found)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of a number of bytes, which is possible for root only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: int) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("cannot mount a file system here")
        return place

    if sys.platform != "linux" or os.geteuid():
        pytest.skip("only root can mount a file system")
    yield mount
    gc.collect()  # closes what is mapped
    subprocess.run(["umount", str(place)], capture_output=True)


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import
@pytest.mark.parametrize("kind", BUILDS)
def test_a_real_full_disk_is_one_line_and_the_next_run_succeeds(
    kind: str, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    """The disk has 60% of the space that the index needs, and is enlarged after the failure."""
    BUILDS[kind](tmp_path / "whole")
    whole = complete(tmp_path / "whole")
    need = sum(file.stat().st_size for file in (tmp_path / "whole").rglob("*") if file.is_file())
    place = small_disk(need * 6 // 10)
    with pytest.raises(ValueError, match=r"cannot be written: no space left on device, 0\.0 GB are free") as caught:
        BUILDS[kind](place)
    assert "\n" not in str(caught.value)
    assert len(complete(place)) < len(whole)
    subprocess.run(["mount", "-o", f"remount,size={10 * need}", str(place)], check=True)
    BUILDS[kind](place)
    assert complete(place) == whole


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is a limit of POSIX")
@pytest.mark.parametrize("kind", BUILDS)
def test_a_limit_of_the_file_size_is_one_line_and_the_next_run_succeeds(kind: str, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, before[1]))
    try:
        with pytest.raises(ValueError, match="cannot be written: ") as caught:
            BUILDS[kind](tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert complete(tmp_path) == []
    BUILDS[kind](tmp_path)
    assert complete(tmp_path)


# ---- damage --------------------------------------------------------------------------------------------------------


def put(file: Path, content: bytes | None) -> None:
    """Replace a file, or remove it. Truncating a file in place kills a process that has it mapped."""
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)


def damaged(content: bytes) -> Iterator[bytes | None]:
    yield None
    if content:
        yield b""
        yield content[: len(content) // 2]
        yield bytes([content[0] ^ 0xFF]) + content[1:]
        yield content[:-1] + bytes([content[-1] ^ 0xFF])


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
@pytest.mark.parametrize("kind", BUILDS)
def test_every_damaged_file_of_every_index_is_one_line_that_names_it(kind: str, tmp_path: Path) -> None:
    BUILDS[kind](tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"]
    assert files
    for file in files:
        content = file.read_bytes()
        folder = tmp_path / file.relative_to(tmp_path).parts[0]
        for instead in damaged(content):
            put(file, instead)
            with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
                BUILDS[kind](tmp_path)
            message = str(caught.value)
            assert re.search(r" is missing| is damaged", message)
            assert message.endswith(f"Delete the folder {folder} to build it again")
            assert "\n" not in message
        put(file, content)
        BUILDS[kind](tmp_path)


def test_swapped_files_of_equal_size_are_found(tmp_path: Path) -> None:
    BUILDS["titles"](tmp_path)
    [hashes] = tmp_path.glob("titles-*/hashes.npy")
    rows = hashes.with_name("rows.npy")
    assert hashes.stat().st_size == rows.stat().st_size
    swapped = hashes.read_bytes(), rows.read_bytes()
    put(rows, swapped[0])
    put(hashes, swapped[1])
    with pytest.raises(ValueError, match=r"hashes\.npy is damaged: its content has changed\. Delete the folder"):
        BUILDS["titles"](tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("9" * 5_000, "is damaged"),
        ('{"format": 1}', "is damaged"),
        ('{"format": 1, "files": {"by": 3}}', "is damaged"),
        ('{"format": 9, "files": {}}', "unsupported format: expected 1, got 9"),
    ],
)
def test_a_manifest_can_contain_anything(tmp_path: Path, text: str, problem: str) -> None:
    build_once(tmp_path / "index", partial(write, "one"))
    (tmp_path / "index" / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        check_folder(tmp_path / "index")
    assert str(caught.value).endswith(f"Delete the folder {tmp_path / 'index'} to build it again")


def test_a_folder_of_something_else_is_not_an_index(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"manifest\.json is missing, so .* is not a complete index"):
        build_once(tmp_path, partial(write, "one"))
    assert (tmp_path / "thesis.txt").exists()
