"""Question files: splits must not overlap, and published files are arranged like in the paper."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from empg.environments.deepsearch import DeepSearchEnv
from empg.environments.deepsearch.options import Data
from empg.environments.deepsearch.places import arrange, read_places


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


CONTEXT = [["A", ["Text of A."]], ["B", ["Text of B."]]]
HOTPOT = {"_id": "h", "question": "Q?", "answer": "B", "supporting_facts": [["A", 0], ["B", 0]], "context": CONTEXT}
WIKI2 = {**HOTPOT, "evidences": [["A", "is", "B"]]}
MUSIQUE = {"id": "2hop__1", "question": "Q?", "answer": "B", "answerable": True, "paragraphs": []}
FLASHRAG = {"id": "f", "question": "Q?", "golden_answers": ["B"]}


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    write(folder / "hotpot_train_v1.1.jsonl", HOTPOT)
    write(folder / "hotpot_dev_distractor_v1.jsonl", HOTPOT)
    write(folder / "2wikimultihopqa" / "train.jsonl", FLASHRAG)
    write(folder / "2wikimultihopqa" / "dev.jsonl", FLASHRAG)
    write(folder / "2wiki" / "dev.json", WIKI2)
    write(
        folder / "webwalker_main.jsonl", {"question": "Q?", "answer": "B", "root_url": "https://a.example", "info": {}}
    )
    write(folder / "musique" / "train.jsonl", FLASHRAG)
    write(folder / "musique_ans_v1.0_dev.jsonl", MUSIQUE)
    (folder / "Bamboogle.csv").write_text("Question,Answer\nQ?,B\n")
    write(folder / "nq" / "test.jsonl", FLASHRAG)
    (folder / "notes.txt").write_text("no data")
    return folder


def test_published_files_are_arranged_like_in_the_paper(published: Path) -> None:
    named = {
        split: [str(Path(path).relative_to(published)) for path in paths] for split, paths, _ in arrange(published)
    }
    assert named == {
        "train": ["2wikimultihopqa/train.jsonl", "hotpot_train_v1.1.jsonl"],
        "test_id": [
            "2wiki/dev.json",
            "2wikimultihopqa/dev.jsonl",
            "hotpot_dev_distractor_v1.jsonl",
            "webwalker_main.jsonl",
        ],
        "test_ood": ["Bamboogle.csv", "musique_ans_v1.0_dev.jsonl"],  # the training file of MuSiQue is not used
    }


def test_a_folder_of_published_files_can_be_played(published: Path) -> None:
    data = {"questions": str(published), "corpus": str(write(published.parent / "corpus.jsonl", {"text": "B."}))}
    # The two files of 2WikiMultiHopQA ask the same question.
    assert [DeepSearchEnv(split, data=data).num_tasks for split in ("train", "test_id", "test_ood")] == [2, 3, 2]


def test_a_folder_without_published_files_is_rejected(tmp_path: Path) -> None:
    write(tmp_path / "nq" / "test.jsonl", FLASHRAG)
    with pytest.raises(
        ValueError, match=r"has no usable files of the paper's datasets \(hotpotqa, 2wiki, webwalker, musique,"
    ):
        read_places(Data(questions=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_places(Data(questions="nowhere"))


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """Write the download sets of HotpotQA, 2WikiMultiHopQA and MuSiQue, and what else lies in such a folder."""
    folder = tmp_path / "downloaded"
    empty = {**HOTPOT, "context": [["C", ["Text of C."]]]}
    other = {**HOTPOT, "_id": "i", "question": "R?"}
    write(folder / "hotpot_dev_distractor_v1.json", HOTPOT, other)
    write(folder / "hotpot_dev_fullwiki_v1.json", empty, other)
    write(folder / "hotpot_test_fullwiki_v1.json", {key: HOTPOT[key] for key in ("_id", "question", "context")})
    write(folder / "data_ids_april7" / "dev.json", WIKI2)
    write(folder / "data_ids_april7" / "test.json", {**WIKI2, "answer": None})
    write(folder / "data_ids_april7" / "id_aliases.json", {"Q_id": "Q1", "aliases": ["A"], "demonyms": []})
    paragraph = {"idx": 0, "title": "A", "paragraph_text": "B.", "is_supporting": True}
    musique = {**MUSIQUE, "paragraphs": [paragraph]}
    write(folder / "data" / "musique_ans_v1.0_dev.jsonl", musique)
    write(folder / "data" / "musique_full_v1.0_dev.jsonl", musique, {**musique, "answerable": False})
    write(folder / "data" / "musique_ans_v1.0_test.jsonl", {"id": "2hop__2", "question": "Q?", "paragraphs": []})
    write(folder / "data" / "dev_test_singlehop_questions_v1.0.json", {"natural_questions": [1], "zero_shot_re": [2]})
    (folder / "frames.csv").write_text("Question,Answer\nQ?,B\n")
    (folder / "package.json").write_text('{\n  "name": "x"\n}\n')
    (folder / "cut.json").write_text(json.dumps([HOTPOT, HOTPOT])[:-9])
    (folder / "bamboogle.csv").write_text("Question,Answer\nQ?,B\n")
    return folder


def test_the_download_sets_give_every_question_once(downloaded: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"questions": str(downloaded), "corpus": str(write(downloaded.parent / "corpus.jsonl", {"text": "B."}))}
    (downloaded / "cut.json").unlink()
    with caplog.at_level(logging.WARNING, "empg"):
        environments = {split: DeepSearchEnv(split, data=data) for split in ("test_id", "test_ood")}
    asked = {split: [q.id for q in environment.source.questions[split]] for split, environment in environments.items()}
    assert asked == {"test_id": ["h", "h", "i"], "test_ood": ["bamboogle-2", "2hop__1"]}
    assert environments["test_id"].source.questions["test_id"][1].hops  # of the file with the gold paragraphs
    assert "test_id: 2 repeated questions are loaded once" in caplog.text
    assert "test_ood: 1 repeated questions are loaded once" in caplog.text


def test_what_is_left_out_of_a_folder_is_named_in_one_line_per_reason(
    downloaded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "empg"):
        arrange(downloaded)
        arrange(downloaded)
    said = [record.getMessage().removeprefix(f"{downloaded}: left out ") for record in caplog.records]
    assert [re.sub(r" \((?:the file|expected).*", "", line) for line in said] == [
        "(not a file of questions): data/dev_test_singlehop_questions_v1.0.json",
        "(no answers): data/musique_ans_v1.0_test.jsonl, data_ids_april7/test.json, hotpot_test_fullwiki_v1.json",
        "(other data sets): frames.csv (frames)",
        "(unreadable): package.json",
    ]


def test_a_damaged_file_is_an_error_where_it_is_named_or_read(downloaded: Path) -> None:
    """It has a usable question at its start, so only reading all of it shows the damage."""
    with pytest.raises(ValueError, match=r"cut\.json: the file is not valid JSON after value 1 "):
        DeepSearchEnv("test_id", data={"questions": str(downloaded)})
    with pytest.raises(ValueError, match=r"id_aliases\.json: no record identifies the dataset"):
        DeepSearchEnv("a", data={"questions": {"a": str(downloaded / "data_ids_april7" / "id_aliases.json")}})


def test_without_a_corpus_files_without_paragraphs_are_left_out(
    downloaded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (downloaded / "cut.json").unlink()
    with caplog.at_level(logging.WARNING, "empg"):
        environment = DeepSearchEnv("test_ood", data={"questions": str(downloaded)})
    assert [question.source for question in environment.source.questions["test_ood"]] == ["musique"]
    assert "left out (no paragraphs to search, and data.corpus is not set): bamboogle.csv" in caplog.text


def test_a_folder_is_arranged_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("data", "test.jsonl")
    for source, split in (("hotpotqa", "test_id"), ("bamboogle", "test_ood")):
        write(file, {**FLASHRAG, "data_source": source})
        assert [part.split for part in arrange(Path("data"))] == [split]
    write(Path("other") / file, {**FLASHRAG, "data_source": "hotpotqa"})
    monkeypatch.chdir("other")
    assert [part.split for part in arrange(Path("data"))] == ["test_id"]


def test_many_files_are_left_out_in_one_short_line(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(200):
        write(published / "nq" / f"{number:03}.json", FLASHRAG)
    with caplog.at_level(logging.WARNING, "empg"):
        arrange(published)
    [line] = [message for message in caplog.messages if "other data sets" in message]
    assert line.endswith("nq/004.json (nq) and 196 more")


def test_the_rows_of_search_r1_are_placed_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its training file has two data sets, and its test file all seven."""
    tested = ("nq", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
    sets = {"train": ("nq", "hotpotqa"), "test": tested}
    folder = tmp_path / "nq_hotpotqa_train"
    folder.mkdir()
    for part, names in sets.items():
        rows = [{**FLASHRAG, "question": f"{name}?", "data_source": name} for name in names]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{part}.parquet")
    corpus = write(tmp_path / "corpus.jsonl", {"text": "B."})
    with caplog.at_level(logging.WARNING, "empg"):
        environment = DeepSearchEnv("train", data={"questions": str(folder), "corpus": str(corpus)})
    sources = {split: [q.source for q in found] for split, found in environment.source.questions.items()}
    assert sources == {"train": ["hotpotqa"], "test_id": ["hotpotqa", "2wiki"], "test_ood": ["musique", "bamboogle"]}
    assert "left out (other data sets): test.parquet (nq, popqa), train.parquet (nq)" in caplog.text


def test_a_file_that_is_left_out_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "hotpot_dev.jsonl", HOTPOT)
    rows = [{**FLASHRAG, "data_source": name} for name in ("hotpotqa", "musique", "bamboogle")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    with caplog.at_level(logging.WARNING, "empg"):
        arrange(tmp_path, paragraphs=True)
    assert [message.partition(": left out ")[2] for message in caplog.messages] == [
        "(no paragraphs to search, and data.corpus is not set): test.parquet"
    ]


def test_a_file_in_two_splits_is_rejected(tmp_path: Path) -> None:
    """Otherwise training and test data would overlap."""
    path = write(tmp_path / "a.jsonl", FLASHRAG)
    os.symlink(path, tmp_path / "b.jsonl")
    for other in (str(path), str(tmp_path / "b.jsonl"), str(tmp_path / "." / "x" / ".." / "a.jsonl")):
        with pytest.raises(ValueError, match=re.escape(f"{other} is in both train and test_id")):
            DeepSearchEnv(data={"questions": {"train": str(path), "test_id": [other]}})
    with pytest.raises(ValueError, match=r"data\.questions\.train lists a file twice"):
        DeepSearchEnv(data={"questions": {"train": [str(path), str(path)]}})
