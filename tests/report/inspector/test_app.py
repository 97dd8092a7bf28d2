"""The inspector's pages over HTTP: what they list, what they refuse, and that texts of a run stay texts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from empg.record.runfolder import RunFolder
from empg.report.inspector import library
from empg.report.inspector.app import make_app
from tests.report.inspector.served import HOSTILE

testclient = pytest.importorskip("starlette.testclient")
PAGES = (
    "/", "/?q=nothing", "/batch?iteration=1", "/batch?iteration=9", "/curves?all=1&types=1&bands=1&smooth=3",
    "/episode?run=0&iteration=1&episode=1", "/group?iteration=1&group=0", "/compare?a=0.1.0&b=0.1.1",
)  # fmt: skip


def client(*runs: RunFolder, host: str = "127.0.0.1") -> Any:
    return testclient.TestClient(make_app(runs), base_url=f"http://{host}")


def test_the_inspector_needs_no_environment() -> None:
    """Runs are read on machines that have the extra `report` without gymnasium."""
    loaded = "[name for name in ('gymnasium', 'empg.environments', 'torch') if name in sys.modules]"
    program = f"import sys, empg.report.inspector.app; print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("page", PAGES)
def test_texts_of_a_run_stay_texts(page: str, recorded: RunFolder) -> None:
    answer = client(recorded).get(page)
    assert answer.status_code == 200
    assert "<img" not in answer.text
    assert "<script>" not in answer.text
    assert "\u202e" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\sstyle=|\son\w+=", re.sub(r"&[^;]*;", "", answer.text).replace("onerror", ""))


def test_only_requests_that_name_this_machine_are_answered(recorded: RunFolder) -> None:
    assert client(recorded, host="evil.example").get("/").status_code == 400
    assert client(recorded).post("/").status_code == 405


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 48),
        ("iteration=20", 16),
        ("q=COUNTERTOP", 48),
        ("q=unicorn", 0),
        ("type=clean", 48),
        ("type=heat", 48),  # no episode has this type, so it is not a filter
        ("run=1", 48),
        ("page=99999&sort=nonsense&order=x&iteration=abc", 48),
    ],
)
def test_the_address_selects_episodes(query: str, found: int, finished_run: RunFolder) -> None:
    assert f"{found} of 48 kept episodes" in client(finished_run).get(f"/?{query}").text


def test_won_and_lost_are_all_and_the_list_is_sorted(finished_run: RunFolder) -> None:
    server = client(finished_run)
    counts = [re.findall(r"(\d+) of 48", server.get(f"/?outcome={o}").text)[0] for o in ("won", "lost")]
    assert sum(map(int, counts)) == 48
    rows = re.findall(r"<td>([\d.]+)</td></tr>", server.get("/?sort=largest").text)
    assert rows == sorted(rows, key=float, reverse=True)


@pytest.mark.parametrize(
    "address",
    ["/episode?run=7&iteration=1&episode=0", "/episode?iteration=1", "/episode?iteration=1&episode=x", "/compare?a=1",
     "/group?iteration=99&group=0", "/episode?iteration=1&episode=99999999999999999999"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(address: str, recorded: RunFolder) -> None:
    answer = client(recorded).get(address)
    assert answer.status_code == 404
    assert len(answer.text.splitlines()) == 1


def test_an_empty_run_and_damaged_files_have_pages(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("broken", iterations=2, every=2, keep_episodes=(1, 2))
    run.episodes_path(1).write_bytes(b"no parquet")
    with run.metrics_path.open("ab") as file:
        file.write(b'{"kind":"train","itera')
    server = client(run)
    assert "16 of 16 kept episodes" in server.get("/").text
    assert "cannot read" in server.get("/batch?iteration=1").text
    assert "is incomplete because the run was killed" in server.get("/curves").text
    run.recipe_path.write_text("]")
    run.metrics_path.write_bytes(b"[]\n")
    assert client(run).get("/curves").status_code == 200
    empty = make_run("empty", iterations=0, keep_episodes=())
    empty.metrics_path.write_bytes(b"")
    for page in ("/", "/batch", "/curves"):
        assert client(empty).get(page).status_code == 200


def test_an_address_of_an_iteration_that_was_not_kept_is_no_problem_of_the_run(recorded: RunFolder) -> None:
    server = client(recorded)
    for page in ("/batch?iteration=77", "/group?iteration=77&group=0", "/episode?iteration=77&episode=0", "/"):
        assert "does not exist" not in server.get(page).text
    assert "No episodes of this iteration were kept." in server.get("/batch?iteration=77").text


def test_a_batch_says_how_many_of_its_steps_count(recorded: RunFolder) -> None:
    text = client(recorded).get("/batch?iteration=1").text
    assert "12 steps in 2 groups. 11 of them count" in text


def test_base_advantages_that_differ_between_steps_are_a_range(recorded: RunFolder) -> None:
    rows = recorded.read_episodes(1)
    of = {(1, 0): 0.75, (1, 1): -0.25, (1, 2): 0.5}  # as of GiGPO; the steps of the other episodes share one
    rows["advantage_outcome"] = [of.get(place, -1.0) for place in zip(rows["episode"], rows["turn"], strict=True)]
    recorded.write_episodes(1, rows)
    server, both = client(recorded), "\u22120.250 to +0.750"
    listed = re.findall(r"\u2212[\d.]+ to [+\d.]+|\u22121.000", server.get("/?sort=length").text)
    assert sorted(listed) == [both, *["\u22121.000"] * 3]
    assert f"base advantage {both}</p>" in server.get("/episode?iteration=1&episode=1").text
    assert "base advantage \u22121.000</p>" in server.get("/episode?iteration=1&episode=0").text
    group = server.get("/group?iteration=1&group=0").text
    assert f"episode 1 won</span>, base A {both}</p>" in group
    assert ", base A \u22121.000</p>" in group


def test_a_run_without_episodes_has_no_iteration_in_its_heading(make_run: Callable[..., RunFolder]) -> None:
    text = client(make_run("empty", iterations=0, keep_episodes=())).get("/batch").text
    assert "<h1>Batch, empty</h1>" in text
    assert "No episodes of this run were kept." in text


def test_a_damaged_file_is_named_above_the_content_of_every_page(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("broken", iterations=2, every=2, keep_episodes=(1, 2))
    run.episodes_path(1).write_bytes(b"no parquet")
    server = client(run)
    for page in ("/", "/batch?iteration=1", "/curves"):
        text = server.get(page).text
        assert 0 < text.index("broken: cannot read") < text.index("<h1>")


def test_a_folder_of_episodes_that_may_not_be_read_is_a_problem_until_it_may(
    recorded: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    server = client(recorded)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refused)
        for page in ("/", "/batch", "/curves?types=1"):
            answer = server.get(page)
            assert answer.status_code == 200
            assert f"recorded: cannot read {recorded.path / 'episodes'}: Permission denied" in answer.text
    assert "cannot read" not in server.get("/").text


def test_large_numbers_have_pages(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("large", iterations=2, every=2, keep_episodes=(1,))
    for iteration in (1, 2):
        run.append_metrics({"kind": "train", "iteration": iteration, "policy/grad_norm": 1e308})
    columns = run.read_episodes(1)
    rows = len(columns["turn"])
    columns |= {"reward": [1e308] * rows, "entropy": [1e308 + i * 1e306 for i in range(rows)]}
    run.write_episodes(1, columns)
    server = client(run)
    for page in ("/", "/batch", "/episode?iteration=1&episode=0", "/curves?smooth=2", "/curves.json?smooth=2"):
        assert server.get(page).status_code == 200


def test_the_address_of_an_episode_in_a_damaged_file_names_the_file(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("broken", iterations=2, every=2, keep_episodes=(1, 2))
    run.episodes_path(1).write_bytes(b"no parquet")
    server = client(run)
    for page in ("/episode?iteration=1&episode=0", "/group?iteration=1&group=0", "/compare?a=0.1.0&b=0.2.0"):
        answer = server.get(page)
        assert answer.status_code == 404
        assert f"cannot read {run.episodes_path(1)}" in answer.text
    assert "no kept episode of episode 99" in server.get("/episode?iteration=2&episode=99").text


def test_a_page_follows_a_run_that_trains(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("growing", iterations=1, keep_episodes=(1,))
    server = client(run)
    assert "16 of 16" in server.get("/").text
    columns = run.read_episodes(1)
    run.write_episodes(2, {**columns, "iteration": [2] * len(columns["turn"])})
    run.append_metrics({"kind": "train", "iteration": 2, "rollout/success": 1.0})
    assert "32 of 32" in server.get("/").text
    assert server.get("/curves.json").json()[0]["x"] == [0, 1, 2]


def test_a_problem_disappears_with_its_cause(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("fixed", iterations=2, every=2, keep_episodes=(1, 2))
    files = (run.metrics_path, run.recipe_path, run.episodes_path(1))
    whole = [file.read_bytes() for file in files]
    run.metrics_path.write_bytes(whole[0][:-5])
    run.recipe_path.write_text("]")
    run.episodes_path(1).write_bytes(b"no parquet")
    server = client(run)
    server.get("/batch?iteration=1")
    damaged = server.get("/curves").text
    assert all(text in damaged for text in ("is incomplete", "recipe.yaml", "iter-000001.parquet"))
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(data)
    for page in ("/batch?iteration=1", "/", "/curves"):
        assert "fixed: " not in server.get(page).text


def test_a_run_that_was_replaced_is_shown_with_its_new_recipe(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("replaced", iterations=1, keep_episodes=(1,))
    server = client(run)
    assert '"rule":"empg"' in server.get("/batch?iteration=1").text
    run.replace_recipe("credit: {modulation: {name: gtpo, alpha_1: 1.0}}")
    assert '"rule":"gtpo"' in server.get("/batch?iteration=1").text


def test_curves_by_task_type_are_one_chart_per_type(finished_run: RunFolder) -> None:
    server = client(finished_run)
    plain = [chart["title"] for chart in server.get("/curves.json").json()]
    typed = [chart["title"] for chart in server.get("/curves.json?types=1").json()]
    assert "valid_seen, sampled: success" in plain
    assert {"valid_unseen, sampled: success, heat", "kept training episodes: success, clean"} <= set(typed) - set(plain)


def test_the_page_of_a_group_names_the_steps_where_won_and_lost_episodes_part(recorded: RunFolder) -> None:
    rows = recorded.read_episodes(1)
    rows["action"] = [f"go {e if t else 0}" for e, t in zip(rows["episode"], rows["turn"], strict=True)]
    recorded.write_episodes(1, rows)
    text = client(recorded).get("/group?iteration=1&group=0").text
    assert "1 of 2 episodes were won." in text
    assert '<a href="#parts-0-1">step 2 (episodes 0, 1)</a>.' in text
    assert 'id="parts-0-1"' in text


def test_an_episode_leads_to_the_same_task_in_another_iteration_and_in_another_run(
    finished_run: RunFolder, make_run: Callable[..., RunFolder]
) -> None:
    server = client(finished_run, make_run("other", seed=1))
    text = server.get("/episode?run=0&iteration=1&episode=3").text
    for other in ("0.40.2", "1.40.3"):
        address = f"/compare?a=0.1.3&amp;b={other}"
        assert f'href="{address}"' in text
        assert server.get(address.replace("&amp;", "&")).status_code == 200


def test_an_episode_says_how_many_others_of_its_task_are_left_out(recorded: RunFolder) -> None:
    rows = recorded.read_episodes(1)
    for iteration in range(2, 55):
        recorded.write_episodes(iteration, {**rows, "iteration": [iteration] * len(rows["turn"])})
    text = client(recorded).get("/episode?iteration=50&episode=1").text
    assert text.count(">Compare</a>") == 200
    assert "15 more episodes of this task are left out." in text  # of 54 iterations with 4 episodes
    assert 'b=0.50.1"' not in text


def test_two_episodes_beside_each_other_show_where_they_part(recorded: RunFolder) -> None:
    server = client(recorded)
    assert "They read and do the same in all 3 steps." in server.get("/compare?a=0.1.0&b=0.1.0").text
    assert '<a href="#step-2">step 3</a>' in server.get("/compare?a=0.1.0&b=0.1.1").text  # whose third text is long


def test_turns_without_an_action_are_the_same_if_all_that_was_written_is(recorded: RunFolder) -> None:
    rows = recorded.read_episodes(1)
    alike = {"observation": "room", "action": ""}
    rows |= {name: [value] * len(rows["turn"]) for name, value in alike.items()}
    rows["text"] = [f"nonsense {e if t else 0}" for e, t in zip(rows["episode"], rows["turn"], strict=True)]
    recorded.write_episodes(1, rows)
    server = client(recorded)
    assert '<a href="#step-1">step 2</a>' in server.get("/compare?a=0.1.0&b=0.1.1").text
    assert '<a href="#parts-0-1">step 2 (episodes 0, 1)</a>' in server.get("/group?iteration=1&group=0").text


def test_requests_at_the_same_time_read_the_files_once_and_whole(
    make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_TABLES_KEPT", 1)
    [run] = library.open_runs([make_run("run", iterations=6, keep_episodes=tuple(range(1, 7)))])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: len(run.episodes()), range(16)))
    assert found == [96] * 16


def test_runs_whose_folders_have_one_name_are_told_apart(make_run: Callable[..., RunFolder]) -> None:
    runs = [make_run(name, iterations=0, keep_episodes=()) for name in ("old/demo", "new/demo", "new/other")]
    assert [run.name for run in library.open_runs(runs)] == ["old/demo", "new/demo", "other"]


def test_a_damaged_record_is_named_and_no_curve_is_drawn(make_run: Callable[..., RunFolder]) -> None:
    run = make_run("odd", iterations=2, every=2)
    lines = run.metrics_path.read_bytes().count(b"\n")
    run.append_metrics({"kind": "train", "iteration": float("nan"), "rollout/success": 1.0})
    server = client(run)
    assert server.get("/curves.json").json() == []
    text = server.get("/curves").text
    assert f"metrics.jsonl line {lines + 1}: &#39;iteration&#39;: expected a whole number" in text


def test_the_hostile_text_is_really_in_the_run(recorded: RunFolder) -> None:
    assert HOSTILE in recorded.read_episodes(1)["action"]
