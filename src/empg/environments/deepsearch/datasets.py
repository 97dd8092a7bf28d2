"""Questions of the known datasets, from their official files or the forms they are passed on in; and their paragraphs.

Nothing of them ships with this package. Files are read record by record; which dataset a file is of shows in its
records, or is said. A record that does not fit is counted with its place and left out; a file that cannot be read, or
has no usable question at all, is an error.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.record_files import Unreadable, listed, read_rows
from empg.environments.deepsearch.retrieval.query import clean_text
from empg.environments.deepsearch.world import Document, Hop, Question
from empg.errors import MissingFileError, UserError

HOMES = {
    "hotpotqa": "https://hotpotqa.github.io",
    "2wiki": "https://github.com/Alab-NII/2wikimultihop",
    "musique": "https://github.com/StonyBrookNLP/musique",
    "bamboogle": "https://github.com/ofirpress/self-ask",
    "webwalker": "https://huggingface.co/datasets/callanwu/WebWalkerQA",
    "nq": "https://github.com/google-research-datasets/natural-questions (nq_open)",
    "triviaqa": "https://nlp.cs.washington.edu/triviaqa",
    "popqa": "https://github.com/AlexTMallen/adaptive-retrieval",
    "generic": "https://huggingface.co/datasets/RUC-NLPIR/FlashRAG_datasets",
}
"""The datasets by name, and where each can be had."""

IN_DISTRIBUTION = ("hotpotqa", "2wiki", "webwalker")
"""What the paper trains on, and whose test sets it calls in-distribution (section 4.1)."""
OUT_OF_DISTRIBUTION = ("musique", "bamboogle")
"""What the paper only tests on."""

WITH_CONTEXT = ("hotpotqa", "2wiki", "musique")
MAX_QUESTION = 4_000  # characters; the longest of these datasets have about 400
_STEP = re.compile(r"#(\d+)")  # MuSiQue's way to say "the answer of that step"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadReport:
    """What became of the records of one or more files.

    `unanswerable` are MuSiQue's that are meant to have no answer. `malformed` counts the rest of what was left out,
    by complaint; `examples` has file and row of the first of each. Rows count from 1: lines of a text file, items of
    a JSON array.
    """

    kept: int = 0
    unanswerable: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def complain(self, complaint: str, path: Path, row: int) -> None:
        """Count a malformed record."""
        self.malformed[complaint] += 1
        self.examples.setdefault(complaint, f"{path}, row {row}")

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{self.kept:,} questions"]
        if self.unanswerable:
            parts.append(f"{self.unanswerable:,} unanswerable left out")
        for complaint, count in sorted(self.malformed.items()):
            parts.append(f"{count:,} malformed ({complaint}; first: {self.examples[complaint]})")
        return "; ".join(parts)


def load_questions(path: str | Path, dataset: str = "auto", report: LoadReport | None = None) -> Iterator[Question]:
    """Stream the questions of a file: JSON array, JSON lines, CSV, TSV or Parquet.

    Args:
        path: of the file.
        dataset: one of `HOMES`; it becomes `Question.source`. "auto" recognises it by the first record that shows it.
        report: is filled on the way; without one, what was left out is a warning in the log.

    Raises:
        MissingFileError: the file is not there; the message says where to get it.
        UserError: there is no such dataset; or, on the way, the file is damaged, of no known form, or has no usable
            question.
    """
    file = _find(path, dataset)
    return _questions(file, dataset, LoadReport() if report is None else report, warn=report is None)


def documents_of(path: str | Path, dataset: str = "auto", report: LoadReport | None = None) -> Iterator[Document]:
    """The paragraphs that come with the questions of HotpotQA, 2WikiMultiHopQA or MuSiQue, as a corpus.

    Each title is one document, with every different paragraph that the file has under it, in order of appearance. All
    are held in memory.

    Args:
        path: of the file.
        dataset: one of `WITH_CONTEXT`, or "auto".
        report: as in `load_questions`; `kept` is not counted.

    Raises:
        MissingFileError: see `load_questions`.
        UserError: likewise; or the dataset comes without paragraphs.
    """
    file = _find(path, dataset)
    return _documents(file, dataset, LoadReport() if report is None else report, warn=report is None)


def _find(path: str | Path, dataset: str) -> Path:
    if dataset != "auto" and dataset not in HOMES:
        raise UserError(f"dataset={dataset!r}: one of auto, {', '.join(HOMES)}")
    file = Path(path)
    if not file.is_file():
        shown = HOMES if dataset == "auto" else {dataset: HOMES[dataset]}
        places = "; ".join(f"{name}: {home}" for name, home in shown.items())
        raise MissingFileError(f"{file} is not there, or is no file. It does not ship with this package; get {places}")
    return file


def _questions(path: Path, dataset: str, report: LoadReport, warn: bool) -> Iterator[Question]:
    before = report.kept
    for row, record, name in _recognised(path, dataset, report):
        try:
            if name == "musique" and record.get("answerable", True) is False:
                report.unanswerable += 1
                continue
            question = _question(record, name, path, row)
        except _Malformed as error:
            report.complain(str(error), path, row)
            continue
        report.kept += 1
        yield question
    if report.kept == before:
        raise UserError(f"{path} has no usable question: {report.summary()}")
    if warn and (report.malformed or report.unanswerable):
        _log.warning("%s: %s", path, report.summary())


def _documents(path: Path, dataset: str, report: LoadReport, warn: bool) -> Iterator[Document]:
    pages: dict[str, dict[str, None]] = {}
    source = dataset
    for row, record, source in _recognised(path, dataset, report):
        if source not in WITH_CONTEXT:
            raise UserError(f"{path} is of {source}, which has no paragraphs: only {', '.join(WITH_CONTEXT)} have")
        try:
            paragraphs = _paragraphs(record)
        except _Malformed as error:
            report.complain(str(error), path, row)
            continue
        for title, text in paragraphs:
            pages.setdefault(title, {})[text] = None
    if not pages:
        raise UserError(f"{path} has no usable paragraph: {report.summary()}")
    if warn and report.malformed:
        _log.warning("%s: %s", path, report.summary())
    for title, texts in pages.items():
        yield Document(f"{source}/{title}", title, "\n".join(texts))


class _Malformed(Exception):
    """A record that does not fit its schema."""


# ---- which dataset ---------------------------------------------------------------------------------------------------


def _recognised(path: Path, dataset: str, report: LoadReport) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Row, record with keys in lower case, and dataset; what cannot be a record is counted."""
    name = None if dataset == "auto" else dataset
    for row, record in read_rows(path):
        if isinstance(record, Unreadable):
            report.complain(record.why, path, row)
        elif not isinstance(record, dict):
            report.complain("a record is no object", path, row)
        else:
            lower = {str(key).strip().lower(): value for key, value in record.items()}
            name = name or _recognise(record, lower)
            if name is None:
                report.complain("of no known form", path, row)
            else:
                yield row, lower, name
    if name is None:
        raise UserError(f"{path} shows no dataset in any record: {report.summary()}; name it (dataset=...)")


def _recognise(record: Mapping[str, Any], lower: Mapping[str, Any]) -> str | None:
    if "question" not in lower:
        return None
    if "golden_answers" in lower:
        return "generic"
    if "paragraphs" in lower or "question_decomposition" in lower:
        return "musique"
    if "context" in lower and ("supporting_facts" in lower or "_id" in lower):
        return "2wiki" if "evidences" in lower or "entity_ids" in lower else "hotpotqa"
    if "possible_answers" in lower:
        return "popqa"
    if "root_url" in lower:
        return "webwalker"
    if isinstance(lower.get("answer"), dict):
        return "triviaqa"
    if {"Question", "Answer"} <= record.keys():
        return "bamboogle"
    if lower.keys() == {"question", "answer"} and isinstance(lower["answer"], list):
        return "nq"
    return "generic" if "answer" in lower or "answers" in lower else None


# ---- records ---------------------------------------------------------------------------------------------------------


def _question(record: Mapping[str, Any], name: str, path: Path, row: int) -> Question:
    text = _text(record.get("question"), "question")
    if len(text) > MAX_QUESTION:
        raise _Malformed(f"question has more than {MAX_QUESTION:,} characters")
    source = name
    if name == "generic":
        said = record.get("data_source")
        source = said if isinstance(said, str) and said else path.stem
    answers = _answers(record)
    named = (record.get(key) for key in ("_id", "id", "question_id", "questionid"))
    identity = next((clean_text(str(said)) for said in named if isinstance(said, (str, int)) and said != ""), "")
    kind = _kind(record, name, identity)
    hops: tuple[Hop, ...] = ()
    if name == "musique" and "question_decomposition" in record:
        hops = _steps(record)
    elif name == "2wiki" and record.get("evidences"):
        hops = _evidences(record)
    elif name in ("hotpotqa", "2wiki") and record.get("supporting_facts"):
        hops = _supporting(record, answers[0])
    return Question(identity or f"{source}-{row}", text, answers, kind or source, source, hops)


def _kind(record: Mapping[str, Any], name: str, identity: str) -> str:
    """The dataset's own word for the sort of question; "" where it has none."""
    if name == "musique" and "__" in identity:
        return identity.partition("__")[0]  # "3hop1": three hops, first shape
    nested = record.get("metadata") or record.get("info")
    for where, key in ((record, "type"), (record, "prop"), (nested, "type")):
        said = where.get(key) if isinstance(where, Mapping) else None
        if isinstance(said, str) and said.strip():
            return clean_text(said.strip())
    return ""


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Every right answer once, the canonical one first."""
    key = next((key for key in ("golden_answers", "possible_answers", "answers", "answer") if key in record), "answer")
    given = record.get(key)
    if key == "possible_answers" and isinstance(given, str):
        given = listed(given)
        if isinstance(given, str):
            raise _Malformed("possible_answers is no list")
    if isinstance(given, Mapping):  # TriviaQA
        lower = {str(name).lower(): value for name, value in given.items()}
        given = [*_as_list(lower.get("value")), *_as_list(lower.get("aliases"))]
    found: dict[str, None] = {}
    for answer in [*_as_list(given), *_as_list(record.get("answer_aliases"))]:
        if isinstance(answer, bool) or not isinstance(answer, (str, int)):
            raise _Malformed(f"{key} holds something that is no text")
        try:
            text = str(answer)
        except ValueError:  # Python refuses to print an integer of thousands of digits
            raise _Malformed(f"{key} holds a number that is too long") from None
        found[" ".join(clean_text(text).split())] = None
    found.pop("", None)
    if not found:
        raise _Malformed("no answer")
    return tuple(found)


def _steps(record: Mapping[str, Any]) -> tuple[Hop, ...]:
    """MuSiQue's decomposition, with "#1" replaced by the answer of the first step."""
    titles = {
        place: _text(paragraph.get("title"), "paragraph title")
        for place, paragraph in _indexed(record.get("paragraphs", []))
    }
    steps = record["question_decomposition"]
    if not isinstance(steps, list):
        raise _Malformed("question_decomposition is no list")
    hops: list[Hop] = []
    for step in steps:
        if not isinstance(step, dict):
            raise _Malformed("question_decomposition has a step that is no object")
        asked = _text(step.get("question"), "step question").replace(" >> ", " ")

        def earlier(match: re.Match[str], known: int = len(hops)) -> str:
            number = int(match[1]) if len(match[1]) < 3 else 0
            return hops[number - 1].value if 1 <= number <= known else match[0]

        place = step.get("paragraph_support_idx")
        title = titles.get(place, "") if isinstance(place, int) else ""
        hops.append(Hop(_STEP.sub(earlier, asked), title, _text(step.get("answer"), "step answer")))
    return tuple(hops)


def _evidences(record: Mapping[str, Any]) -> tuple[Hop, ...]:
    """2WikiMultiHopQA's triples. A subject's page may have more in its title: "Sahara (1943 film)"."""
    titles = [title for title, _ in _paragraphs(record)]
    hops = []
    for triple in _as_list(record["evidences"]):
        if not isinstance(triple, list) or len(triple) != 3:
            raise _Malformed("evidences has an entry that is no triple")
        subject, relation, value = (_text(part, "evidence") for part in triple)
        longer = next((title for title in titles if title.startswith(f"{subject} (")), subject)
        hops.append(Hop(f"{subject} {relation}", subject if subject in titles else longer, value))
    return tuple(hops)


def _supporting(record: Mapping[str, Any], answer: str) -> tuple[Hop, ...]:
    """HotpotQA's gold pages, the one that states the answer last.

    Nothing says what is to be taken from a page: its value is the answer, else the title of the next where it names
    that, else nothing.
    """
    facts = record["supporting_facts"]
    if isinstance(facts, dict):  # as in Parquet
        named = _as_list(facts.get("title"))
    else:
        named = [fact[0] if isinstance(fact, list) and fact else None for fact in _as_list(facts)]
    titles = list(dict.fromkeys(_text(title, "supporting title") for title in named))
    texts = {title: text.casefold() for title, text in _paragraphs(record)}
    titles.sort(key=lambda title: answer.casefold() in texts.get(title, ""))  # stable
    hops = []
    for title, following in zip(titles, [*titles, None][1:], strict=True):
        text = texts.get(title, "")
        value = next((said for said in (following, answer) if said is not None and said.casefold() in text), "")
        hops.append(Hop(title, title, value))
    return tuple(hops)


def _paragraphs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and text of the paragraphs that come with a question."""
    if "paragraphs" in record:
        pairs = [(p.get("title"), p.get("paragraph_text")) for _, p in _indexed(record["paragraphs"])]
    else:
        context = record.get("context")
        if isinstance(context, dict):  # as in Parquet
            texts = context.get("sentences", context.get("content"))
            if not isinstance(context.get("title"), list) or not isinstance(texts, list):
                raise _Malformed("context is no list of paragraphs")
            context = [list(pair) for pair in zip(context["title"], texts, strict=False)]
        if not isinstance(context, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in context):
            raise _Malformed("context is no list of paragraphs")
        pairs = [(title, text) for title, text in context]
    read = []
    for title, text in pairs:
        sentences = [_text(part, "paragraph text", empty=True) for part in _as_list(text)]
        read.append((_text(title, "paragraph title"), " ".join(sentence for sentence in sentences if sentence)))
    return read


def _indexed(paragraphs: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not isinstance(paragraphs, list) or not all(isinstance(paragraph, dict) for paragraph in paragraphs):
        raise _Malformed("paragraphs is no list of objects")
    for place, paragraph in enumerate(paragraphs):
        said = paragraph.get("idx", place)
        yield (said if isinstance(said, int) else place), paragraph


def _text(value: Any, name: str, empty: bool = False) -> str:
    """A text on one line."""
    if not isinstance(value, str):
        raise _Malformed(f"{name} is no text")
    text = " ".join(clean_text(value).split())
    if not text and not empty:
        raise _Malformed(f"{name} is empty")
    return text


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
