"""Load questions and paragraphs of the known datasets, from official files or common redistributed formats.

The datasets are not distributed with this package. Files are read record by record. The dataset of a file is recognised
by its records, or set by the caller. Malformed records are skipped and counted with their position. A file that cannot
be read, or that has no usable question, is an error.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.aliases import aliases_beside
from empg.environments.deepsearch.record_files import Unreadable, listed, read_records
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
"""The download page of each dataset, by name."""

IN_DISTRIBUTION = ("hotpotqa", "2wiki", "webwalker")
"""Datasets that the paper trains on; it calls their test sets in-distribution (section 4.1)."""
OUT_OF_DISTRIBUTION = ("musique", "bamboogle")
"""Datasets that the paper only tests on."""

WITH_CONTEXT = ("hotpotqa", "2wiki", "musique")
MAX_QUESTION = 4_000  # characters; the longest of these datasets have about 400
_STEP = re.compile(r"#(\d+)")  # MuSiQue's notation for "the answer of this step"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadReport:
    """Counts of the records of one or more files.

    `unanswerable` counts MuSiQue's intentionally unanswerable questions. `malformed` counts all other skipped records
    by reason; `examples` maps each reason to the file and row of its first record. Rows count from 1: lines of a text
    file, items of a JSON array.
    """

    kept: int = 0
    unanswerable: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def count_malformed(self, reason: str, path: Path, row: int) -> None:
        """Count a malformed record."""
        self.malformed[reason] += 1
        self.examples.setdefault(reason, f"{path}, row {row}")

    def summary(self) -> str:
        """Return a one-line summary."""
        parts = [f"{self.kept:,} questions"]
        if self.unanswerable:
            parts.append(f"{self.unanswerable:,} unanswerable skipped")
        for reason, count in sorted(self.malformed.items()):
            parts.append(f"{count:,} malformed ({reason}; first: {self.examples[reason]})")
        return "; ".join(parts)


def load_questions(path: str | Path, dataset: str = "auto", report: LoadReport | None = None) -> Iterator[Question]:
    """Stream the questions of a file: JSON array, JSON lines, CSV, TSV or Parquet.

    Args:
        path: path of the file.
        dataset: one of `HOMES`; it becomes `Question.source`. "auto" uses the first recognisable record.
        report: updated during the iteration; without one, skipped records are logged as a warning.

    Raises:
        MissingFileError: the file does not exist; the message says where to download it.
        UserError: the dataset is unknown; or, during the iteration, the file is damaged, its format is unknown, or it
            has no usable question.
    """
    file = _find(path, dataset)
    return _questions(file, dataset, LoadReport() if report is None else report, warn=report is None)


def documents_of(path: str | Path, dataset: str = "auto", report: LoadReport | None = None) -> Iterator[Document]:
    """Yield the paragraphs that come with the questions of HotpotQA, 2WikiMultiHopQA or MuSiQue, as a corpus.

    Each title is one document with all its distinct paragraphs, in order of appearance. All documents are held in
    memory.

    Args:
        path: path of the file.
        dataset: one of `WITH_CONTEXT`, or "auto".
        report: as in `load_questions`; `kept` is not counted.

    Raises:
        MissingFileError: see `load_questions`.
        UserError: see `load_questions`; or the dataset has no paragraphs.
    """
    file = _find(path, dataset)
    return _documents(file, dataset, LoadReport() if report is None else report, warn=report is None)


def _find(path: str | Path, dataset: str) -> Path:
    if dataset != "auto" and dataset not in HOMES:
        raise UserError(f"dataset={dataset!r}: expected one of auto, {', '.join(HOMES)}")
    file = Path(path)
    if not file.is_file():
        shown = HOMES if dataset == "auto" else {dataset: HOMES[dataset]}
        places = "; ".join(f"{name}: {home}" for name, home in shown.items())
        raise MissingFileError(f"{file} not found; it is not distributed with empg. Download: {places}")
    return file


def _questions(path: Path, dataset: str, report: LoadReport, warn: bool) -> Iterator[Question]:
    before = report.kept
    for row, record, name in _recognised(path, dataset, report):
        try:
            if name == "musique" and record.get("answerable", True) is False:
                report.unanswerable += 1
                continue
            question = _question(record, name, path, row)
        except _MalformedError as error:
            report.count_malformed(str(error), path, row)
            continue
        report.kept += 1
        yield question
    if report.kept == before:
        raise UserError(f"{path}: no usable question found: {report.summary()}")
    if warn and (report.malformed or report.unanswerable):
        _log.warning("%s: %s", path, report.summary())


def _documents(path: Path, dataset: str, report: LoadReport, warn: bool) -> Iterator[Document]:
    pages: dict[str, dict[str, None]] = {}
    source = dataset
    for row, record, source in _recognised(path, dataset, report):
        if source not in WITH_CONTEXT:
            raise UserError(f"{path}: no paragraphs: expected a file of {', '.join(WITH_CONTEXT)}, got {source}")
        try:
            paragraphs = _paragraphs(record)
        except _MalformedError as error:
            report.count_malformed(str(error), path, row)
            continue
        for title, text in paragraphs:
            pages.setdefault(title, {})[text] = None
    if not pages:
        raise UserError(f"{path}: no usable paragraph found: {report.summary()}")
    if warn and report.malformed:
        _log.warning("%s: %s", path, report.summary())
    for title, texts in pages.items():
        yield Document(f"{source}/{title}", title, "\n".join(texts))


class _MalformedError(Exception):
    """A record does not match its schema."""


# ---- recognising the dataset -----------------------------------------------------------------------------------------


def _recognised(path: Path, dataset: str, report: LoadReport) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield row, record with lower-case keys, and dataset. Unrecognised records are counted."""
    name = None if dataset == "auto" else dataset
    for row, record in read_records(path):
        if isinstance(record, Unreadable):
            report.count_malformed(record.reason, path, row)
        elif not isinstance(record, dict):
            report.count_malformed("record must be an object", path, row)
        else:
            lower = {str(key).strip().lower(): value for key, value in record.items()}
            name = name or _recognise(record, lower)
            if name is None:
                report.count_malformed("unknown format", path, row)
            else:
                yield row, lower, name
    if name is None:
        raise UserError(f"{path}: no record identifies the dataset: {report.summary()}. Set dataset=...")


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
        raise _MalformedError(f"question has more than {MAX_QUESTION:,} characters")
    source = name
    if name == "generic":
        data_source = record.get("data_source")
        source = data_source if isinstance(data_source, str) and data_source else path.stem
    answers = _answers(record)
    if name == "2wiki" and isinstance(answer_id := record.get("answer_id"), str):
        answers = tuple(dict.fromkeys((*answers, *aliases_beside(path).get(answer_id, ()))))
    ids = (record.get(key) for key in ("_id", "id", "question_id", "questionid"))
    identity = next((clean_text(str(own)) for own in ids if isinstance(own, (str, int)) and own != ""), "")
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
    """Return the dataset's own term for the kind of question, or "" if it has none."""
    if name == "musique" and "__" in identity:
        return identity.partition("__")[0]  # "3hop1": three hops, first shape
    nested = record.get("metadata") or record.get("info")
    for where, key in ((record, "type"), (record, "prop"), (nested, "type")):
        value = where.get(key) if isinstance(where, Mapping) else None
        if isinstance(value, str) and value.strip():
            return clean_text(value.strip())
    return ""


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the distinct correct answers, the canonical one first."""
    key = next((key for key in ("golden_answers", "possible_answers", "answers", "answer") if key in record), "answer")
    given = record.get(key)
    if key == "possible_answers" and isinstance(given, str):
        given = listed(given)
        if isinstance(given, str):
            raise _MalformedError("possible_answers must be a list")
    if isinstance(given, Mapping):  # TriviaQA
        lower = {str(name).lower(): value for name, value in given.items()}
        given = [*_as_list(lower.get("value")), *_as_list(lower.get("aliases"))]
    found: dict[str, None] = {}
    for answer in [*_as_list(given), *_as_list(record.get("answer_aliases"))]:
        if isinstance(answer, bool) or not isinstance(answer, (str, int)):
            raise _MalformedError(f"{key} must contain only strings or integers")
        try:
            text = str(answer)
        except ValueError:  # Python does not print integers with thousands of digits
            raise _MalformedError(f"{key} contains a number that is too long") from None
        found[" ".join(clean_text(text).split())] = None
    found.pop("", None)
    if not found:
        raise _MalformedError("no answer")
    return tuple(found)


def _steps(record: Mapping[str, Any]) -> tuple[Hop, ...]:
    """Parse MuSiQue's decomposition, with "#1" replaced by the answer of the first step."""
    titles = {
        place: _text(paragraph.get("title"), "paragraph title")
        for place, paragraph in _indexed(record.get("paragraphs", []))
    }
    steps = record["question_decomposition"]
    if not isinstance(steps, list):
        raise _MalformedError("question_decomposition must be a list")
    hops: list[Hop] = []
    for step in steps:
        if not isinstance(step, dict):
            raise _MalformedError("each step of question_decomposition must be an object")
        asked = _text(step.get("question"), "step question").replace(" >> ", " ")

        def earlier(match: re.Match[str], known: int = len(hops)) -> str:
            number = int(match[1]) if len(match[1]) < 3 else 0
            return hops[number - 1].value if 1 <= number <= known else match[0]

        place = step.get("paragraph_support_idx")
        title = titles.get(place, "") if isinstance(place, int) else ""
        hops.append(Hop(_STEP.sub(earlier, asked), title, _text(step.get("answer"), "step answer")))
    return tuple(hops)


def _evidences(record: Mapping[str, Any]) -> tuple[Hop, ...]:
    """Parse 2WikiMultiHopQA's triples. The title of a subject's page may be longer: "Sahara (1943 film)"."""
    titles = [title for title, _ in _paragraphs(record)]
    hops = []
    for triple in _as_list(record["evidences"]):
        if not isinstance(triple, list) or len(triple) != 3:
            raise _MalformedError("each entry of evidences must be a triple")
        subject, relation, value = (_text(part, "evidence") for part in triple)
        longer = next((title for title in titles if title.startswith(f"{subject} (")), subject)
        hops.append(Hop(f"{subject} {relation}", subject if subject in titles else longer, value))
    return tuple(hops)


def _supporting(record: Mapping[str, Any], answer: str) -> tuple[Hop, ...]:
    """Return HotpotQA's gold pages as hops; pages that contain the answer come last.

    The data does not name the fact on a page. The value of a hop is the title of the next page if the page contains it,
    else the answer if the page contains it, else empty.
    """
    facts = record["supporting_facts"]
    if isinstance(facts, dict):  # the format of Parquet files
        named = _as_list(facts.get("title"))
    else:
        named = [fact[0] if isinstance(fact, list) and fact else None for fact in _as_list(facts)]
    titles = list(dict.fromkeys(_text(title, "supporting title") for title in named))
    texts = {title: text.casefold() for title, text in _paragraphs(record)}
    titles.sort(key=lambda title: answer.casefold() in texts.get(title, ""))  # stable
    hops = []
    for title, following in zip(titles, [*titles, None][1:], strict=True):
        text = texts.get(title, "")
        value = next((own for own in (following, answer) if own is not None and own.casefold() in text), "")
        hops.append(Hop(title, title, value))
    return tuple(hops)


def _paragraphs(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return title and text of the paragraphs that come with a question."""
    if "paragraphs" in record:
        pairs = [(p.get("title"), p.get("paragraph_text")) for _, p in _indexed(record["paragraphs"])]
    else:
        context = record.get("context")
        if isinstance(context, dict):  # the format of Parquet files
            texts = context.get("sentences", context.get("content"))
            if not isinstance(context.get("title"), list) or not isinstance(texts, list):
                raise _MalformedError("context must be a list of paragraphs")
            context = [list(pair) for pair in zip(context["title"], texts, strict=False)]
        if not isinstance(context, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in context):
            raise _MalformedError("context must be a list of paragraphs")
        pairs = [(title, text) for title, text in context]
    read = []
    for title, text in pairs:
        sentences = [_text(part, "paragraph text", empty=True) for part in _as_list(text)]
        read.append((_text(title, "paragraph title"), " ".join(sentence for sentence in sentences if sentence)))
    return read


def _indexed(paragraphs: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if not isinstance(paragraphs, list) or not all(isinstance(paragraph, dict) for paragraph in paragraphs):
        raise _MalformedError("paragraphs must be a list of objects")
    for place, paragraph in enumerate(paragraphs):
        index = paragraph.get("idx", place)
        yield (index if isinstance(index, int) else place), paragraph


def _text(value: Any, name: str, empty: bool = False) -> str:
    """Return a text on one line."""
    if not isinstance(value, str):
        raise _MalformedError(f"{name} must be a string")
    text = " ".join(clean_text(value).split())
    if not text and not empty:
        raise _MalformedError(f"{name} is empty")
    return text


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
