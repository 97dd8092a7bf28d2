"""Sources: the generated encyclopaedia, official files, all retrievers and all metrics."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from empg.environments.deepsearch import DeepSearchEnv
from empg.errors import UserError
from empg.web.errors import ServiceError
from tests.environments.deepsearch.smallworld import BRIDGE, DOCUMENTS
from tests.web.servers import Reply, dead_url, scripted


def write_lines(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Write a corpus, questions of HotpotQA with their paragraphs, and questions without paragraphs."""
    corpus = [{"id": d.id, "contents": f'"{d.title}"\n{d.text}'} for d in DOCUMENTS]
    hotpot = {
        "_id": "h1",
        "question": BRIDGE.text,
        "answer": "Dunmere",
        "type": "bridge",
        "supporting_facts": [["Silent Harbour", 0], ["Mara Quill", 1]],
        "context": [[d.title, [d.text]] for d in DOCUMENTS],
    }
    river = {"id": "b1", "question": "On which river is Dunmere?", "golden_answers": ["Lorrow", "the Lorrow"]}
    film = {"id": "b2", "question": "Who directed The Salt Road?", "golden_answers": ["Ivo Brandt"]}
    return {
        "corpus": write_lines(tmp_path / "corpus.jsonl", *corpus),
        "hotpot": write_lines(tmp_path / "hotpot.jsonl", hotpot),
        "rivers": write_lines(tmp_path / "rivers.jsonl", river),
        "films": write_lines(tmp_path / "films.jsonl", film),
    }


def play_expert(environment: DeepSearchEnv, task: int = 0) -> tuple[bool, list[str]]:
    observation, info = environment.reset(options={"task": task})
    expert, actions = environment.expert(), []
    while True:
        action = expert.act(observation, info)["action"]
        actions.append(action)
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return info["won"], actions


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("retriever", ["bm25", "tantivy"])
def test_questions_and_corpus_from_files(files: dict[str, Any], tmp_path: Path, retriever: str, cached: bool) -> None:
    data = {"questions": {"test_id": files["hotpot"], "test_ood": [files["rivers"], files["films"]]},
            "corpus": files["corpus"]}  # fmt: skip
    cache = str(tmp_path / "cache") if cached else None
    environment = DeepSearchEnv("test_ood", data=data, retriever=retriever, cache=cache)
    assert environment.num_tasks == 2
    observation, info = environment.reset(options={"task": 0})
    assert (observation, info["task_type"]) == ("On which river is Dunmere?", "rivers")
    assert environment.step("search[Dunmere river]")[0].startswith("1. Dunmere: Dunmere is a town on the Lorrow,")
    assert environment.step("open[the salt  road]")[0] == f"The Salt Road: {DOCUMENTS[4].text}"
    assert environment.step("answer[Lorrow.]")[1] == 1.0
    won, actions = play_expert(DeepSearchEnv("test_id", data=data, retriever=retriever, cache=cache))
    assert won
    assert actions[-2:] == ["open[Mara Quill]", "answer[Dunmere]"]


def test_without_a_corpus_the_paragraphs_of_the_questions_are_used(files: dict[str, Any]) -> None:
    environment = DeepSearchEnv("dev", data={"questions": {"dev": files["hotpot"]}})
    won, actions = play_expert(environment)
    assert won
    assert actions == [
        "search[Silent Harbour]",
        "open[Silent Harbour]",
        "search[Mara Quill]",
        "open[Mara Quill]",
        "answer[Dunmere]",
    ]


def test_kinds_select_questions_from_files(files: dict[str, Any]) -> None:
    data = {"questions": {"all": [files["rivers"], files["films"]]}, "corpus": files["corpus"]}
    assert DeepSearchEnv("all", data=data, kinds=["films"]).num_tasks == 1
    with pytest.raises(ValueError, match=re.escape("kinds=['books']: all has none of these, but rivers, films")):
        DeepSearchEnv("all", data=data, kinds=["books"])


def test_a_split_without_usable_questions_names_its_file(files: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    rows = [
        {"question": "Who?", "golden_answers": ["Una"], "data_source": "hotpotqa"},
        {"question": "Why?", "golden_answers": [], "data_source": "musique"},
    ]
    path = write_lines(folder / "test.jsonl", *rows)
    data = {"questions": str(folder), "corpus": files["corpus"]}
    assert DeepSearchEnv("test_id", data=data).num_tasks == 1
    with pytest.raises(UserError) as caught:
        DeepSearchEnv("test_ood", data=data)
    said = str(caught.value)
    assert said.startswith(f"{path}: expected questions of ")
    counted = f"1 questions; 1 malformed (no answer; first: {path}, row 2)"
    assert said.endswith(f" for test_ood, got none of them, but {counted}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"question": {}}, "data.questions: is required, but not given; unknown key 'data.question'; did you mean"),
        ("hotpot.json", "data: expected a mapping, got 'hotpot.json'"),
        (
            {"questions": "hotpot.json"},
            "data.questions: names files by split, or one folder of published files, as in data: {questions:",
        ),
        (
            {"questions": {}},
            "data.questions: names files by split, or one folder of published files, as in data: {questions:",
        ),
        (
            {"questions": {"train": []}},
            "data.questions: train must be a file or a list of files, as in data: {questions:",
        ),
        (
            {"questions": {"train": [3]}},
            "data.questions: train must be a file or a list of files, as in data: {questions:",
        ),
        ({"questions": {"train": "x.json"}, "corpus": 5}, "data.corpus: expected a text, got 5"),
        ({"questions": {"train": "x.json"}, "corpus": ""}, "data.corpus: expected a path, got an empty text"),
        ({"questions": ""}, "data.questions: expected a path, got an empty text"),
        ({"questions": {"train": ""}}, "data.questions.train: expected a path, got an empty text"),
        ({"questions": {"train": ["x.json", ""]}}, "data.questions.train: expected a path, got an empty text"),
    ],
)
def test_the_error_for_invalid_data_names_the_key(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepSearchEnv(data=data)


def test_the_error_for_a_missing_file_or_split_names_it(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json not found"):
        DeepSearchEnv("dev", data={"questions": {"dev": "nowhere.json"}, "corpus": files["corpus"]})
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl: corpus not found"):
        DeepSearchEnv("dev", data={"questions": {"dev": files["rivers"]}, "corpus": "nowhere.jsonl"})
    for cache in (None, tmp_path):
        with pytest.raises(UserError, match=r"^nowhere\.json not found; it is not distributed with empg"):
            DeepSearchEnv("dev", data={"questions": {"dev": "nowhere.json"}}, cache=cache)
    with pytest.raises(ValueError, match="split: expected one of dev, got 'train'"):
        DeepSearchEnv("train", data={"questions": {"dev": files["rivers"]}, "corpus": files["corpus"]})


def test_files_splits_and_steps_are_checked_before_anything_is_indexed(files: dict[str, Any], tmp_path: Path) -> None:
    data = {"questions": {"dev": files["rivers"]}, "corpus": files["corpus"]}
    missing = {**data, "questions": {"dev": files["rivers"], "test": str(tmp_path / "nowhere.json")}}
    for message, arguments in (
        (r"nowhere\.json not found", {"split": "test", "data": missing}),
        (r"nowhere\.json not found", {"split": "dev", "data": missing}),  # a run opens its other splits later
        ("split: expected one of dev, got 'tset'", {"split": "tset", "data": data}),
        ("max_steps: expected a whole number", {"split": "dev", "data": data, "max_steps": 0}),
        ("kinds=.*: dev has none of these", {"split": "dev", "data": data, "kinds": ["films"]}),
    ):
        with pytest.raises(UserError, match=message):
            DeepSearchEnv(**arguments)
    assert not (tmp_path / "empg-index").exists()


def test_files_that_were_rewritten_are_read_again(tmp_path: Path) -> None:
    asked = {"id": "q", "question": "Where is it?", "golden_answers": ["Rome"]}
    questions, corpus = tmp_path / "questions.jsonl", tmp_path / "corpus.jsonl"
    for answer in ("Rome", "Oslo in Norway"):
        write_lines(questions, {**asked, "golden_answers": [answer]})
        write_lines(corpus, {"id": "1", "contents": f'"Place"\nIt is in {answer}.'})
        environment = DeepSearchEnv("dev", data={"questions": {"dev": str(questions)}, "corpus": str(corpus)})
        environment.reset(options={"task": 0})
        assert environment.solution() == answer
        assert environment.step("search[place]")[0] == f"1. Place: It is in {answer}."


def test_a_relative_path_is_one_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = 1_700_000_000
    data = {"questions": {"dev": "questions.jsonl"}, "corpus": "corpus.jsonl"}
    for city in ("Rome", "Oslo"):  # of one length, and written at the same time
        (tmp_path / city).mkdir()
        monkeypatch.chdir(tmp_path / city)
        write_lines(Path("questions.jsonl"), {"id": "q", "question": "Where is it?", "golden_answers": [city]})
        write_lines(Path("corpus.jsonl"), {"id": "1", "contents": f'"Place"\nIt is in {city}.'})
        for name in ("questions.jsonl", "corpus.jsonl"):
            os.utime(name, (stamp, stamp))
        environment = DeepSearchEnv("dev", data=data, cache="cache")
        environment.reset(options={"task": 0})
        assert environment.solution() == city
        assert environment.step("search[place]")[0] == f"1. Place: It is in {city}."
        assert environment.question.kind == "questions"  # and is not named after the working folder


# ---- external search ------------------------------------------------------------------------------------------------


def test_the_results_of_a_server_can_be_opened(files: dict[str, Any]) -> None:
    answer = {"result": [[{"document": {"id": "4", "contents": '"Dunmere"\nA town on the Lorrow.'}, "score": 1.0}]]}
    with scripted(Reply(json.dumps(answer).encode())) as server:
        environment = DeepSearchEnv("dev", data={"questions": {"dev": files["rivers"]}}, retriever=server.url)
        environment.reset(options={"task": 0})
        assert environment.step("search[river]")[0] == "1. Dunmere: A town on the Lorrow."
        assert environment.step("open[Dunmere]")[0] == "Dunmere: A town on the Lorrow."


def test_an_unreachable_server_is_a_failed_search(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    environment = DeepSearchEnv("dev", data={"questions": {"dev": files["rivers"]}}, retriever=dead_url())
    environment.reset(options={"task": 0})
    observation, _, terminated, _, info = environment.step("search[river]")
    assert observation.startswith("Search failed: ")
    assert (terminated, info["valid"]) == (False, True)
    assert info["failure"]


def test_the_error_for_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ValueError, match="SERPER_API_KEY is not set"):
        DeepSearchEnv(retriever="serper")


# ---- metrics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "answer", "score"),
    [
        ("em", "the lorrow", 1.0),
        ("em", "river Lorrow", 0.0),
        ("f1", "river Lorrow", 2 / 3),
        ("cover_em", "river Lorrow", 1.0),
    ],
)
def test_the_metric_is_selected_by_name(files: dict[str, Any], metric: str, answer: str, score: float) -> None:
    data = {"questions": {"dev": files["rivers"]}, "corpus": files["corpus"]}
    environment = DeepSearchEnv("dev", data=data, metric=metric, reward="score")
    environment.reset(options={"task": 0})
    _, reward, _, _, info = environment.step(f"answer[{answer}]")
    assert reward == info["score"] == pytest.approx(score)
    assert info["won"] == (score == 1.0)


def test_a_judge_scores_answers_and_an_unreachable_one_is_an_error(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    data = {"questions": {"dev": files["rivers"]}, "corpus": files["corpus"]}
    verdict = {"choices": [{"message": {"content": "CORRECT"}}]}
    with scripted(Reply(json.dumps(verdict).encode())) as server:
        judge = {"url": server.url, "model": "m", "key_variable": None}
        environment = DeepSearchEnv("dev", data=data, metric="judge", judge=judge)
        environment.reset(options={"task": 0})
        assert environment.step("answer[The river is the Lorrow]")[1] == 1.0
    judge = {"url": dead_url(), "model": "m", "key_variable": None}
    environment = DeepSearchEnv("dev", data=data, metric="judge", judge=judge)
    environment.reset(options={"task": 0})
    with pytest.raises(ServiceError):
        environment.step("answer[Lorrow]")


# ---- the generated encyclopaedia ------------------------------------------------------------------------------------


TRANSCRIPT = """
import hashlib
from empg.environments.deepsearch import DeepSearchEnv
digest = hashlib.sha256()
for split in ("train", "valid_id", "valid_ood"):
    environment = DeepSearchEnv(split, pages=200)
    for task in range(0, 40):
        observation, info = environment.reset(options={"task": task})
        expert = environment.expert()
        over = False
        while not over:
            digest.update(repr((observation, info)).encode())
            observation, _, terminated, truncated, info = environment.step(expert.act(observation, info)["action"])
            over = terminated or truncated
print(digest.hexdigest())
"""


def test_episodes_are_the_same_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", TRANSCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


def test_environments_of_a_process_share_corpus_index_and_questions(files: dict[str, Any], tmp_path: Path) -> None:
    again = tmp_path / "again.json"
    again.write_bytes(Path(files["hotpot"]).read_bytes())
    questions = {"train": files["hotpot"], "valid_ood": str(again)}
    for options in ({}, {"world": "countries"}, {"data": {"questions": questions}},
                    {"data": {"questions": questions, "corpus": files["corpus"]}}):  # fmt: skip
        first, second = DeepSearchEnv("train", **options), DeepSearchEnv("valid_ood", **options)
        assert first.source.retriever is second.source.retriever
        assert first.source.library is second.source.library
        assert first.source.questions is second.source.questions
    first = DeepSearchEnv("train")
    assert DeepSearchEnv(seed=1).source.retriever is not first.source.retriever


def test_kinds_select_questions() -> None:
    environment = DeepSearchEnv("valid_id", kinds=["1-hop", "comparison"])
    kinds = {environment.reset(options={"task": task})[1]["task_type"] for task in range(50)}
    assert kinds == {"1-hop", "comparison"}


def test_tantivy_finds_the_same_pages() -> None:
    observations = []
    for retriever in ("bm25", "tantivy"):
        environment = DeepSearchEnv("train", pages=200, retriever=retriever, results=1)
        environment.reset(options={"task": 0})
        observations.append(environment.step(f"search[{environment.question.hops[0].query}]")[0])
    assert observations[0] == observations[1]


def test_a_cached_index_gives_the_same_results(tmp_path: Path) -> None:
    searches = []
    for cache in (None, str(tmp_path), str(tmp_path)):
        environment = DeepSearchEnv("train", pages=100, seed=3, cache=cache)
        environment.reset(options={"task": 0})
        searches.append(environment.step("search[painter town]")[0])
    assert searches[0] == searches[1] == searches[2]
    assert len(list(tmp_path.iterdir())) == 3  # the documents, the index and the titles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split: expected one of train, valid_id, valid_ood, got 'test'"),
        ({"retriever": "google"}, "retriever: expected one of bm25, tantivy, dense, "),
        ({"retriever": "dense"}, "retriever='dense' needs encoder"),
        ({"metric": "rouge"}, "metric: expected 'em', 'f1', 'cover_em', 'sub_em' or 'judge', got 'rouge'"),
        ({"metric": "judge"}, "metric='judge' needs judge: a mapping of url and model"),
        (
            {"metric": "judge", "judge": {"url": "http://x", "model": "m", "key": "s"}},
            "unknown key 'judge.key'; valid keys: per_second, timeout",
        ),
        ({"judge": {"url": "http://x", "model": "m"}}, "judge is for metric='judge', this is 'em'"),
        ({"kinds": ["9-hop"]}, "kinds: unknown kind '9-hop'"),
        ({"pages": 3}, "pages: expected at least 50, got 3"),
    ],
)
def test_the_error_for_an_invalid_option_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DeepSearchEnv(**options)
