"""Records that lack a field or have it with another type: one error that names the file, the line and the field."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from empg.errors import UserError
from empg.record.errors import RunFolderError
from empg.record.fields import fault_of, finite, finite_ones, is_number
from empg.record.loading import load
from empg.record.runfolder import RunFolder
from empg.record.statistics import compare, shared_splits
from empg.report.page import render_page
from empg.report.svg import draw_curve
from tests.record.made_runs import eval_record

MakeRun = Callable[..., RunFolder]
RATE = {"n": 1, "successes": 1, "success": 1.0, "low": 0.2, "high": 1.0}
WHOLE = "expected a whole number from 0 to 2147483647"


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "1", True, 2**63, 10**400])
def test_what_is_not_a_number_of_a_table_counts_as_missing(value: object) -> None:
    assert (is_number(value), finite(value)) == (False, None)


def test_a_number_is_read_as_a_float() -> None:
    assert is_number(1)
    assert repr(finite(1)) == "1.0"
    assert finite_ones([1, None, 0.5, math.nan, True]) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"seed": 0}, "'kind': expected a string, got no value"),
        ({"kind": []}, "'kind': expected a string, got []"),
        ({"kind": "train"}, f"'iteration': {WHOLE}, got no value"),
        ({"kind": "train", "iteration": "3"}, f"'iteration': {WHOLE}, got '3'"),
        ({"kind": "train", "iteration": True}, f"'iteration': {WHOLE}, got True"),
        ({"kind": "train", "iteration": 10**30}, f"'iteration': {WHOLE}, got 1000000000000000000000000000000"),
        ({"kind": "train", "iteration": 1, "alarms": "x"}, "'alarms': expected a list of strings, got 'x'"),
        ({"kind": "train", "iteration": 1, "time/total": "1"}, "'time/total': expected seconds or null, got '1'"),
        ({"kind": "train", "iteration": 1, "time/total": 1e308}, "'time/total': expected seconds or null, got 1e+308"),
        (
            {"kind": "train", "iteration": 1, "rollout/success": 2},
            "'rollout/success': expected a number from 0 to 1, or null, got 2",
        ),
        (eval_record(1, success=1e300), "'success': expected a number from 0 to 1, got 1e+300"),
        ({"kind": "train", "iteration": 1, "policy/new": [1]}, "'policy/new': expected a number or null, got [1]"),
        ({"kind": "warm_start", "step": None}, f"'step': {WHOLE}, got None"),
        (eval_record(1, success=None), "'success': expected a number from 0 to 1, got None"),
        (eval_record(1, temperature="1"), "'temperature': expected a number, got '1'"),
        (eval_record(1, by_type=[]), "'by_type': expected an object, got []"),
        (eval_record(1, by_type={"pick": 1}), "'by_type.pick': expected an object, got 1"),
        (eval_record(1, by_type={"pick": {**RATE, "n": -1}}), f"'by_type.pick.n': {WHOLE}, got -1"),
        ({"kind": "resume", "iteration": -1}, f"'iteration': {WHOLE}, got -1"),
    ],
)
def test_the_fault_of_a_record_names_the_field(record: dict[str, Any], fault: str) -> None:
    assert fault_of(record) == fault


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "run"},
        {"kind": "train", "iteration": 0, "policy/loss": None, "alarms": []},
        {"kind": "of a later version", "seconds": "a while"},
        eval_record(0, temperature=0, by_type={"pick": RATE}),
        {"kind": "warm_start", "step": 0, "loss": None},
    ],
)
def test_what_readers_can_do_without_may_be_missing(record: dict[str, Any]) -> None:
    assert fault_of(record) == ""


def test_a_fault_is_short_and_its_control_characters_are_escaped() -> None:
    fault = fault_of({"kind": "train", "iteration": "\x1b\n" * 10_000})
    assert len(fault) < 200
    assert fault.isprintable()


def test_the_error_names_the_file_and_the_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", "seed: 0\n")
    run.metrics_path.write_bytes(b'{"kind":"run"}\n\n{"kind":"train"}\n')
    with pytest.raises(RunFolderError) as caught:
        run.read_metrics()
    wanted = f"{run.metrics_path} line 3: 'iteration': {WHOLE}, got no value. Fix or delete the line"
    assert str(caught.value) == wanted


READERS: dict[str, Callable[[RunFolder, RunFolder, Path], object]] = {
    "report": lambda run, whole, out: render_page(run),
    "figure": lambda run, whole, out: draw_curve([run, whole], out),
    "compare": lambda run, whole, out: [compare(run, whole, split) for split in shared_splits(run, whole)],
    "metrics": lambda run, whole, out: load(run).metrics,
    "evaluations": lambda run, whole, out: load(run).evaluations,
    "rewind": lambda run, whole, out: run.rewind(1),
}
BAD = ["missing", "\ud800", {"a": 1}, 10**30]


@pytest.mark.parametrize("reader", [pytest.param(n, marks=[pytest.mark.slow] * (n == "report")) for n in READERS])
def test_no_reader_ends_with_a_traceback(reader: str, make_run: MakeRun, tmp_path: Path) -> None:
    whole = make_run("whole", iterations=2, every=2, keep_episodes=())
    run = make_run("run", iterations=2, every=2, keep_episodes=())
    records = run.read_metrics()
    for changed in _damaged(records):
        run.metrics_path.write_text("".join(json.dumps(record) + "\n" for record in changed))
        with suppress(UserError):
            READERS[reader](run, whole, tmp_path / "figure.svg")


def _damaged(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The records with one field of one record of each kind missing or with another value."""
    for kind in ("run", "warm_start", "train", "eval"):
        place = next(i for i, record in enumerate(records) if record["kind"] == kind)
        fields = [f for f in records[place] if "/" not in f or f in ("rollout/success", "time/total")]
        for field in fields:
            for bad in BAD:
                record = {k: v for k, v in records[place].items() if k != field}
                yield [*records[:place], record | ({} if bad == "missing" else {field: bad}), *records[place + 1 :]]


def test_the_check_of_a_long_run_is_quick(make_run: MakeRun) -> None:
    records = make_run("long", iterations=10, keep_episodes=()).read_metrics() * 15
    trained = [record for record in records if record["kind"] == "train"] * 7
    assert len(trained) >= 1_000
    began = time.process_time()
    assert not any(map(fault_of, trained[:1_000]))
    assert time.process_time() - began < 1
