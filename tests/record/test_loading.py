"""A run as tidy tables."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import empg.record
from empg.record.errors import RunFolderError
from empg.record.loading import finished_before
from empg.record.runfolder import RunFolder
from empg.record.tables import TableError

MakeRun = Callable[..., RunFolder]


def test_every_table_of_a_finished_run(finished_run: RunFolder) -> None:
    run = empg.record.load(finished_run.path)
    assert run.metrics["iteration"].to_pylist() == list(range(1, 41))
    assert run.metrics["rollout/success"].null_count == 0
    whole = run.evaluations.filter(run.evaluations["task_type"].is_null())
    assert whole.num_rows == 2 * 5  # two splits, before and after every ten iterations
    assert run.evaluations.num_rows == 10 * (1 + 6)
    assert run.steps["iteration"].unique().to_pylist() == [1, 20, 40]
    assert run.problems == []


def test_the_names_of_numbers_that_were_not_finite_are_not_a_number(make_run: MakeRun) -> None:
    run = make_run("nan", iterations=1, keep_episodes=())
    run.append_metrics({"kind": "train", "iteration": 2, "policy/loss": float("nan")})
    metrics = empg.record.load(run).metrics
    assert metrics["policy/loss"].null_count == 1
    assert "nonfinite" not in metrics.column_names


@pytest.mark.parametrize(
    ("iterations", "share"), [(4, 0.5), (2, 1.0), (1, 1.0), (0, 0.0), ("4", 0.0), (True, 0.0), (None, 0.0)]
)
def test_the_share_of_the_run_before_an_iteration(iterations: object, share: float) -> None:
    assert finished_before(3, {"iterations": iterations}) == share


def test_an_episode_sums_up_its_steps(make_run: MakeRun) -> None:
    written = make_run("run", iterations=20, keep_episodes=(20,))
    rows = written.read_episodes(20)
    changed = [base + turn % 3 - 1 for base, turn in zip(rows["advantage_outcome"], rows["turn"], strict=True)]
    written.write_episodes(20, {**rows, "advantage_outcome": changed})
    run = empg.record.load(written)
    steps = [s for s in run.steps.to_pylist() if (s["iteration"], s["episode"]) == (20, 3)]
    [episode] = [e for e in run.episodes.to_pylist() if (e["iteration"], e["episode"]) == (20, 3)]
    advantages, bases = ([s[name] for s in steps] for name in ("advantage", "advantage_outcome"))
    assert episode["turns"] == len(steps)
    assert episode["invalid_turns"] == sum(not s["valid"] for s in steps)
    assert episode["reward"] == sum(s["reward"] for s in steps)
    assert episode["entropy"] == pytest.approx(sum(s["entropy"] for s in steps) / len(steps))
    assert episode["spread"] == pytest.approx(max(advantages) - min(advantages))
    assert episode["largest"] == pytest.approx(max(map(abs, advantages)))
    assert episode["advantage_outcome"] == bases[0]
    assert (episode["advantage_outcome_min"], episode["advantage_outcome_max"]) == (min(bases), max(bases))


def test_one_row_per_token_with_its_entropy(make_run: MakeRun) -> None:
    run = make_run("tokens", iterations=1, keep_episodes=())
    row: dict[str, object] = {
        "iteration": 1,
        "group": 0,
        "task_index": 0,
        "task_id": "t",
        "task_type": "t",
        "split": "train",
    }
    recorded: list[dict[str, object]] = [
        {"episode": 0, "turn": 0, "action_ids": [5, 6], "token_entropies": [0.5, 0.25]},
        {"episode": 0, "turn": 1, "action_ids": [], "token_entropies": []},
        {"episode": 1, "turn": 0, "action_ids": [7], "token_entropies": None},
        {"episode": 1, "turn": 1, "action_ids": None, "token_entropies": None},
    ]
    rows = [{**row, **values} for values in recorded]
    run.write_episodes(1, {name: [r[name] for r in rows] for name in rows[0]})
    columns = ("episode", "turn", "position", "token_id", "entropy")
    tokens = [tuple(t[c] for c in columns) for t in empg.record.load(run).tokens.to_pylist()]
    assert tokens == [(0, 0, 0, 5, 0.5), (0, 0, 1, 6, 0.25), (1, 0, 0, 7, None)]


def test_a_damaged_file_is_a_problem_and_the_rest_is_read(make_run: MakeRun) -> None:
    run = make_run("damaged", iterations=2, every=2, keep_episodes=(1, 2))
    run.episodes_path(1).write_bytes(b"no parquet")
    with run.metrics_path.open("ab") as file:
        file.write(b'{"kind":"train","itera')
    loaded = empg.record.load(run)
    assert loaded.episodes["iteration"].unique().to_pylist() == [2]
    assert loaded.metrics.num_rows == 2
    assert len(loaded.problems) == 2


def test_a_table_without_a_required_column_is_a_problem_that_names_it(make_run: MakeRun) -> None:
    run = make_run("damaged", iterations=2, every=2, keep_episodes=(1, 2))
    path = run.episodes_path(1)
    pq.write_table(pq.read_table(path).drop_columns(["iteration"]), path)
    loaded = empg.record.load(run)
    assert loaded.episodes["iteration"].unique().to_pylist() == [2]
    assert loaded.problems == [f"{path} has wrong columns: iteration: expected a value in each row"]


def damaged(table: pa.Table, what: str) -> pa.Table:
    """A table with a column that Arrow stores, but that is not a Python value or a value of the schema."""
    rows, place = len(table), table.column_names.index
    if what == "huge":
        return table.set_column(place("turn"), "turn", pa.array([2**64 - 1] * rows, pa.uint64()))
    if what == "bytes":
        raw = pa.array([b"\xff"] * rows, pa.binary())
        return table.set_column(place("text"), "text", pa.Array.from_buffers(pa.string(), rows, raw.buffers()))
    if what == "time":
        return table.append_column("when", pa.array([2**60] * rows, pa.timestamp("ms")))
    if what == "zone":
        return table.append_column("when", pa.array([0] * rows, pa.timestamp("s", tz="Mars/Olympus")))
    return table.append_column("turn", table["turn"])


@pytest.mark.parametrize("what", ["huge", "bytes", "time", "zone", "twice"])
def test_values_that_cannot_be_read_are_a_problem_that_names_the_file(make_run: MakeRun, what: str) -> None:
    run = make_run("damaged", iterations=2, every=2, keep_episodes=(1, 2))
    path = run.episodes_path(1)
    pq.write_table(damaged(pq.read_table(path), what), path)
    loaded = empg.record.load(run)
    assert loaded.episodes["iteration"].unique().to_pylist() == [2]
    [problem] = loaded.problems
    assert str(path) in problem
    assert "\n" not in problem


def test_an_evaluation_column_of_another_type_is_an_error_that_names_it(make_run: MakeRun) -> None:
    run = make_run("damaged", iterations=2, every=2, keep_episodes=())
    record = next(r for r in run.read_metrics() if r["kind"] == "eval")
    path = run.evaluation_path(record)
    table = pq.read_table(path)
    place = table.column_names.index("success")
    pq.write_table(table.set_column(place, "success", pa.array(["yes"] * len(table))), path)
    with pytest.raises(TableError, match="column 'success': expected the type bool, got string"):
        run.read_evaluation(record)


def test_an_empty_run_has_empty_tables(make_run: MakeRun) -> None:
    run = make_run("empty", iterations=0, keep_episodes=())
    run.metrics_path.write_bytes(b"")
    loaded = empg.record.load(run)
    tables = (loaded.metrics, loaded.evaluations, loaded.episodes, loaded.steps, loaded.tokens)
    assert [t.num_rows for t in tables] == [0] * 5


def test_a_folder_without_a_run_is_an_error(tmp_path: object) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        empg.record.load(str(tmp_path))
