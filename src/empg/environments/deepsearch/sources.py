"""Everything of a search world that its episodes share: questions, search, pages, scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from empg.environments.deepsearch.datasets import documents_of, load_questions
from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, Wording, make_encyclopaedia
from empg.environments.deepsearch.questions import KINDS, SPLITS, make_questions
from empg.environments.deepsearch.realworld import KINDS as COUNTRY_KINDS
from empg.environments.deepsearch.realworld import country_pages, make_country_questions
from empg.environments.deepsearch.retrieval.stored import fingerprint_documents, fingerprint_files
from empg.environments.deepsearch.retrievers import LOCAL, Corpus, corpus_file, index_folder, open_search
from empg.environments.deepsearch.scoring import Metric, score
from empg.environments.deepsearch.world import Document, Library, Question, Retriever

Score = Callable[[Question, str], float]
"""How good an answer to a question is, in [0, 1]."""

Searched = tuple[Retriever, Library | None]
World = Literal["encyclopaedia", "countries"]


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


def open_source(
    data: Mapping[str, Any] | None = None,
    *,
    world: World = "encyclopaedia",
    pages: int = 2_000,
    wording: Wording = "varied",
    seed: int = 0,
    kinds: Sequence[str] | None = None,
    retriever: str = "bm25",
    encoder: str | None = None,
    cache: str | None = None,
    metric: Metric | Literal["judge"] = "em",
    judge: Mapping[str, Any] | None = None,
) -> Source:
    """Put a world together. What is made once is shared by all who ask for it in this process.

    Args:
        data: None for a `world` that comes with the package. Else `questions`: by the name of a split, a file or a
            list of files (see `datasets.load_questions`); and `corpus`: a file (see `corpus.read_corpus`), without
            which a local retriever searches the paragraphs that come with the questions, of all splits.
        world: "encyclopaedia", made up; or "countries", real text of the World Factbook, see `realworld`.
        pages: of the encyclopaedia.
        wording: of its facts: "varied", or "plain" for small models, see `make_encyclopaedia`.
        seed: of the encyclopaedia, and of the questions about either world.
        kinds: which kinds of questions; None takes all.
        retriever: see `open_search`.
        encoder: see `open_search`.
        cache: see `open_search`.
        metric: of answers, see `scoring.score`; or "judge".
        judge: of metric "judge": `url` and `model`, and what else `judge.Judge` takes. Its verdicts go to the cache.

    Raises:
        ValueError: an argument is none of these; the message names it.
        FileNotFoundError: a file is not there; the message says where to get it.
        ImportError: see `open_search`.
    """
    scored = _scorer(metric, judge, cache)
    chosen = None if kinds is None else tuple(kinds)
    how = (retriever, encoder, cache)
    questions: Mapping[str, Sequence[Question]]
    if world not in get_args(World):
        raise ValueError(f"world={world!r}: one of {', '.join(get_args(World))}")
    if data is None and world == "countries":
        questions = _country_questions(seed, chosen)
        searched = _country_search(*how)
    elif data is None:
        questions = _generated_questions(pages, wording, seed, chosen)
        searched = _generated_search(pages, wording, seed, *how)
    else:
        files, corpus = _read_places(data)
        questions = _file_questions(files, chosen)
        context = () if corpus else tuple(dict.fromkeys(path for _, paths in files for path in paths))
        searched = _file_search(corpus, context, *how)
    return Source(questions, *searched, scored)


def _scorer(metric: str, judge: Mapping[str, Any] | None, cache: str | None) -> Score:
    if metric in get_args(Metric):
        if judge is not None:
            raise ValueError(f"judge is for metric='judge', this is {metric!r}")
        return _Scored(metric)  # type: ignore[arg-type]  # it is one of them
    if metric != "judge":
        raise ValueError(f"metric={metric!r}: one of {', '.join(get_args(Metric))}, judge")
    known = {"url", "model", "key_variable", "max_tokens"}
    if not isinstance(judge, Mapping) or not {"url", "model"} <= set(judge) <= known:
        raise ValueError(f"metric='judge' needs judge: a mapping of url and model (known: {', '.join(sorted(known))})")
    return _judge(tuple(sorted(judge.items())), cache)


@lru_cache(4)
def _judge(options: tuple[tuple[str, Any], ...], cache: str | None) -> Score:
    from empg.environments.deepsearch.judge import Judge  # needs httpx

    return Judge(**dict(options), cache=None if cache is None else Path(cache))


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
def _generated_search(
    pages: int, wording: Wording, seed: int, retriever: str, encoder: str | None, cache: str | None
) -> Searched:
    documents = _encyclopaedia(pages, wording, seed).documents
    corpus = Corpus(lambda: documents, partial(fingerprint_documents, documents))
    return open_search(retriever, corpus, *_folders(encoder, cache))


# ---- countries -------------------------------------------------------------------------------------------------------


@lru_cache(8)
def _country_questions(seed: int, kinds: tuple[str, ...] | None) -> _Splits:
    return _Splits(
        {split: partial(make_country_questions, split, kinds=kinds or COUNTRY_KINDS, seed=seed) for split in SPLITS}
    )


@lru_cache(4)
def _country_search(retriever: str, encoder: str | None, cache: str | None) -> Searched:
    corpus = Corpus(country_pages, partial(fingerprint_documents, country_pages()))
    return open_search(retriever, corpus, *_folders(encoder, cache))


# ---- files -----------------------------------------------------------------------------------------------------------

Files = tuple[tuple[str, tuple[str, ...]], ...]


def _read_places(data: Mapping[str, Any]) -> tuple[Files, str | None]:
    """The files of each split, and the corpus."""
    example = "data: {questions: {train: FILE, test_id: [FILE, FILE]}, corpus: FILE}"
    if not isinstance(data, Mapping) or not set(data) <= {"questions", "corpus"}:
        raise ValueError(f"data has questions and corpus, as in {example}")
    corpus, questions = data.get("corpus"), data.get("questions")
    if not (corpus is None or isinstance(corpus, str)):
        raise ValueError(f"data.corpus names one file, as in {example}")
    if not isinstance(questions, Mapping) or not questions:
        raise ValueError(f"data.questions names files by split, as in {example}")
    files = []
    for split, named in questions.items():
        paths = (named,) if isinstance(named, str) else tuple(named) if isinstance(named, list | tuple) else ()
        if not isinstance(split, str) or not paths or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"data.questions.{split} is a file or a list of files, as in {example}")
        files.append((split, paths))
    return tuple(files), corpus


@lru_cache(8)
def _file_questions(files: Files, kinds: tuple[str, ...] | None) -> _Splits:
    return _Splits({split: partial(_load, split, paths, kinds) for split, paths in files})


def _load(split: str, paths: tuple[str, ...], kinds: tuple[str, ...] | None) -> tuple[Question, ...]:
    every = [question for path in paths for question in load_questions(path)]
    questions = tuple(question for question in every if kinds is None or question.kind in kinds)
    if not questions:
        there = ", ".join(dict.fromkeys(question.kind for question in every))
        raise ValueError(f"kinds={list(kinds or ())}: {split} has none of these, but {there:.300}")
    return questions


@lru_cache(4)
def _file_search(
    corpus: str | None, context: tuple[str, ...], retriever: str, encoder: str | None, cache: str | None
) -> Searched:
    found = None
    if corpus is not None:
        found = corpus_file(Path(corpus))
        cache = cache or str(index_folder(Path(corpus)))
    elif retriever in LOCAL:
        paths = tuple(map(Path, context))
        found = Corpus(partial(_paragraphs, paths), partial(fingerprint_files, *paths))
    return open_search(retriever, found, *_folders(encoder, cache))


def _paragraphs(paths: Sequence[Path]) -> list[Document]:
    """The pages that come with the questions of several files; what they have under one title is one page."""
    pages: dict[str, dict[str, None]] = {}
    for path in paths:
        for document in documents_of(path):
            pages.setdefault(document.title, {}).update(dict.fromkeys(document.text.split("\n")))
    return [Document(title, title, "\n".join(texts)) for title, texts in pages.items()]


def _folders(encoder: str | None, cache: str | None) -> tuple[Path | None, Path | None]:
    return None if encoder is None else Path(encoder), None if cache is None else Path(cache)
