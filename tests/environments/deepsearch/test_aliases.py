"""2WikiMultiHopQA's other names of an answer count as correct if their file is beside the questions."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from empg.environments.deepsearch.datasets import load_questions
from empg.environments.deepsearch.places import arrange
from empg.environments.deepsearch.world import Question

RECORD: dict[str, Any] = {
    "_id": "q", "type": "compositional", "question": "Where is she from?", "answer": "Germany", "answer_id": "Q183",
    "context": [["Ann", ["Ann is German."]]], "supporting_facts": [["Ann", 0]],
    "evidences": [["Ann", "country", "Germany"]],
}  # fmt: skip
NAMES = {"Q_id": "Q183", "aliases": ["Federal  Republic of Germany", "Germany"], "demonyms": ["German"]}


def loaded(folder: Path, *lines: Any, record: dict[str, Any] = RECORD) -> Question:
    (folder / "dev.json").write_text(json.dumps([record]))
    if lines:
        (folder / "id_aliases.json").write_text("\n".join(json.dumps(line) for line in lines))
    [question] = load_questions(folder / "dev.json")
    return question


def test_aliases_and_demonyms_follow_the_canonical_answer(tmp_path: Path) -> None:
    other = {"Q_id": "Q1", "aliases": ["universe"], "demonyms": []}
    assert loaded(tmp_path, other, NAMES).answers == ("Germany", "Federal Republic of Germany", "German")


def test_a_file_of_aliases_that_was_rewritten_is_read_again(tmp_path: Path) -> None:
    assert loaded(tmp_path, NAMES).answers == ("Germany", "Federal Republic of Germany", "German")
    assert loaded(tmp_path, {**NAMES, "demonyms": []}).answers == ("Germany", "Federal Republic of Germany")


def test_without_the_file_or_an_entry_the_answer_stands_alone(tmp_path: Path) -> None:
    assert loaded(tmp_path).answers == ("Germany",)
    (tmp_path / "other").mkdir()
    assert loaded(tmp_path / "other", NAMES, record={**RECORD, "answer_id": None}).answers == ("Germany",)


def test_other_datasets_have_no_aliases(tmp_path: Path) -> None:
    hotpot = {key: value for key, value in RECORD.items() if key != "evidences"}
    assert loaded(tmp_path, NAMES, record=hotpot).answers == ("Germany",)


def test_malformed_lines_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = ({"Q_id": 183}, ["Q183"], {"Q_id": "Q183", "aliases": "Deutschland"})
    with caplog.at_level(logging.WARNING):
        question = loaded(tmp_path, *broken, {**NAMES, "aliases": [7, None, "BRD"]})
    assert question.answers == ("Germany", "BRD", "German")
    assert "3 malformed lines skipped (first: row 1)" in caplog.text


def test_the_file_of_aliases_is_not_taken_for_questions(tmp_path: Path) -> None:
    loaded(tmp_path, NAMES)
    [(split, paths, _)] = arrange(tmp_path)
    assert (split, paths) == ("test_id", (str(tmp_path / "dev.json"),))
