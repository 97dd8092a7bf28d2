"""Small files of the known datasets in each official format, and damaged, unknown and missing files."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from empg.environments.deepsearch.dataset_names import HOMES, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, dataset_of_path
from empg.environments.deepsearch.datasets import LoadReport, documents_of, load_questions
from empg.environments.deepsearch.world import Document, Hop, Question

HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "answer": "Orvel",
    "question": "Where was the painter of The Heron born?",
    "supporting_facts": [["Ada Pell", 0], ["The Heron", 0], ["The Heron", 1]],
    "context": [
        ["Ada Pell", ["Ada Pell is a painter.", " She was born in Orvel."]],
        ["The Heron", ["The Heron is a painting.", " It is by Ada Pell."]],
        ["Heron", ["A heron is a bird."]],
    ],
    "type": "bridge",
    "level": "hard",
}
TWO_WIKI = {
    "_id": "13f5ad2c088c11ebbd6fac1f6bf848b6",
    "type": "bridge_comparison",
    "question": "Are the directors of Ash and Dust (film) from the same country?",
    "context": [
        ["Ash (1951 film)", ["Ash is a film by Ivo Kern."]],
        ["Ivo Kern", ["Ivo Kern is from Norland."]],
        ["Dust", ["Dust is a film by Una Moe."]],
        ["Una Moe", ["Una Moe is from Norland."]],
    ],
    "entity_ids": "Q1_Q2_Q3_Q4",
    "supporting_facts": [["Ash (1951 film)", 0], ["Ivo Kern", 0], ["Dust", 0], ["Una Moe", 0]],
    "evidences": [
        ["Ash", "director", "Ivo Kern"],
        ["Ivo Kern", "country of citizenship", "Norland"],
        ["Dust", "director", "Una Moe"],
        ["Una Moe", "country of citizenship", "Norland"],
    ],
    "answer": "yes",
    "evidences_id": [["Q1", "director", "Q2"]],
    "answer_id": None,
}
MUSIQUE = {
    "id": "2hop__460946_294723",
    "paragraphs": [
        {"idx": 0, "title": "Green", "paragraph_text": "Green is an album by Steve Hillage.", "is_supporting": True},
        {"idx": 1, "title": "Green", "paragraph_text": "Green is a colour.", "is_supporting": False},
        {"idx": 2, "title": "Miquette", "paragraph_text": "Her husband is Steve Hillage.", "is_supporting": True},
    ],
    "question": "Who is the spouse of the Green performer?",
    "question_decomposition": [
        {"id": 460946, "question": "Green >> performer", "answer": "Steve Hillage", "paragraph_support_idx": 0},
        {"id": 294723, "question": "#1 >> spouse of #9", "answer": "Miquette", "paragraph_support_idx": 2},
    ],
    "answer": "Miquette Giraudy",
    "answer_aliases": ["Miquette", "Miquette Giraudy"],
    "answerable": True,
}
NO_CHAIN: tuple[Hop, ...] = ()


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def loaded(folder: Path, text: str | bytes, name: str = "dev.json", **options: Any) -> list[Question]:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(load_questions(file, **options))


def facts(questions: Sequence[Question]) -> list[tuple[str, str, tuple[str, ...], str]]:
    return [(question.id, question.text, question.answers, question.source) for question in questions]


# ---- formats ---------------------------------------------------------------------------------------------------------


def test_hotpotqa(tmp_path: Path) -> None:
    assert loaded(tmp_path, json.dumps([HOTPOT])) == [
        Question(
            id="5a8b57f25542995d1e6f1371",
            text="Where was the painter of The Heron born?",
            answers=("Orvel",),
            kind="bridge",
            source="hotpotqa",
            # The page with the answer comes last, though the data names it first.
            hops=(Hop("The Heron", "The Heron", "Ada Pell"), Hop("Ada Pell", "Ada Pell", "Orvel")),
        )
    ]


def test_hotpotqa_without_gold_pages_in_the_context(tmp_path: Path) -> None:
    record = {**HOTPOT, "type": "comparison", "answer": "yes", "context": [["Heron", ["A bird."]]]}
    (question,) = loaded(tmp_path, json.dumps([record]))
    assert question.hops == (Hop("Ada Pell", "Ada Pell", ""), Hop("The Heron", "The Heron", ""))


@pytest.mark.parametrize(
    ("answer", "value"), [("yes", ""), ("no", ""), ("No", ""), ("her", ""), ("heron", ""), ("bird", "bird")]
)
def test_a_value_of_hotpotqa_is_a_whole_word_and_never_a_verdict(answer: str, value: str, tmp_path: Path) -> None:
    """A "no" is in "known", but no page states it."""
    context = [["Ada Pell", ["There is no known date."]], ["The Herons", ["Yes, the best known bird there."]]]
    record = {**HOTPOT, "answer": answer, "context": context, "supporting_facts": [["Ada Pell", 0], ["The Herons", 0]]}
    (question,) = loaded(tmp_path, json.dumps([record]))
    assert question.hops == (Hop("Ada Pell", "Ada Pell", ""), Hop("The Herons", "The Herons", value))


def test_hotpotqa_as_parquet(tmp_path: Path) -> None:
    record = {
        **{key: HOTPOT[key] for key in ("question", "answer", "type", "level")},
        "id": HOTPOT["_id"],
        "supporting_facts": {"title": ["Ada Pell", "The Heron", "The Heron"], "sent_id": [0, 0, 1]},
        "context": {"title": [p[0] for p in HOTPOT["context"]], "sentences": [p[1] for p in HOTPOT["context"]]},
    }
    parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "dev.parquet")
    official = loaded(tmp_path, json.dumps([HOTPOT]))
    assert list(load_questions(tmp_path / "dev.parquet")) == official
    assert list(documents_of(tmp_path / "dev.parquet")) == list(documents_of(tmp_path / "dev.json"))


def test_2wiki(tmp_path: Path) -> None:
    (question,) = loaded(tmp_path, json.dumps([TWO_WIKI]))
    assert (question.source, question.kind, question.answers) == ("2wiki", "bridge_comparison", ("yes",))
    assert question.hops == (
        Hop("Ash director", "Ash (1951 film)", "Ivo Kern"),
        Hop("Ivo Kern country of citizenship", "Ivo Kern", "Norland"),
        Hop("Dust director", "Dust", "Una Moe"),
        Hop("Una Moe country of citizenship", "Una Moe", "Norland"),
    )


def test_musique(tmp_path: Path) -> None:
    unanswerable = {**MUSIQUE, "answerable": False}
    report = LoadReport()
    (question,) = loaded(tmp_path, lines(unanswerable, MUSIQUE), "dev.jsonl", report=report)
    assert (question.id, question.kind, question.source) == ("2hop__460946_294723", "2hop", "musique")
    assert question.answers == ("Miquette Giraudy", "Miquette")
    assert question.hops == (
        Hop("Green performer", "Green", "Steve Hillage"),
        Hop("Steve Hillage spouse of #9", "Miquette", "Miquette"),  # there is no ninth step
    )
    assert (report.kept, report.unanswerable, report.skipped.counts) == (1, 1, {})
    assert report.summary() == "1 questions; 1 unanswerable skipped"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "Bamboogle Prerelease - Sheet1.csv",
            'Question,Answer\n"Who, before Una Moe, led Norland?",Ivo Kern\nWhat is it?,"A ""b"""\n',
        ),
        (
            "Bamboogle Prerelease - Sheet1.csv",
            '\ufeffQuestion,Answer\r\n"Who, before Una Moe, led Norland?",Ivo Kern\r\nWhat is it?,"A ""b"""',
        ),
        (
            "bamboogle/test.json",
            '[{"Question": "Who, before Una Moe, led Norland?", "Answer": "Ivo Kern"},\n'
            ' {"Question": "What is it?", "Answer": "A \\"b\\""}]',
        ),
        (
            "bamboogle/test.jsonl",
            '{"Question": "Who, before Una Moe, led Norland?", "Answer": "Ivo Kern"}\n\n'
            '{"Question": "What is it?", "Answer": "A \\"b\\""}\n',
        ),
    ],
)
def test_bamboogle(name: str, text: str, tmp_path: Path) -> None:
    found = loaded(tmp_path, text, name)
    assert [(question.text, question.answers) for question in found] == [
        ("Who, before Una Moe, led Norland?", ("Ivo Kern",)),
        ("What is it?", ('A "b"',)),
    ]
    assert {(question.source, question.kind, question.hops) for question in found} == {
        ("bamboogle", "bamboogle", NO_CHAIN)
    }
    assert len({question.id for question in found}) == 2


def test_webwalker(tmp_path: Path) -> None:
    record = {
        "question": "When is the deadline?",
        "answer": "3 May",
        "root_url": "https://conf.example/",
        "info": {"hop": "multi-source", "type": "multi_source", "golden_path": ["root->calls"]},
    }
    (question,) = loaded(tmp_path, lines(record), "test.jsonl")
    assert (question.source, question.kind, question.answers) == ("webwalker", "multi_source", ("3 May",))


def test_natural_questions(tmp_path: Path) -> None:
    text = lines({"question": "who sang it", "answer": ["Una Moe", "Moe"]})
    assert facts(loaded(tmp_path, text, "NQ-open.dev.jsonl")) == [("nq-1", "who sang it", ("Una Moe", "Moe"), "nq")]


def test_tables_with_answers_in_python_notation(tmp_path: Path) -> None:
    text = "who sang it\t['Una Moe', \"Una's\"]\nwho wrote it\t[\"O'Hara\"]\nwhich sign\t[?]\n"
    assert facts(loaded(tmp_path, text, "nq-test.qa.csv", dataset="nq")) == [
        ("nq-1", "who sang it", ("Una Moe", "Una's"), "nq"),
        ("nq-2", "who wrote it", ("O'Hara",), "nq"),
        ("nq-3", "which sign", ("[?]",), "nq"),
    ]


def test_triviaqa(tmp_path: Path) -> None:
    answer = {"value": "Sunset Blvd", "aliases": ["Sunset Blvd", "Sunset Boulevard"], "type": "WikipediaEntity"}
    text = lines(
        {"question": "Which musical?", "question_id": "tc_2", "answer": answer},
        {"Question": "Which film?", "QuestionId": "tc_3", "Answer": {"Value": "Ash", "Aliases": ["ash"]}},
    )
    assert facts(loaded(tmp_path, text, "dev.jsonl")) == [
        ("tc_2", "Which musical?", ("Sunset Blvd", "Sunset Boulevard"), "triviaqa"),
        ("tc_3", "Which film?", ("Ash", "ash"), "triviaqa"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "popQA.tsv",
            "id\tprop\tquestion\tpossible_answers\n"
            '4222362\toccupation\tWhat is Una\'s job?\t"[""politician"", ""statesman \\u00e9""]"\n',
        ),
        (
            "popqa.jsonl",
            lines(
                {
                    "id": 4222362,
                    "prop": "occupation",
                    "question": "What is Una's job?",
                    "possible_answers": '["politician", "statesman \\u00e9"]',
                }
            ),
        ),
    ],
)
def test_popqa(name: str, text: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, text, name) == [
        Question("4222362", "What is Una's job?", ("politician", "statesman é"), "occupation", "popqa")
    ]


def test_generic(tmp_path: Path) -> None:
    text = lines(
        {"id": "train_0", "question": " Who\nsang ", "golden_answers": ["Una", 1999, " Una "], "data_source": "nq"},
        {"question": "Who?", "golden_answers": ["x"], "metadata": {"type": "bridge"}},
    )
    assert loaded(tmp_path, text, "mixed.jsonl") == [
        Question("train_0", "Who sang", ("Una", "1999"), "nq", "nq"),
        Question("mixed-2", "Who?", ("x",), "bridge", "mixed"),
    ]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hotpotqa/dev.jsonl", "hotpotqa"),  # FlashRAG
        ("2wikimultihopqa/train.jsonl", "2wiki"),
        ("triviaqa/data/test-00000-of-00001.parquet", "triviaqa"),
        ("squad/dev.jsonl.gz", "squad"),
        ("hotpot_dev.jsonl", "hotpotqa"),
        ("NQ-open.dev.jsonl", "nq"),
        ("frames_test.csv", "frames"),
        ("musique/bamboogle.csv", "bamboogle"),
        ("own/rivers.csv", "rivers"),
        ("own/dataframes.csv", "dataframes"),
        ("own/nq_and_popqa.csv", "nq_and_popqa"),
        ("dev.jsonl", "dev"),
        ("data/dev.jsonl", "dev"),
    ],
)
def test_the_name_of_a_file_or_its_folder_gives_the_source_of_generic_records(path: str, source: str) -> None:
    assert dataset_of_path(Path(path)) == source


def test_the_columns_question_and_answer_are_not_bamboogle_by_themselves(tmp_path: Path) -> None:
    for name in ("frames", "mine"):
        (question,) = loaded(tmp_path, "Question,Answer\nWho?,Una Moe\n", f"{name}/{name}.csv")
        assert (question.source, question.kind) == (name, name)


def test_frames(tmp_path: Path) -> None:
    text = (
        "\tPrompt\tAnswer\twikipedia_link_1\treasoning_types\twiki_links\n"
        "0\tWho, of both, is older?\tUna Moe\thttps://a.example\tTemporal\t['https://a.example']\n"
    )
    assert facts(loaded(tmp_path, text, "test.tsv")) == [
        ("frames-2", "Who, of both, is older?", ("Una Moe",), "frames")
    ]
    asked = {"Question": "Who?", "Answer": "Una Moe", "wiki_links": ["https://a.example"]}
    assert facts(loaded(tmp_path, lines(asked), "test.jsonl")) == [("frames-1", "Who?", ("Una Moe",), "frames")]


# The rows of trainers, as their own scripts write them: Search-R1, verl-agent, and verl without a column `question`.
TARGET = {"target": ["Una Moe", "Moe"]}
TEMPLATE = "Answer the given question. For example, <answer> Beijing </answer>. Question: "
SEARCH_R1: dict[str, Any] = {
    "id": "train_0",
    "question": "Who?",
    "golden_answers": ["Una Moe", "Moe"],
    "data_source": "nq",
    "prompt": [{"role": "user", "content": f"{TEMPLATE}Who?\n"}],
    "ability": "fact-reasoning",
    "reward_model": {"style": "rule", "ground_truth": TARGET},
    "extra_info": {"index": 0, "split": "train"},
}
VERL_AGENT: dict[str, Any] = {
    "data_source": "searchR1_nq",
    "prompt": [{"role": "system", "content": "Search."}, {"role": "user", "content": f"{TEMPLATE}Who?"}],
    "ability": None,
    "reward_model": {"style": "rule", "ground_truth": TARGET},
    "extra_info": {"index": 0, "question": "Who?", "split": "train"},
    "metadata": None,
    "env_kwargs": {"ground_truth": TARGET, "question": "Who?", "data_source": "searchR1_nq"},
}


@pytest.mark.parametrize(
    "row",
    [
        SEARCH_R1,
        VERL_AGENT,
        {"env_kwargs": VERL_AGENT["env_kwargs"]},
        {"env_kwargs": {**VERL_AGENT["env_kwargs"], "ground_truth": ["Una Moe", "Moe"]}},
        {key: SEARCH_R1[key] for key in ("data_source", "prompt", "reward_model")},
        {key: VERL_AGENT[key] for key in ("data_source", "prompt", "reward_model", "extra_info")},
        {
            "data_source": "nq",
            "prompt": [{"role": "user", "content": "Who?"}],
            "reward_model": {"ground_truth": TARGET},
        },
        {"data_source": "nq", "prompt": "Who?", "reward_spec": {"ground_truth": TARGET}},
    ],
)
def test_the_rows_of_trainers(row: dict[str, Any], tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    for found in (list(load_questions(tmp_path / "train.parquet")), loaded(tmp_path, lines(row), "train.jsonl")):
        [question] = found
        assert (question.text, question.answers, question.source) == ("Who?", ("Una Moe", "Moe"), "nq")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**VERL_AGENT, "env_kwargs": {"question": 5}}, "question must be a string"),
        ({"prompt": [{"role": "user", "content": 5}, 7], "reward_model": {}, "question": None}, "question must be a"),
        ({"prompt": "Who?", "reward_model": {"ground_truth": {"target": [{}]}}}, "reward_model.ground_truth must"),
        ({"prompt": "Who?", "reward_model": [], "env_kwargs": 7}, "no answer"),
    ],
)
def test_malformed_rows_of_trainers_are_counted(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    report = LoadReport()
    with pytest.raises(ValueError, match=f"no usable question found: 0 questions; 1 malformed .{reason}"):
        loaded(tmp_path, lines(row), "train.jsonl", report=report)


def test_a_huge_file_without_usable_questions_is_not_read_to_its_end(tmp_path: Path) -> None:
    for record, reason in (({"question": "Who?", "golden_answers": []}, "no answer"), ({"a": 1}, "unknown format")):
        with pytest.raises(ValueError, match=rf"0 questions; 1,000 malformed \({reason}"):
            loaded(tmp_path, lines(*[record] * 1_500), "train.jsonl")


def test_a_given_dataset_overrides_recognition(tmp_path: Path) -> None:
    text = lines({"id": "test_0", "question": "Who?", "golden_answers": ["x"]})
    (question,) = loaded(tmp_path, text, "test.jsonl", dataset="musique")
    assert (question.source, question.hops) == ("musique", NO_CHAIN)


def test_the_papers_split() -> None:
    assert IN_DISTRIBUTION == ("hotpotqa", "2wiki", "webwalker")
    assert OUT_OF_DISTRIBUTION == ("musique", "bamboogle")
    assert HOMES.keys() >= {*IN_DISTRIBUTION, *OUT_OF_DISTRIBUTION}


# ---- malformed input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([], "record must be an object"),
        ({**HOTPOT, "question": 7}, "question must be a string"),
        ({**HOTPOT, "question": " "}, "question is empty"),
        ({**HOTPOT, "question": "w" * 5000}, "question has more than 4,000 characters"),
        ({key: HOTPOT[key] for key in ("_id", "question", "context")}, "no answer"),  # as in the test set
        ({**HOTPOT, "answer": ""}, "no answer"),
        ({**HOTPOT, "answer": True}, "answer must contain only strings or integers"),
        ({**HOTPOT, "supporting_facts": [[]]}, "supporting title must be a string"),
        ({**HOTPOT, "context": "Ada"}, "context must be a list of paragraphs"),
        ({**HOTPOT, "context": [["Ada", [1]]]}, "paragraph text must be a string"),
    ],
)
def test_malformed_records_are_counted_with_their_position(broken: Any, reason: str, tmp_path: Path) -> None:
    report = LoadReport()
    found = loaded(tmp_path, json.dumps([HOTPOT, broken, HOTPOT, broken]), report=report, dataset="hotpotqa")
    assert (len(found), report.kept, report.skipped.counts) == (2, 2, {reason: 2})
    assert report.skipped.first == {reason: f"{tmp_path / 'dev.json'}, row 2"}
    assert f"2 malformed ({reason}; first: " in report.summary()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({**TWO_WIKI, "evidences": [["Ash", "director"]]}, "each entry of evidences must be a triple"),
        ({**MUSIQUE, "paragraphs": {}}, "paragraphs must be a list of objects"),
        ({**MUSIQUE, "question_decomposition": [1]}, "each step of question_decomposition must be an object"),
        ({"question": "Who?", "possible_answers": "politician"}, "possible_answers must be a list"),
    ],
)
def test_malformed_records_of_other_datasets(broken: Any, reason: str, tmp_path: Path) -> None:
    report = LoadReport()
    with pytest.raises(ValueError, match="no usable question found: 0 questions; 1 malformed"):
        loaded(tmp_path, lines(broken), "dev.jsonl", report=report)
    assert report.skipped.counts == {reason: 1}


def test_a_malformed_line_affects_only_itself(tmp_path: Path) -> None:
    good = lines({"question": "Who?", "golden_answers": ["x"]}).encode()
    text = b"{cut\n" + good + b'{"question": "\xff", "golden_answers": ["x"]}\n' + b"[" * 100_000 + b"\n" + good
    report = LoadReport()
    assert [question.id for question in loaded(tmp_path, text, "own.jsonl", report=report)] == ["own-2", "own-5"]
    assert report.skipped.counts == {"not JSON": 2, "not UTF-8": 1}
    assert report.skipped.first["not UTF-8"].endswith("own.jsonl, row 3")


def test_a_malformed_table_row_affects_only_itself(tmp_path: Path) -> None:
    text = b"question,answer\nWho?,x\nWhat?\nWhen?,\xff\n" + b'Where?,"y" y' + b"\nWhy?,z\n"
    report = LoadReport()
    assert [question.text for question in loaded(tmp_path, text, "dev.csv", report=report)] == ["Who?", "Why?"]
    assert sorted(report.skipped.counts) == [
        "not CSV (',' expected after '\"')",
        "not UTF-8",
        "wrong number of columns: expected 2",
    ]


@pytest.mark.parametrize("ends", ['"', "", '" it ends'], ids=["closed at the end", "never closed", "closed inside"])
def test_an_open_quote_in_tsv_is_text(tmp_path: Path, ends: str) -> None:
    """`"Heroes` would swallow all rows up to the next quote, or the whole file."""
    rows = [f"Who wrote {n}?\tx{n}" for n in range(40)]
    rows[5], rows[20], rows[30] = '"Heroes is by whom?\tBowie', f"Who wrote 20?\tx{ends}", 'Who?\t"Jo" Ann'
    report = LoadReport()
    found = loaded(tmp_path, "question\tanswer\n" + "\n".join(rows) + "\n", "dev.tsv", report=report)
    assert [question.text for question in found] == [row.split("\t")[0] for row in rows]
    assert [found[i].answers for i in (5, 6, 30)] == [("Bowie",), ("x6",), ('"Jo" Ann',)]
    assert report.skipped.counts == {}


def test_an_open_quote_in_csv_costs_its_own_row(tmp_path: Path) -> None:
    rows = [f"Who wrote {n}?,x{n}" for n in range(40)]
    rows[5], rows[30] = '"Heroes is by whom?,Bowie', 'Who?,"Jo" Ann'
    rows[10] = '"Who wrote\nthese two lines?",x10'  # a cell of two lines is correct
    report = LoadReport()
    found = loaded(tmp_path, "question,answer\n" + "\n".join(rows) + "\n", "dev.csv", report=report)
    assert len(found) == 38
    assert found[9].text == "Who wrote these two lines?"
    assert sum(report.skipped.counts.values()) == 2
    assert any("row 7" in example for example in report.skipped.first.values())  # where the quote opens


def test_a_number_that_is_too_long_affects_only_its_row(tmp_path: Path) -> None:
    text = f"question,answer\nWho?,[0x{'f' * 10_000}]\nWhy?,z\n"
    report = LoadReport()
    assert [question.text for question in loaded(tmp_path, text, "dev.csv", report=report)] == ["Why?"]
    assert report.skipped.counts == {"answer contains a number that is too long": 1}


def test_skipped_records_are_logged_without_a_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = lines({"question": "Who?", "golden_answers": ["x"]}, {"question": "Who?", "golden_answers": []})
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path, text, "dev.jsonl")
    assert "1 malformed (no answer; first: " in caplog.text


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "dev.jsonl", "no record identifies the dataset"),
        (lines({"text": "a corpus"}), "dev.jsonl", r"1 malformed \(unknown format; .*\. Expected .* question with"),
        ('{\n  "Data": []\n}', "dev.json", "no record identifies the dataset"),
        ('{\n  "Data": [{"Question": "q"', "dev.json", "not valid JSON after"),
        ('{\n  "Version": 1\n}', "dev.json", "got one JSON object"),
        (json.dumps([HOTPOT])[:-9], "dev.json", "download it again"),
        (b'[{"question": "\xff"}]', "dev.json", "not UTF-8"),
        (b"PAR1 and no more", "dev.parquet", "download it again"),
    ],
)
def test_an_unusable_file_is_an_error(text: str | bytes, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        loaded(tmp_path, text, name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_error_for_a_missing_file_has_the_download_page(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"dev.json not found; .* Download: hotpotqa: https://hotpotqa.github.io$"
    ):
        load_questions(tmp_path / "dev.json", "hotpotqa")
    with pytest.raises(FileNotFoundError, match=HOMES["musique"]):
        documents_of(tmp_path / "dev.json")


def test_an_unknown_dataset_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset='hotpot': expected one of auto, hotpotqa"):
        load_questions(tmp_path / "dev.json", "hotpot")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=6,
)


@given(field=st.sampled_from(sorted({**HOTPOT, **TWO_WIKI, **MUSIQUE})), value=_JSON, base=st.integers(0, 2))
def test_any_record_is_loaded_or_counted(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any, base: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    official = (HOTPOT, TWO_WIKI, MUSIQUE)[base]
    dataset = ("hotpotqa", "2wiki", "musique")[base]
    file.write_text(json.dumps([official, {**official, field: value}]))
    report = LoadReport()
    found = list(load_questions(file, dataset, report))
    assert len(found) == report.kept
    assert len(found) + report.unanswerable + report.skipped.counts.total() == 2
    assert all(question.text and all(question.answers) for question in found)
    assert list(documents_of(file, dataset, LoadReport()))


# ---- paragraphs as a corpus ------------------------------------------------------------------------------------------


def test_paragraphs_of_hotpotqa(tmp_path: Path) -> None:
    other = {**HOTPOT, "context": [["Heron", ["A heron is a bird."]], ["Orvel", ["Orvel is", " a town. "]]]}
    (tmp_path / "dev.json").write_text(json.dumps([HOTPOT, other]))
    assert list(documents_of(tmp_path / "dev.json")) == [
        Document("hotpotqa/Ada Pell", "Ada Pell", "Ada Pell is a painter. She was born in Orvel."),
        Document("hotpotqa/The Heron", "The Heron", "The Heron is a painting. It is by Ada Pell."),
        Document("hotpotqa/Heron", "Heron", "A heron is a bird."),
        Document("hotpotqa/Orvel", "Orvel", "Orvel is a town."),
    ]


def test_paragraphs_with_one_title_are_one_document(tmp_path: Path) -> None:
    unanswerable = {**MUSIQUE, "answerable": False}
    (tmp_path / "dev.jsonl").write_text(lines(MUSIQUE, unanswerable))
    assert list(documents_of(tmp_path / "dev.jsonl")) == [
        Document("musique/Green", "Green", "Green is an album by Steve Hillage.\nGreen is a colour."),
        Document("musique/Miquette", "Miquette", "Her husband is Steve Hillage."),
    ]


def test_a_dataset_without_paragraphs_is_rejected_as_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text(lines({"question": "Who?", "answer": ["x"]}))
    with pytest.raises(
        ValueError, match=r"no paragraphs: expected a file of .*, musique, got generic\. Set data\.corpus"
    ):
        list(documents_of(tmp_path / "dev.jsonl"))


def test_triviaqas_official_file_is_one_object(tmp_path: Path) -> None:
    record = {
        "Answer": {"Aliases": ["Sinclair Lewis", "Harry Sinclair Lewis"], "Value": "Sinclair Lewis", "Type": "Wiki"},
        "EntityPages": [], "Question": "Which American-born Sinclair won the Nobel Prize?", "QuestionId": "tc_1",
    }  # fmt: skip
    official = {"Data": [record, {**record, "QuestionId": "tc_2"}], "Domain": "Web", "Split": "dev", "Version": 1.0}
    for number, layout in enumerate((None, 4)):
        for mark in ("", "\ufeff"):
            path = tmp_path / f"web-dev-{number}.json"
            path.write_text(mark + json.dumps(official, indent=layout), encoding="utf-8")
            first, second = load_questions(path)
            assert (first.id, second.id, first.source) == ("tc_1", "tc_2", "triviaqa")
            assert first.answers == ("Sinclair Lewis", "Harry Sinclair Lewis")


def test_a_byte_order_mark_before_an_array_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text("\ufeff \n" + json.dumps([{"question": "Who?", "golden_answers": ["Né"]}]), encoding="utf-8")
    [question] = load_questions(path)
    assert question.answers == ("Né",)
