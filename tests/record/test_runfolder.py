"""The run folder: what is written is read back, and a run that is killed at any time can be resumed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.errors import UserError
from empg.record.errors import RunFolderError
from empg.record.runfolder import RunFolder
from empg.record.tables import EPISODES, EVALUATIONS, TableError
from tests.record.made_runs import eval_record

MakeRun = Callable[..., RunFolder]

TURN: dict[str, list[Any]] = {
    "iteration": [3, 3],
    "episode": [0, 0],
    "group": [0, 0],
    "task_index": [7, 7],
    "task_id": ["t7", "t7"],
    "task_type": ["pick", "pick"],
    "split": ["train", "train"],
    "turn": [0, 1],
}
PLAYED = {"task_id": "t", "task_index": 0, "task_type": "pick", "success": True, "score": 1.0, "turns": 3}


def empty_run(path: Path) -> RunFolder:
    return RunFolder.create(path / "run", "seed: 0\n")


# --- create and open ---------------------------------------------------------------------------------------------


def test_a_created_run_contains_its_recipe_and_can_be_opened(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "b", "name: café\n")
    assert RunFolder.open(run.path).recipe_text() == "name: café\n"
    assert run.read_metrics() == []
    assert run.episode_iterations() == []


def refused(self: Path, *arguments: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied", str(self))


def test_a_folder_that_may_not_be_read_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = empty_run(tmp_path)
    run.write_episodes(3, TURN)
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(RunFolderError, match=r"^cannot read .*run/episodes: Permission denied$"):
        run.episode_iterations()
    monkeypatch.setattr(Path, "is_file", refused)  # the folder of the run itself
    with pytest.raises(RunFolderError, match=r"^cannot read .*run: Permission denied$"):
        RunFolder.open(run.path)


def test_a_second_run_overwrites_the_first_only_with_force(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.append_metrics({"kind": "run"})
    run.write_episodes(3, TURN)
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"already holds a run; use --resume to continue, --force to overwrite"):
        RunFolder.create(run.path, "seed: 1\n")
    assert RunFolder.open(run.path).recipe_text() == "seed: 0\n"
    fresh = RunFolder.create(run.path, "seed: 1\n", force=True)
    assert (fresh.recipe_text(), fresh.read_metrics(), fresh.episode_iterations()) == ("seed: 1\n", [], [])
    assert (run.path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_created_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot create the run folder .*/file/run: Not a directory"):
        RunFolder.create(tmp_path / "file" / "run", "seed: 0\n")
    run = empty_run(tmp_path)
    (run.path / "episodes").touch()
    with pytest.raises(TableError, match=r"cannot write .*iter-000003\.parquet"):
        run.write_episodes(3, TURN)


def test_force_does_not_empty_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(RunFolderError, match="is not empty and is not a run folder"):
        RunFolder.create(tmp_path, "seed: 0\n", force=True)
    assert (tmp_path / "photo.jpg").exists()


def test_force_keeps_the_target_of_a_link(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    elsewhere = tmp_path / "big-disk"
    elsewhere.mkdir()
    (elsewhere / "weights").touch()
    run.checkpoints.symlink_to(elsewhere)
    RunFolder.create(run.path, "seed: 0\n", force=True)
    assert (elsewhere / "weights").exists()


def test_force_removes_only_files_that_a_run_writes(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.write_episodes(3, TURN)
    mine = [run.path / place for place in ("episodes/notes.txt", "checkpoints/best/model", "tensorboard/notes", "x.py")]
    names = ("checkpoints/start/model", "checkpoints/iter-1000000/model", "report.html", "entropy.json", "model.txt")
    ours = [*(run.path / place for place in names), run.evaluation_path(GREEDY), run.played_path(GREEDY)]
    for file in (*mine, *ours):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    RunFolder.create(run.path, "seed: 1\n", force=True)
    assert all(file.exists() for file in mine)
    assert not any(file.exists() for file in ours)
    assert run.episode_iterations() == []


@pytest.mark.parametrize(
    "files",
    [
        {"recipe.yaml": "seed: 0\n"},  # somebody's own recipe, beside which a run is started with --run .
        {"recipe.yaml": "seed: 0\n", "metrics.jsonl": '{"step": 1}\n'},  # another program's
        {"metrics.jsonl": '{"kind":"run"}\n'},
        {".git": ""},
    ],
)
def test_force_does_not_touch_what_only_resembles_a_run(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for force in (True, False):
        with pytest.raises(RunFolderError, match="is not empty and is not a run folder; name another folder"):
            RunFolder.create(tmp_path, "seed: 1\n", force=force)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl"])
def test_a_link_is_not_a_file_of_a_run(tmp_path: Path, name: str) -> None:
    run = empty_run(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (run.path / name).rename(elsewhere)
    (run.path / name).symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.create(run.path, "seed: 1\n", force=True)
    assert elsewhere.read_bytes() == before


def test_what_a_killed_start_left_is_an_empty_folder(tmp_path: Path) -> None:
    for name in (".lock", ".metrics.lock", ".recipe.yaml.partial", "metrics.jsonl"):
        (tmp_path / name).touch()
    assert RunFolder.create(tmp_path, "seed: 0\n").recipe_text() == "seed: 0\n"


HOLD = """
import sys
from empg.record.runfolder import RunFolder
with RunFolder.open(sys.argv[1]).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_holds_a_run_until_it_ends(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=r"run is in use by another empg process; wait until it has ended"), run.hold():
        pass
    run.append_metrics(eval_record(1))  # an evaluation beside it
    holder.kill()
    with run.hold():
        pass
    holder.communicate()


@pytest.mark.parametrize("make", [RunFolder.open, lambda path: RunFolder.create(path, "seed: 0\n")])
def test_a_file_is_not_a_run_folder(tmp_path: Path, make: Callable[[Path], RunFolder]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file"):
        make(tmp_path / "file")


def test_opening_a_folder_that_is_not_a_run_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="does not exist"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"recipe\.yaml is missing"):
        RunFolder.open(tmp_path)


# --- metrics.jsonl -----------------------------------------------------------------------------------------------


def test_one_record_is_one_line(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.append_metrics({"kind": "run", "command": "two\nlines\u2028three"})
    run.append_metrics({"kind": "train", "iteration": 1, "policy/loss": 0.5})
    assert len(run.metrics_path.read_bytes().split(b"\n")) == 3
    assert run.read_metrics()[0]["command"] == "two\nlines\u2028three"


def test_numbers_that_are_not_finite_become_null_and_are_named(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.append_metrics({"kind": "other", "a": math.nan, "b": {"c": [1.0, -math.inf]}, "d": np.float32("inf"), "e": 1})
    assert run.read_metrics() == [
        {"kind": "other", "a": None, "b": {"c": [1.0, None]}, "d": None, "e": 1, "nonfinite": ["a", "b/c/1", "d"]}
    ]
    json.loads(run.metrics_path.read_text(), parse_constant=pytest.fail)


def test_numpy_numbers_are_written_as_numbers(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.append_metrics({"kind": "other", "float": np.float64(0.1), "int": np.int64(3), "flag": np.bool_(True)})
    assert run.read_metrics() == [{"kind": "other", "float": 0.1, "int": 3, "flag": True}]


@settings(max_examples=60)
@given(cut=st.integers(min_value=0, max_value=200))
def test_a_kill_while_a_line_is_written_loses_that_line_only(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    run = empty_run(tmp_path_factory.mktemp("torn"))
    records = [{"kind": "train", "iteration": i, "policy/loss": i / 3} for i in range(1, 5)]
    for record in records:
        run.append_metrics(record)
    whole = run.metrics_path.read_bytes()
    torn = whole[: max(0, len(whole) - cut)]
    run.metrics_path.write_bytes(torn)

    survivors = records[: torn.count(b"\n")]
    is_torn = bool(torn) and not torn.endswith(b"\n")
    skipped = f"metrics.jsonl line {len(survivors) + 1} is incomplete because the run was killed; skipped"
    assert run.read_metrics_and_problems() == (survivors, [skipped] if is_torn else [])
    assert run.read_metrics() == survivors
    run.append_metrics({"kind": "after"})
    assert run.read_metrics_and_problems() == ([*survivors, {"kind": "after"}], [])


@pytest.mark.parametrize("damage", [b"{oops\n", b"[1]\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path, damage: bytes) -> None:
    run = empty_run(tmp_path)
    run.metrics_path.write_bytes(b'{"kind":"run"}\n' + damage + b'{"kind":"train"}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl line 2 is not a JSON object"):
        run.read_metrics()


def test_truncating_to_an_iteration_keeps_its_records_to_the_byte(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    kept = [
        {"kind": "run", "seed": 0},
        {"kind": "warm_start", "step": 9},
        eval_record(0),
        {"kind": "train", "iteration": 1},
        {"kind": "train", "iteration": 2},
        eval_record(2),
    ]
    for record in kept:
        run.append_metrics(record)
    before = run.metrics_path.read_bytes()
    run.append_metrics({"kind": "train", "iteration": 3})
    with run.metrics_path.open("ab") as file:
        file.write(b'{"kind":"train","iter')
    run.rewind(2)
    assert run.metrics_path.read_bytes() == before
    run.rewind(-1)
    assert run.read_metrics() == kept[:2]


# --- episodes and evaluations ------------------------------------------------------------------------------------


def test_episodes_are_read_back_with_their_types_and_units(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    path = run.write_episodes(3, {**TURN, "entropy": [0.5, None], "action": ["go to shelf 1", "look"]})
    assert path.name == "iter-000003.parquet"
    columns = run.read_episodes(3)
    assert columns["entropy"] == [0.5, None]
    assert columns["scale"] == [None, None]
    assert list(columns) == EPISODES.names
    assert pq.read_schema(path).field("entropy").metadata[b"unit"] == b"nats"
    assert run.episode_iterations() == [3]


def test_every_column_has_a_description() -> None:
    for schema in (EPISODES, EVALUATIONS):
        assert all(field.metadata[b"description"] for field in schema)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": ["red", "blue"]}, "unknown column 'colour'"),
        ({"turn": [0]}, "column 'turn' has 1 rows, others have 2"),
        ({"turn": [0, None]}, "column 'turn' is missing in row 1"),
        ({"entropy": ["low", 0.1]}, "column 'entropy'"),
        ({"turn": [0, 2**40]}, "column 'turn'"),
    ],
)
def test_a_wrong_column_is_an_error_that_names_it(tmp_path: Path, change: dict[str, list[Any]], message: str) -> None:
    run = empty_run(tmp_path)
    with pytest.raises(TableError, match=message):
        run.write_episodes(3, {**TURN, **change})
    assert run.episode_iterations() == []


def test_text_without_utf8_form_is_kept_readable(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.write_episodes(3, {**TURN, "observation": ["a \ud800 b", "naïve 🤖"]})
    assert run.read_episodes(3)["observation"] == ["a ? b", "naïve 🤖"]


def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    path = run.write_episodes(3, TURN)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"cannot read .*iter-000003\.parquet"):
        run.read_episodes(3)
    with pytest.raises(TableError, match=r"iter-000004\.parquet does not exist"):
        run.read_episodes(4)


def test_an_evaluation_without_a_column_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    record = {"iteration": 1, "split": "valid_seen", "decoding": "sampled", "panel_sha256": "ab" * 32}
    path = run.write_evaluation(record, [PLAYED])
    pq.write_table(pq.read_table(path).drop_columns(["success"]), path)
    with pytest.raises(TableError, match=f"{path.name}: column 'success': expected a value in each row"):
        run.read_evaluation(record)


def test_the_temporary_file_left_by_a_kill_is_not_an_episodes_file(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    run.write_episodes(3, TURN)
    (run.path / "episodes" / ".iter-000004.parquet.partial").write_bytes(b"PAR1")
    assert run.episode_iterations() == [3]


GREEDY: dict[str, Any] = {
    "iteration": 12, "split": "valid_seen", "decoding": "greedy", "panel_sha256": "0123456789", "temperature": 0.0,
}  # fmt: skip


def test_each_evaluation_has_its_own_file(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    lost = {**PLAYED, "success": False}
    path = run.write_evaluation(GREEDY, [PLAYED, {**lost, "task_id": "u"}])
    assert path.name == "iter-000012-valid_seen-greedy-01234567-t0.parquet"
    others = {"iteration": 13, "split": "test", "decoding": "sampled", "panel_sha256": "abcdef0123", "temperature": 0.6}
    for key, value in others.items():
        run.write_evaluation({**GREEDY, key: value}, [lost])
    assert run.read_evaluation(GREEDY)["success"] == [True, False]
    assert all(run.read_evaluation({**GREEDY, key: value})["success"] == [False] for key, value in others.items())


def test_rewinding_removes_the_files_of_later_iterations(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    for iteration in (0, 2, 3):
        record = {**GREEDY, "iteration": iteration}
        run.write_evaluation(record, [PLAYED])
        run.append_metrics(eval_record(**record))
        run.write_episodes(iteration, TURN)
        run.played_path(record).touch()
    run.rewind(2)
    assert run.episode_iterations() == [0, 2]
    for path_of in (run.evaluation_path, run.played_path):
        assert [path_of({**GREEDY, "iteration": n}).exists() for n in (0, 2, 3)] == [True, True, False]
    other = RunFolder.create(tmp_path / "other", "seed: 0\n")
    other.copy_records(run, 0)
    assert other.read_metrics() == run.read_metrics()[:1]
    assert other.episode_iterations() == [0]
    assert other.read_evaluation({**GREEDY, "iteration": 0})["success"] == [True]
    run.rewind(-1)
    assert run.read_metrics() == []
    assert run.episode_iterations() == []


@pytest.mark.parametrize("split", ["test-id", "../valid", "a/b", "", "-x", "dev set", "Prüfung \ud83d", "x" * 300])
def test_a_split_may_have_any_name_and_stays_in_its_folder(tmp_path: Path, split: str) -> None:
    """Those who bring files of questions name the splits; the evaluation has been played when it is written."""
    run, record = empty_run(tmp_path), {**GREEDY, "split": split}
    run.write_evaluation(record, [PLAYED])
    assert run.read_evaluation(record)["success"] == [True]
    [file] = (run.path / "evaluations").iterdir()
    assert file == run.evaluation_path(record)
    run.rewind(-1)
    assert not file.exists()


@pytest.mark.parametrize("name", ["decoding", "panel_sha256"])
def test_a_damaged_record_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunFolderError, match="cannot be part of a file name"):
        empty_run(tmp_path).evaluation_path({**GREEDY, name: "../x"})


def test_the_made_up_run_of_these_tests_is_the_same_every_time(make_run: MakeRun) -> None:
    a, b = (make_run(name, iterations=4, every=2, keep_episodes=(4,)) for name in "ab")
    assert a.metrics_path.read_bytes() == b.metrics_path.read_bytes()
    assert a.read_episodes(4) == b.read_episodes(4)
