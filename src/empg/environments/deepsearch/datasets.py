"""Load questions and paragraphs of the known datasets, from official files or common redistributed formats.

The datasets are not distributed with this package. Files are read record by record. The dataset of a file is recognised
by its records, or set by the caller. Malformed records are skipped and counted with their position. A file that cannot
be read, or that has no usable question, is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.dataset_names import HOMES
from empg.environments.deepsearch.opened_files import require_file
from empg.environments.deepsearch.question_records import (
    EXPECTED_FIELDS,
    NO_ANSWER,
    WITH_CONTEXT,
    MalformedError,
    parse_paragraphs,
    parse_question,
    recognise,
    row_dataset,
)
from empg.environments.deepsearch.record_files import Columns, Unreadable, read_records
from empg.environments.deepsearch.world import Document, Question
from empg.environments.skipped import GIVE_UP, Skipped
from empg.errors import UserError

_HEADER = frozenset(("question", "prompt"))
_COLUMNS = Columns(_HEADER, without_header=("question", "answer"), lists=True)
_DATASET_ALONE = Columns(_HEADER, _COLUMNS.without_header, lists=True, wanted=frozenset(("data_source", "env_kwargs")))
_log = logging.getLogger(__name__)


class NotQuestionsError(UserError):
    """A file was read, but its records are not questions."""


@dataclass(slots=True)
class LoadReport:
    """Counts of the records of one or more files.

    `unanswerable` counts MuSiQue's intentionally unanswerable questions. `skipped` are all other records that are not
    used, with file and row. Rows count from 1: lines of a text file, items of a JSON array.
    """

    kept: int = 0
    unanswerable: int = 0
    skipped: Skipped = field(default_factory=Skipped)

    def summary(self) -> str:
        """Return a one-line summary."""
        parts = [f"{self.kept:,} questions"]
        if self.unanswerable:
            parts.append(f"{self.unanswerable:,} unanswerable skipped")
        return "; ".join([*parts, *self.skipped.parts()])


def load_questions(path: str | Path, dataset: str = "auto", report: LoadReport | None = None) -> Iterator[Question]:
    """Stream the questions of a file: JSON array, JSON lines, CSV, TSV or Parquet.

    Args:
        path: path of the file.
        dataset: one of `HOMES`; it becomes `Question.source`. "auto" uses the first recognisable record.
        report: updated during the iteration; without one, skipped records are logged as a warning.

    Raises:
        MissingFileError: the file does not exist; the message says where to download it.
        UserError: the dataset is unknown, or the path is a folder; or, during the iteration, the file is damaged, its
            format is unknown, or it has no usable question.
    """
    file = find_questions(path, dataset)
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
    file = find_questions(path, dataset)
    return _documents(file, dataset, LoadReport() if report is None else report, warn=report is None)


def find_questions(path: str | Path, dataset: str = "auto") -> Path:
    """Return the path of a file of questions.

    Raises:
        MissingFileError: the file does not exist; the message says where to download it.
        UserError: the dataset is unknown, or the path is a folder.
    """
    if dataset != "auto" and dataset not in HOMES:
        raise UserError(f"dataset={dataset!r}: expected one of auto, {', '.join(HOMES)}")
    file = Path(path)
    shown = HOMES if dataset == "auto" else {dataset: HOMES[dataset]}
    places = "; ".join(f"{name}: {home}" for name, home in shown.items())
    require_file(file, f"{file} not found; it is not distributed with empg. Download: {places}")
    return file


def _questions(path: Path, dataset: str, report: LoadReport, warn: bool) -> Iterator[Question]:
    before = report.kept
    for _, _, question in _parsed(path, dataset, report):
        yield question
    if report.kept == before:
        raise UserError(f"{path}: no usable question found: {report.summary()}")
    if warn and (report.skipped.counts or report.unanswerable):
        _log.warning("%s: %s", path, report.summary())


def _parsed(path: Path, dataset: str, report: LoadReport) -> Iterator[tuple[str, dict[str, Any], Question]]:
    """Yield dataset, record with lower-case keys, and question of the usable records. The others are counted."""
    good, bad = report.kept + report.unanswerable, report.skipped.counts.total()
    for row, record, name in _recognised(path, dataset, report):
        try:
            if name == "musique" and record.get("answerable", True) is False:
                report.unanswerable += 1
                continue
            question = parse_question(record, name, path, row)
        except MalformedError as error:
            report.skipped.add(str(error), f"{path}, row {row}")
            if report.kept + report.unanswerable == good and report.skipped.counts.total() - bad >= GIVE_UP:
                return
            continue
        report.kept += 1
        yield name, record, question


def _documents(path: Path, dataset: str, report: LoadReport, warn: bool) -> Iterator[Document]:
    pages: dict[str, dict[str, None]] = {}
    source = dataset
    for row, record, source in _recognised(path, dataset, report):
        if source not in WITH_CONTEXT:
            problem = f"{path}: no paragraphs: expected a file of {', '.join(WITH_CONTEXT)}, got {source}"
            raise UserError(f"{problem}. Set data.corpus")
        try:
            paragraphs = parse_paragraphs(record)
        except MalformedError as error:
            report.skipped.add(str(error), f"{path}, row {row}")
            continue
        for title, text in paragraphs:
            pages.setdefault(title, {})[text] = None
    if not pages:
        raise UserError(f"{path}: no usable paragraph found: {report.summary()}")
    if warn and report.skipped.counts:
        _log.warning("%s: %s", path, report.summary())
    for title, texts in pages.items():
        yield Document(f"{source}/{title}", title, "\n".join(texts))


def _recognised(path: Path, dataset: str, report: LoadReport) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield row, record with lower-case keys, and dataset. Unrecognised records are counted.

    Raises:
        NotQuestionsError: none of the first `GIVE_UP` records identifies the dataset.
    """
    name = None if dataset == "auto" else dataset
    for number, (row, record) in enumerate(read_records(path, _COLUMNS), 1):
        if isinstance(record, Unreadable):
            report.skipped.add(record.reason, f"{path}, row {row}")
        elif not isinstance(record, dict):
            report.skipped.add("record must be an object", f"{path}, row {row}")
        else:
            lower = {str(key).strip().lower(): value for key, value in record.items()}
            name = name or recognise(lower)
            if name is None:
                report.skipped.add("unknown format", f"{path}, row {row}")
            else:
                yield row, lower, name
        if name is None and number == GIVE_UP:
            break
    if name is None:
        raise NotQuestionsError(f"{path}: no record identifies the dataset: {report.summary()}. {EXPECTED_FIELDS}")


# ---- what a file is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Examined:
    """What a file is, from its first usable record.

    Attributes:
        sources: the datasets of its questions; several if its rows name them.
        paragraphs: whether its questions come with paragraphs.
        problem: why it cannot be used; empty if it can.
        detail: more about the problem, or empty.
    """

    sources: tuple[str, ...] = ()
    paragraphs: bool = False
    problem: str = ""
    detail: str = ""


def examine(path: Path) -> Examined:
    """Find out what a file is. It is read to its end only if its rows name their datasets, as Search-R1's rows do."""
    report = LoadReport()
    try:
        first = next(_parsed(path, "auto", report), None)
        if first is None:
            answerless = report.skipped.counts.keys() <= {NO_ANSWER}
            problem = "no answers" if answerless else "no usable question"
            return Examined(problem=problem, detail="" if answerless else report.summary())
        name, record, question = first
        paragraphs = name in WITH_CONTEXT and not record.keys().isdisjoint(("context", "paragraphs"))
        if row_dataset(record) != question.source:
            return Examined((question.source,), paragraphs)
        return Examined(_row_datasets(path), paragraphs)
    except NotQuestionsError:
        return Examined(problem="not a file of questions")
    except UserError as error:
        return Examined(problem="unreadable", detail=str(error).removeprefix(f"{path}: "))


def _row_datasets(path: Path) -> tuple[str, ...]:
    records = (record for _, record in read_records(path, _DATASET_ALONE) if isinstance(record, dict))
    found = (row_dataset({str(key).strip().lower(): value for key, value in record.items()}) for record in records)
    return tuple(dict.fromkeys(name for name in found if name))
