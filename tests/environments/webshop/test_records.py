"""Official files: the cleaning rules, malformed records, damaged and missing files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments import jsonstream
from empg.environments.jsonstream import stream_items, stream_members
from empg.environments.webshop import WebShopEnv, indexing
from empg.environments.webshop import env as env_module
from empg.environments.webshop.indexing import open_official
from empg.environments.webshop.keyed_store import KeyedStore
from empg.environments.webshop.nouns import lexicon_nouns
from empg.environments.webshop.records import LoadReport, clean, find_files, read_products
from empg.environments.webshop.world import Product
from tests.environments.webshop.shops import EXTRAS, HUMAN, RECORDS, record, values, write_official


def cleaned(record: Any, extras: dict[str, Any] | None = None) -> tuple[list[Product], LoadReport]:
    report = LoadReport()
    return list(clean([record], extras or {}, {}, report)), report


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        ("$65.99", (65.99,), "$65.99"),
        ("$20.00", (20.0,), "$20.0"),
        ("$20.00$35.50", (20.0, 35.5), "$20.0 to $35.5"),
        ("$1,299.00", (1299.0,), "$1299.0"),
        ("$1.00$2.00$3.00", (1.0, 2.0), "$1.0 to $2.0"),
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
    ],
)
def test_prices(pricing: str | None, prices: tuple[float, ...], tag: str) -> None:
    (product,), _ = cleaned(record("B1", "Mug", pricing=pricing))
    assert (product.pricing, product.price_tag) == (prices, tag)


def test_options_query_and_texts() -> None:
    (product,), _ = cleaned(
        record(
            "B1",
            "Red Mug",
            query="  Coffee Mugs ",
            small_description="one text",
            customization_options={"Color Name": values(" White/Grey ", "RED"), "Gone": None, "Void": []},
        )
    )
    assert product.options == {"color name": ("white | grey", "red"), "void": ()}
    assert (product.query, product.title, product.bullets) == ("coffee mugs", "Red Mug", ("one text",))
    assert product.attributes == ("DUMMY_ATTR",)


def test_unusable_and_repeated_asins_are_skipped_as_in_the_original() -> None:
    report = LoadReport()
    asins = ("nan", "B0123456789", "B1", "B1", "B2")
    kept = list(clean([record(asin, "Mug") for asin in asins], {}, {}, report))
    assert [product.asin for product in kept] == ["B1", "B2"]
    assert (report.kept, report.unusable, report.duplicates) == (2, 2, 1)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("not an object", "record must be an object"),
        ({"asin": "B1"}, "small_description is missing"),
        ({**record("B1", "Mug"), "name": None}, "name must be a string"),
        ({"asin": "B1", "small_description": None}, "name must be a string"),
        ({**record("B1", "Mug"), "asin": None}, "asin must be a string"),
        (record("B1", "Mug", full_description=5), "full_description must be a string"),
        (record("B1", "Mug", small_description=5), "small_description must be a list of strings"),
        *(
            (record(asin, "Mug"), "asin must consist of ASCII letters and digits")
            for asin in (
                "Buy Now",
                "Reviews",
                "features",
                "Search",
                "< Prev",
                "AB\0",
                "\ud800x",
                "B[1]",
                "B 1",
                "é",
                "B²",
            )
        ),
        (record("B1", "Mug", pricing="free"), "pricing must contain a price"),
        (record("B1", "Mug", pricing="$1.2.3"), "pricing must contain a price"),
        (record("B1", "Mug", pricing=5), "pricing must be a string"),
        (
            record("B1", "Mug", customization_options={"Color": "red"}),
            "each option in customization_options must be a list",
        ),
        (record("B1", "Mug", customization_options={"Color": [{"price": 1}]}), "value must be a string"),
        (record("B1", "Mug", customization_options=["red"]), "customization_options must be an object"),
    ],
)
def test_malformed_records_are_counted_with_a_reason(broken: Any, reason: str) -> None:
    report = LoadReport()
    kept = list(clean([record("B0", "Mug"), broken, record("B9", "Pot")], {}, {}, report))
    assert [product.asin for product in kept] == ["B0", "B9"]
    ((found, count),) = report.skipped.counts.items()
    assert reason in found
    assert count == 1
    assert report.summary() == f"2 products; 1 malformed ({found}; first: record 1)"


def test_null_values_become_the_text_none_as_in_the_original() -> None:
    (product,), _ = cleaned(record("B1", "Mug", full_description=None, small_description=None))
    assert (product.description, product.bullets) == ("None", ("None",))
    (product,), _ = cleaned(record("B1", "Mug", small_description=["one", None]))
    assert product.bullets == ("one", "None")


@pytest.mark.parametrize("spoilt", [
    {"instruction_options": None}, {"instruction_attributes": None}, {"instruction": 5}, "text", None,
])  # fmt: skip
def test_a_malformed_instruction_is_skipped_without_its_product(spoilt: Any) -> None:
    report = LoadReport()
    good = HUMAN["B000TABLE1"][0]
    bad = {**good, **spoilt} if isinstance(spoilt, dict) else spoilt
    (product,) = clean([record("B1", "Mug")], {}, {"B1": [good, bad, good]}, report)
    assert [asked.text for asked in product.human] == [good["instruction"]] * 2
    assert report.summary() == "1 products; 1 malformed human instructions skipped"
    assert not report.is_clean
    assert next(clean([record("B1", "Mug")], {}, {"B1": "not a list"}, report)).human == ()


def test_malformed_attribute_entries_are_counted() -> None:
    _, report = cleaned(record("B1", "Mug"), {"B1": {"attributes": [1]}})
    assert report.skipped.counts == {"attributes must be a list of strings": 1}
    _, report = cleaned(record("B1", "Mug"), {"B1": {"attributes": [], "instruction": "x"}})
    assert report.skipped.counts == {"instruction must have text and attributes": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(RECORDS[0])), json_values), json_values, json_values)
def test_no_record_stops_the_loading(fields: dict[str, Any], extra: Any, human: Any) -> None:
    report = LoadReport()
    hostile = {**record("B1", "Mug"), **fields}
    asin = hostile["asin"] if isinstance(hostile["asin"], str) else "B1"
    kept = list(clean([hostile, record("B2", "Pot")], {asin: extra}, {asin: human}, report))
    assert kept[-1].asin == "B2" or hostile["asin"] == "B2"
    assert report.kept + report.unusable + report.duplicates + sum(report.skipped.counts.values()) == 2


def test_files_are_found_by_folder_or_by_path(tmp_path: Path) -> None:
    products = write_official(tmp_path / "one")
    assert find_files(tmp_path / "one") == find_files(products)
    assert find_files(products).attributes.name == "items_ins_v2_1000.json"
    write_official(tmp_path / "one", suffix="")
    with pytest.raises(ValueError, match=r"got items_shuffle\.json, items_shuffle_1000\.json\. Pass the path of one"):
        find_files(tmp_path / "one")
    assert find_files(tmp_path / "one" / "items_shuffle.json").attributes.name == "items_ins_v2.json"


def test_the_error_for_a_missing_file_explains_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"items_shuffle\*\.json not found; .* Download: see .* docs/webshop\.md"
    ):
        find_files(tmp_path)
    products = write_official(tmp_path)
    (tmp_path / "items_human_ins.json").unlink()
    assert find_files(products).human is None
    (tmp_path / "items_ins_v2_1000.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"items_ins_v2_1000\.json"):
        find_files(products)


def test_the_error_for_missing_human_instructions_names_the_file(tmp_path: Path) -> None:
    products = write_official(tmp_path)
    (tmp_path / "items_human_ins.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/items_human_ins\.json .* docs/webshop\.md$"):
        WebShopEnv(data=products, human_goals=True)


def test_the_error_for_a_file_without_usable_records_lists_the_reasons(tmp_path: Path) -> None:
    products = write_official(tmp_path, ["junk", record("nan", "Mug"), record("Buy Now", "Mug")])
    with pytest.raises(
        ValueError,
        match=r"items_shuffle_1000\.json: no usable product found: 0 products; 1 without a "
        r"usable asin skipped; 1 malformed \(asin .*; first: record 2\); "
        r"1 malformed \(record must be an object; first: record 0\)",
    ):
        open_official(products)  # fmt: skip
    assert not list(tmp_path.glob("empg-index*"))


def test_an_indexed_folder_has_all_its_products(tmp_path: Path) -> None:
    open_official(write_official(tmp_path / "data"), cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    with pytest.raises(ValueError, match=rf"^products=3: {folder} is already indexed with all its products"):
        WebShopEnv(data=folder, products=3)


def test_the_error_for_a_damaged_indexed_folder_does_not_say_to_delete_it(tmp_path: Path) -> None:
    products = write_official(tmp_path / "data")
    open_official(products, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    file = folder / "catalogue.json"
    file.write_text(file.read_text()[:-9])
    with pytest.raises(ValueError, match=rf"^{file} is damaged: .*Write or copy {folder} again, or set data to the of"):
        WebShopEnv(data=folder)
    with pytest.raises(ValueError, match=rf"^{file} is damaged: .*Delete the folder {folder} to build it again$"):
        open_official(products, cache=tmp_path / "cache")


def test_the_keyed_store_looks_values_up_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "members.json"
    path.write_text('{"B2": {"é": [1, null]}, "B1": "one", "no number": 0, "B1": "last", "toolongtobe1": 2}')
    progress: list[int] = []
    with KeyedStore(path, lambda key: key.isalnum() and len(key) < 5, 4, progress.append) as store:
        keys = ("B1", "B2", "B", "B11", "B3", "A")
        assert [store.get(key) for key in keys] == ["last", {"é": [1, None]}, None, None, None, None]
    assert progress[-1] == path.stat().st_size
    path.write_text("{}")
    with KeyedStore(path, str.isalnum, 4) as store:
        assert store.get("B1") is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_a_full_disk_of_temporary_files_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("w+b"))  # noqa: SIM115
    for count in (1, 10_000):  # the disk is found full at the end, or before
        path = tmp_path / "members.json"
        path.write_text(json.dumps({f"B{number}": "value" for number in range(count)}))
        with pytest.raises(ValueError, match=r"^cannot write a temporary file: No space left on device\. .* TMPDIR"):
            KeyedStore(path, str.isalnum, 9)


def test_indexing_reports_every_file_and_stage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    products = write_official(tmp_path)
    stages: dict[str, tuple[int, list[int]]] = {}

    def stage(name: str, total: int | None) -> Callable[[int], None]:
        stages[name] = (total or 0, [])
        return stages[name][1].append

    assert len(list(read_products(find_files(products), LoadReport(), stage=stage))) == len(RECORDS)
    for path in tmp_path.iterdir():
        total, progress = stages[path.name]
        assert total == progress[-1] == path.stat().st_size
    open_official(products)
    shown = capfd.readouterr().err
    names = ("items_ins_v2_1000.json", "items_human_ins.json", "items_shuffle_1000.json", "goals", "search index")
    assert all(name in shown for name in names)
    assert len(re.findall(r"(\d+)/\1 ", shown)) >= len(names)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from shops import small_products\n"
        "from empg.environments.webshop import indexing\n"
        "from empg.environments.webshop.catalogue import fill_catalogue\n"
        "def write(folder, stage):\n"
        "    print('writes', flush=True)\n"
        "    time.sleep(float(sys.argv[2]))\n"
        "    fill_catalogue(small_products(), folder)\n"
        "print(len(indexing._indexed(Path(sys.argv[1]) / 'shop', write)))\n"
    )

    def start(seconds: float) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(seconds)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent,
        )  # fmt: skip

    killed = start(60)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "writes\n"
    waiting = [start(0), start(0)]
    for process in waiting:
        assert process.stderr is not None
        assert any("Another process is indexing" in line for line in process.stderr)
    assert not any(process.poll() for process in waiting)
    killed.kill()
    killed.communicate()
    outputs = [process.communicate(timeout=30) for process in waiting]
    assert sorted(out for out, _ in outputs) == ["7\n", "writes\n7\n"]
    assert [path.name for path in tmp_path.iterdir() if "-" not in path.name] == ["shop"]


def test_a_large_generated_shop_is_indexed_once_and_scores_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = WebShopEnv("train", products=150, seed=8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(indexing, "IN_MEMORY", 100)
    monkeypatch.setattr(env_module, "noun_finder", lambda rule, generated: lexicon_nouns if generated else str.split)
    env_module._generated_catalogue.cache_clear()
    mapped = WebShopEnv("train", products=150, seed=8)
    env_module._generated_catalogue.cache_clear()
    assert isinstance(mapped.shop.catalogue.prices, np.memmap)
    (folder,) = (tmp_path / "empg").iterdir()
    written = (folder / "catalogue.json").stat().st_mtime_ns
    assert indexing.open_generated(150, 8).fingerprint == in_memory.shop.catalogue.fingerprint
    assert (folder / "catalogue.json").stat().st_mtime_ns == written
    assert [mapped.task_id(task) for task in range(mapped.num_tasks)] == [
        in_memory.task_id(task) for task in range(in_memory.num_tasks)
    ]
    assert WebShopEnv("train", data=folder).shop.nouns == "lexicon"


def test_the_limit_counts_records(tmp_path: Path) -> None:
    files = find_files(write_official(tmp_path, ["junk", *RECORDS]))
    report = LoadReport()
    assert [p.asin for p in read_products(files, report)] == [r["asin"] for r in RECORDS]
    assert sum(report.skipped.counts.values()) == 1
    assert [p.asin for p in read_products(files, LoadReport(), limit=3)] == [r["asin"] for r in RECORDS[:2]]
    assert len(EXTRAS) == 7
    assert set(HUMAN) <= set(EXTRAS)


def test_malformed_records_are_logged_once_when_indexing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    products = write_official(tmp_path, ["junk", *RECORDS])
    open_official(products)
    assert "7 products; 1 malformed (record must be an object; first: record 0)" in caplog.text
    caplog.clear()
    assert len(open_official(products)) == 7
    assert not caplog.text


def test_a_byte_order_mark_is_skipped_in_every_file(tmp_path: Path) -> None:
    plain, marked = write_official(tmp_path / "plain"), write_official(tmp_path / "marked")
    for file in marked.parent.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert open_official(marked, people=True).fingerprint == open_official(plain, people=True).fingerprint


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_the_streaming_readers_agree_with_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(jsonstream, "_CHUNK", chunk)
    items = [{"a": [1, ']}\\"', {"é": None}]}, "x", [], {"b": 2.5}, 12345678, -1.25e-3, True, None, 7]
    path = tmp_path / "file.json"
    for text in (json.dumps(items), json.dumps(items, indent=2), "\n".join(map(json.dumps, items)) + "\n"):
        for mark in ("", "\ufeff"):
            path.write_text(mark + text, encoding="utf-8")
            assert list(stream_items(path)) == items
    members = {"one": 1001, "two": {"x": [1, 2]}, "three": "}"}
    path.write_text(json.dumps(members, indent=1), encoding="utf-8")
    assert dict(stream_members(path)) == members


def test_the_error_for_a_truncated_or_damaged_file_gives_the_position(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for text, where in (
        ('[{"a": 1}, {"b": 2}', "the file is truncated after item 2"),
        ('[{"a": 1}, {"b": ', "after value 1"),
        ('[{"a": 1}, oops, {"b": 2}]', "after value 1"),
        ('[{"a": 1}]\n[{"a": 2}]', "the file continues after its array, which ends after value 1"),
        ('[{"a": 1}],', "the file continues after its array"),
        ("[] xx", "the file continues after its array, which ends after value 0"),
        ('{"a": 1}\n]\n{"a": 2}', "the file is not valid JSON after value 1"),
        (f"[1, {'9' * 5_000}, {'2, ' * 500_000}3]", "an integer of more than 4,300 digits after value 1"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"file.json.*{where}"):
            list(stream_items(path))
    for text, where in (
        ('{"a": 1, "b"', "after value 3"),
        ('{"a": 1', "the file is truncated after value 2"),
        ("[1]", "the file must be a JSON object"),
        ('{"a": 1}}{"b": 2}', "the file continues after its object, which ends after value 2"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=where):
            list(stream_members(path))
    for cut in (b"[1, 2, \xff]", b'[1, 2, "\xc3', b'[1, 2, "\xe2\x82"]'):
        path.write_bytes(cut)
        with pytest.raises(
            ValueError, match=r"^.*file\.json: the file is not UTF-8 after value \d; download it again$"
        ):
            list(stream_items(path))
    record = b'{"a": 1}\n'
    for start, end in ((b"", b'{"a": "\xff"}\n'), (b"[", b'{"a": "\xff"}]'), (b"\xef\xbb\xbf[", b"\xff")):
        path.write_bytes(start + 5_000 * record + end)
        with pytest.raises(ValueError, match="not UTF-8 after value 5000;"):
            list(stream_items(path))
    path.write_bytes(b"[1]\n\xff")
    with pytest.raises(ValueError, match="not UTF-8 after value 1;"):
        list(stream_items(path))
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="the file is not valid JSON after value 0"):
        list(stream_items(path))
