"""Everything of a search world that its episodes share: questions, search, pages, scoring."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from empg.environments.deepsearch import aliases
from empg.environments.deepsearch.datasets import LoadReport, documents_of, load_questions
from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, make_encyclopaedia
from empg.environments.deepsearch.opened_files import content_key
from empg.environments.deepsearch.options import LOCAL, DeepSearchOptions, Searching, Wording
from empg.environments.deepsearch.places import Files, SplitFiles, read_places
from empg.environments.deepsearch.questions import KINDS, SPLITS, make_questions
from empg.environments.deepsearch.realworld import KINDS as COUNTRY_KINDS
from empg.environments.deepsearch.realworld import country_pages, make_country_questions
from empg.environments.deepsearch.retrieval.stored import FORMAT, fingerprint_documents
from empg.environments.deepsearch.retrievers import Corpus, corpus_file, open_search
from empg.environments.deepsearch.scoring import Metric, score
from empg.environments.deepsearch.world import Document, Library, Question, Retriever
from empg.environments.publishing import fingerprint_files
from empg.errors import UserError
from empg.web.options import Judging

_log = logging.getLogger(__name__)

Score = Callable[[Question, str], float]
"""How good an answer to a question is, in [0, 1]."""


@dataclass(frozen=True)
class Source:
    """What a world is made of; read-only.

    Attributes:
        questions: by split.
        retriever: what `search[...]` asks.
        library: what `open[...]` asks; None opens only what a search listed.
        score: of an answer; 1 is right.
    """

    questions: Mapping[str, Sequence[Question]]
    retriever: Retriever
    library: Library | None
    score: Score


def open_source(options: DeepSearchOptions, split: str | None = None) -> Source:
    """Build the source of an environment. Its parts are shared in a process until a file of theirs changes.

    Args:
        options: the options.
        split: whose questions are read before the corpus is indexed, which may take hours; None reads no questions.

    Raises:
        UserError: files, kinds of questions, the split or the retriever do not fit; the message names the option.
        MissingFileError: a file is not there; the message says where to get it.
        MissingExtraError: see `open_search`.
    """
    how, kinds, seed = _with_absolute_cache(options.searching), options.kinds, options.seed
    scored = _judge(options.judge, how.cache) if options.metric == "judge" else _Scored(options.metric)
    questions: Mapping[str, Sequence[Question]]
    if options.data is not None:
        files = read_places(options.data, _searches_paragraphs(options))
        questions = _file_questions(files, kinds, content_key(*_read_for(files)))
    elif options.world == "countries":
        questions = _country_questions(seed, kinds)
    else:
        questions = _generated_questions(options.pages, options.wording, seed, kinds)
    corpus = searched_corpus(options)
    if split is not None:
        questions_of(questions, split)
    return Source(questions, *_search(how, corpus, content_key(*_model_files(how))), scored)


def questions_of(questions: Mapping[str, Sequence[Question]], split: str) -> Sequence[Question]:
    """Return the questions of a split.

    Raises:
        UserError: there is no such split, it has no questions, or a file of it cannot be read.
    """
    if split not in questions:
        raise UserError(f"split: expected one of {', '.join(questions)}, got {split!r:.80}")
    if not questions[split]:
        raise UserError(f"split={split!r} has no questions")
    return questions[split]


def searched_corpus(options: DeepSearchOptions) -> Corpus | None:
    """Return the documents that a local retriever searches, and whose pages any retriever opens.

    Equal options give the same object. Without a corpus (None), a server or the web is searched, and only pages that
    it listed are opened.

    Raises:
        UserError: the files are not there, or are wrong.
    """
    if options.data is not None:
        if options.data.corpus is not None:
            file = Path(options.data.corpus)
            return _file_corpus(file, content_key(file) if file.is_file() else "")
        if not _searches_paragraphs(options):
            return None
        paths = tuple(dict.fromkeys(Path(path) for part in read_places(options.data, True) for path in part.paths))
        return _paragraphs_corpus(paths, content_key(*paths))
    if options.world == "countries":
        return _country_corpus()
    return _generated_corpus(options.pages, options.wording, options.seed)


def _searches_paragraphs(options: DeepSearchOptions) -> bool:
    """Return whether the paragraphs that come with the questions are searched."""
    return options.data is not None and options.data.corpus is None and options.searching.retriever in LOCAL


@lru_cache(8)
def _search(how: Searching, corpus: Corpus | None, key: str) -> tuple[Retriever, Library | None]:
    return open_search(how, corpus)


def _model_files(how: Searching) -> list[Path]:
    """Return the files of the encoder and of its published index that are there; others are an error elsewhere."""
    folder = None if how.encoder is None else how.encoder.folder
    files = [] if folder is None or not folder.is_dir() else sorted(folder.rglob("*"))
    return [file for file in (*files, how.index) if file is not None and file.is_file()]


def _with_absolute_cache(how: Searching) -> Searching:
    """Return the options with a folder that stays where it is when the working folder changes."""
    return how if how.cache is None else how.model_copy(update={"cache": how.cache.absolute()})


def _corpus_of(documents: Sequence[Document]) -> Corpus:
    return Corpus(lambda: documents, partial(fingerprint_documents, documents), len(documents))


@lru_cache(4)
def _judge(options: Judging, cache: Path | None) -> Score:
    from empg.environments.deepsearch.judge import Judge
    from empg.web.chat import REQUEST_POLICY  # needs httpx

    return Judge(
        options.url,
        options.model,
        key_variable=options.key_variable,
        cache=cache,
        request_policy=options.over(REQUEST_POLICY),
        max_tokens=options.max_tokens,
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    """A metric of `scoring.py` for questions."""

    metric: Metric

    def __call__(self, question: Question, answer: str) -> float:
        return score(answer, question.answers, self.metric)


class _Splits(Mapping[str, Sequence[Question]]):
    """Questions by split, each split made or read when it is first asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Sequence[Question]]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, Sequence[Question]] = {}

    def __getitem__(self, split: str) -> Sequence[Question]:
        if split not in self._made:
            self._made[split] = self._makers[split]()
        return self._made[split]

    def __contains__(self, split: object) -> bool:
        return split in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


# ---- the generated encyclopaedia -------------------------------------------------------------------------------------


@lru_cache(4)
def _encyclopaedia(pages: int, wording: Wording, seed: int) -> Encyclopaedia:
    return make_encyclopaedia(pages, seed, wording)


@lru_cache(8)
def _generated_questions(pages: int, wording: Wording, seed: int, kinds: tuple[str, ...] | None) -> _Splits:
    world = _encyclopaedia(pages, wording, seed)
    return _Splits({split: partial(make_questions, world, split, kinds=kinds or KINDS, seed=seed) for split in SPLITS})


@lru_cache(4)
def _generated_corpus(pages: int, wording: Wording, seed: int) -> Corpus:
    return _corpus_of(_encyclopaedia(pages, wording, seed).documents)


# ---- countries -------------------------------------------------------------------------------------------------------


@lru_cache(8)
def _country_questions(seed: int, kinds: tuple[str, ...] | None) -> _Splits:
    return _Splits(
        {split: partial(make_country_questions, split, kinds=kinds or COUNTRY_KINDS, seed=seed) for split in SPLITS}
    )


@lru_cache(1)
def _country_corpus() -> Corpus:
    return _corpus_of(country_pages())


# ---- files -----------------------------------------------------------------------------------------------------------


def _read_for(files: Files) -> list[Path]:
    """Return all files that the questions are read from, with those of the other names of their answers."""
    paths = [Path(path) for part in files for path in part.paths]
    return [*paths, *filter(Path.is_file, dict.fromkeys(path.with_name(aliases.FILE) for path in paths))]


@lru_cache(8)
def _file_questions(files: Files, kinds: tuple[str, ...] | None, key: str) -> _Splits:
    return _Splits({part.split: partial(_load, part, kinds) for part in files})


def _load(files: SplitFiles, kinds: tuple[str, ...] | None) -> tuple[Question, ...]:
    given = (question for path in files.paths for question in load_questions(path))
    every = _once(files.split, [q for q in given if files.sources is None or q.source in files.sources])
    if not every:
        raise _without_questions(files)
    questions = tuple(question for question in every if kinds is None or question.kind in kinds)
    if not questions:
        there = ", ".join(dict.fromkeys(question.kind for question in every))
        raise UserError(f"kinds={list(kinds or ())}: {files.split} has none of these, but {there:.300}")
    return questions


def _without_questions(files: SplitFiles) -> UserError:
    """Return the error about files whose usable questions are all of the data sets of other splits."""
    report = LoadReport()
    for path in files.paths:
        for _ in load_questions(path, report=report):
            pass
    wanted, named = ", ".join(files.sources or ()), ", ".join(files.paths)
    return UserError(
        f"{named:.300}: expected questions of {wanted} for {files.split}, got none of them, but {report.summary()}"
    )


def _once(split: str, questions: Sequence[Question]) -> Sequence[Question]:
    """Keep one of the questions of a dataset with the same text and answer, if possible one with a gold chain.

    HotpotQA is published with two kinds of paragraphs, MuSiQue with and without its unanswerable questions, and many
    data sets by FlashRAG as well, with other ids.
    """
    kept: dict[tuple[str, str, str], Question] = {}
    for question in questions:
        key = (question.source, question.text.casefold(), question.answers[0].casefold())
        if key not in kept or (question.hops and not kept[key].hops):
            kept[key] = question
    if len(kept) < len(questions):
        _log.warning("%s: %s repeated questions are loaded once", split, f"{len(questions) - len(kept):,}")
    return tuple(kept.values())


@lru_cache(4)
def _file_corpus(path: Path, key: str) -> Corpus:
    return corpus_file(path)


@lru_cache(4)
def _paragraphs_corpus(paths: tuple[Path, ...], key: str) -> Corpus:
    return Corpus(partial(_paragraphs, paths), partial(fingerprint_files, FORMAT, *paths))


def _paragraphs(paths: Sequence[Path]) -> list[Document]:
    """Return the pages that come with the questions of several files, one page per title."""
    pages: dict[str, dict[str, None]] = {}
    for path in paths:
        for document in documents_of(path):
            pages.setdefault(document.title, {}).update(dict.fromkeys(document.text.split("\n")))
    return [Document(title, title, "\n".join(texts)) for title, texts in pages.items()]
