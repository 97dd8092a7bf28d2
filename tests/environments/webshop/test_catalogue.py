"""The catalogue is written once, mapped by several processes, and identical to the one in memory."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from empg.environments.publishing import build_once
from empg.environments.webshop import catalogue
from empg.environments.webshop.catalogue import (
    Catalogue,
    fill_catalogue,
    make_catalogue,
    open_catalogue,
    write_catalogue,
)
from empg.environments.webshop.generator import generate
from tests.environments.webshop.shops import small_catalogue, small_products


def assert_equal(one: Catalogue, other: Catalogue) -> None:
    assert one.fingerprint == other.fingerprint
    assert [one.product(row) for row in range(len(one))] == [other.product(row) for row in range(len(other))]
    assert np.array_equal(one.prices, other.prices)
    for label, groups in one.groups.items():
        assert groups.names == other.groups[label].names
        for name in groups.names:
            assert groups.find(name).tolist() == other.groups[label].find(name).tolist()
    for kind, table in one.goals.items():
        assert np.array_equal(table.row, other.goals[kind].row)
        assert np.array_equal(table.choice, other.goals[kind].choice)
    for query in ("red", "table stool", "cruelty free", "36 inch"):
        assert one.index.find(query) == other.index.find(query)


def test_the_mapped_catalogue_equals_the_one_in_memory(tmp_path: Path) -> None:
    for name, products in (("hand", small_products()), ("generated", list(generate(300)))):
        stages: list[tuple[str, int, list[int]]] = []

        def stage(name: str, total: int | None, stages: list = stages) -> Callable[[int], None]:
            stages.append((name, total, []))
            return stages[-1][2].append

        build_once(
            tmp_path / name,
            partial(fill_catalogue, iter(products), generated=name == "generated", stage=stage),
        )
        assert stages == [("goals", 1, [1]), ("search index", 1, [1])]
        mapped = open_catalogue(tmp_path / name)
        assert mapped.generated == (name == "generated")
        assert_equal(make_catalogue(products), mapped)
        assert isinstance(mapped.prices, np.memmap)


def test_products_survive_the_round_trip() -> None:
    catalogue = small_catalogue()
    assert [catalogue.product(row) for row in range(len(catalogue))] == small_products()


def test_asins_are_found_in_either_case() -> None:
    catalogue = small_catalogue()
    row = catalogue.row("b000script")
    assert row is not None
    assert catalogue.product(row).asin == "B000SCRIPT"
    assert catalogue.row("B000SCRIPT") == row
    assert catalogue.row("b000") is catalogue.row("zzz") is None


def test_the_price_of_a_range_is_fixed_and_inside_the_range() -> None:
    catalogue = small_catalogue()
    row = catalogue.row("B000TABLE2")
    assert 20 < catalogue.prices[row] < 35.5
    assert catalogue.prices[row] == small_catalogue().prices[row]


def test_a_failed_write_leaves_no_folder(tmp_path: Path) -> None:
    def broken():
        yield from small_products()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_catalogue(broken(), tmp_path / "shop")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    with pytest.raises(ValueError, match="the catalogue is empty"):
        write_catalogue(iter(()), tmp_path / "shop")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    with pytest.raises(FileNotFoundError, match=r"is not a catalogue: catalogue\.json not found"):
        open_catalogue(tmp_path / "shop")


def test_another_format_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FORMAT", 0)
    write_catalogue(iter(small_products()), tmp_path / "shop")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"unsupported format: expected 3, got 0\. Write or copy .*shop again"):
        open_catalogue(tmp_path / "shop")


def test_a_second_writer_keeps_the_first_ones_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_catalogue, args=(small_products(), tmp_path / "shop")) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    assert_equal(open_catalogue(tmp_path / "shop"), small_catalogue())


def test_the_permissions_of_a_folder_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_catalogue(iter(small_products()), tmp_path / "shop")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shop").stat().st_mode) == 0o750
