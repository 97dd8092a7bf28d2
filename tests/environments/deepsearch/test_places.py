"""Question files: splits must not overlap, and published files are arranged like in the paper."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

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
    named = {split: [str(Path(path).relative_to(published)) for path in paths] for split, paths in arrange(published)}
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
    assert [DeepSearchEnv(split, data=data).num_tasks for split in ("train", "test_id", "test_ood")] == [2, 4, 2]


def test_a_folder_without_published_files_is_rejected(tmp_path: Path) -> None:
    write(tmp_path / "nq" / "test.jsonl", FLASHRAG)
    with pytest.raises(
        ValueError, match=r"has no files of the paper's datasets \(hotpotqa, 2wiki, webwalker, musique,"
    ):
        read_places(Data(questions=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_places(Data(questions="nowhere"))


def test_a_file_in_two_splits_is_rejected(tmp_path: Path) -> None:
    """Otherwise training and test data would overlap."""
    path = write(tmp_path / "a.jsonl", FLASHRAG)
    os.symlink(path, tmp_path / "b.jsonl")
    for other in (str(path), str(tmp_path / "b.jsonl"), str(tmp_path / "." / "x" / ".." / "a.jsonl")):
        with pytest.raises(ValueError, match=re.escape(f"{other} is in both train and test_id")):
            DeepSearchEnv(data={"questions": {"train": str(path), "test_id": [other]}})
    with pytest.raises(ValueError, match=r"data\.questions\.train lists a file twice"):
        DeepSearchEnv(data={"questions": {"train": [str(path), str(path)]}})
