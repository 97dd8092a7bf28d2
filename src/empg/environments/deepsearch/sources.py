"""Everything of a search world that its episodes share: questions, search, pages, scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from empg.environments.deepsearch.datasets import documents_of, load_questions
from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, Wording, make_encyclopaedia
from empg.environments.deepsearch.options import Requests, Searching, read_requests, read_searching, text, whole
from empg.environments.deepsearch.places import Files, read_places
from empg.environments.deepsearch.questions import KINDS, SPLITS, make_questions
from empg.environments.deepsearch.realworld import KINDS as COUNTRY_KINDS
from empg.environments.deepsearch.realworld import country_pages, make_country_questions
from empg.environments.deepsearch.retrieval.stored import fingerprint_documents, fingerprint_files
from empg.environments.deepsearch.retrievers import LOCAL, Corpus, corpus_file, open_search
from empg.environments.deepsearch.scoring import Metric, score
from empg.environments.deepsearch.world import Document, Library, Question, Retriever
from empg.errors import UserError

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
    encoder: str | Mapping[str, Any] | None = None,
    faiss: str | None = None,
    requests: Mapping[str, Any] | None = None,
    cache: str | None = None,
    metric: Metric | Literal["judge"] = "em",
    judge: Mapping[str, Any] | None = None,
) -> Source:
    """Put a world together. What is made once is shared by all who ask for it in this process.

    Args:
        data: None for a `world` that comes with the package. Else `questions`: by the name of a split, a file or a
            list of files (see `datasets.load_questions`), or a folder of the published ones (see
            `places.arrange`); and `corpus`: a file (see `corpus.read_corpus`), without which a local retriever
            searches the paragraphs that come with the questions, of all splits.
        world: "encyclopaedia", made up; or "countries", real text of the World Factbook, see `realworld`.
        pages: of the encyclopaedia.
        wording: of its facts: "varied", or "plain" for small models, see `make_encyclopaedia`.
        seed: of the encyclopaedia, and of the questions about either world.
        kinds: which kinds of questions; None takes all.
        retriever: see `options.Searching`.
        encoder: of "dense": the folder of a sentence-embedding model, or a mapping of `folder` and what else
            `encoder.HuggingFaceEncoder` takes: `query_prefix`, `document_prefix`, `pooling`, `max_tokens`, `device`.
        faiss: of "dense", see `options.Searching`.
        requests: to servers, providers and pages: `per_second`, `timeout` (seconds), `attempts`.
        cache: see `options.Searching`.
        metric: of answers, see `scoring.score`; or "judge".
        judge: of metric "judge": `url` and `model`, and what else `judge.Judge` takes, and how it is asked (as in
            `requests`). Its verdicts go to the cache.

    Raises:
        UserError: an argument is none of these; the message names it.
        MissingFileError: a file is not there; the message says where to get it.
        MissingExtraError: see `open_search`.
    """
    how = read_searching(retriever, encoder, faiss, requests, cache)
    scored = _scorer(metric, judge, how.cache)
    chosen = _read_kinds(kinds)
    whole("pages", pages)
    whole("seed", seed)
    questions: Mapping[str, Sequence[Question]]
    if world not in get_args(World):
        raise UserError(f"world={world!r:.80}: one of {', '.join(get_args(World))}")
    if wording not in get_args(Wording):
        raise UserError(f"wording={wording!r:.80}: one of {', '.join(get_args(Wording))}")
    if data is None and world == "countries":
        questions = _country_questions(seed, chosen)
        searched = _country_search(how)
    elif data is None:
        questions = _generated_questions(pages, wording, seed, chosen)
        searched = _generated_search(pages, wording, seed, how)
    else:
        files, corpus = read_places(data)
        questions = _file_questions(files, chosen)
        context = () if corpus else tuple(dict.fromkeys(path for _, paths in files for path in paths))
        searched = _file_search(corpus, context, how)
    return Source(questions, *searched, scored)


def _read_kinds(kinds: Any) -> tuple[str, ...] | None:
    if kinds is None:
        return None
    if not isinstance(kinds, list | tuple) or not kinds:
        raise UserError(f"kinds={kinds!r:.80}: a list of kinds of questions is needed")
    return tuple(text("kinds", kind) for kind in kinds)


def _scorer(metric: Any, judge: Any, cache: Path | None) -> Score:
    if metric in get_args(Metric):
        if judge is not None:
            raise UserError(f"judge is for metric='judge', this is {metric!r}")
        return _Scored(metric)
    if metric != "judge":
        raise UserError(f"metric={metric!r:.80}: one of {', '.join(get_args(Metric))}, judge")
    own, asking = ("url", "model", "key_variable", "max_tokens"), ("per_second", "timeout", "attempts")
    if not isinstance(judge, Mapping) or not {"url", "model"} <= set(judge) <= {*own, *asking}:
        known = ", ".join((*own, *asking))
        raise UserError(f"metric='judge' needs judge: a mapping of url and model (known: {known})")
    said = {name: judge[name] for name in own if name in judge}
    for name in ("url", "model"):
        text(f"judge.{name}", said[name])
    if said.get("key_variable") is not None:
        text("judge.key_variable", said["key_variable"])
    if "max_tokens" in said:
        whole("judge.max_tokens", said["max_tokens"], 1)
    requests = read_requests("judge", {name: judge[name] for name in asking if name in judge})
    return _judge(tuple(sorted(said.items())), requests, cache)


@lru_cache(4)
def _judge(options: tuple[tuple[str, Any], ...], requests: Requests, cache: Path | None) -> Score:
    from empg.environments.deepsearch.judge import REQUEST_POLICY, Judge  # needs httpx

    return Judge(**dict(options), cache=cache, request_policy=requests.over(REQUEST_POLICY))


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
def _generated_search(pages: int, wording: Wording, seed: int, how: Searching) -> Searched:
    documents = _encyclopaedia(pages, wording, seed).documents
    return open_search(how, Corpus(lambda: documents, partial(fingerprint_documents, documents), len(documents)))


# ---- countries -------------------------------------------------------------------------------------------------------


@lru_cache(8)
def _country_questions(seed: int, kinds: tuple[str, ...] | None) -> _Splits:
    return _Splits(
        {split: partial(make_country_questions, split, kinds=kinds or COUNTRY_KINDS, seed=seed) for split in SPLITS}
    )


@lru_cache(4)
def _country_search(how: Searching) -> Searched:
    documents = country_pages()
    return open_search(how, Corpus(lambda: documents, partial(fingerprint_documents, documents), len(documents)))


# ---- files -----------------------------------------------------------------------------------------------------------


@lru_cache(8)
def _file_questions(files: Files, kinds: tuple[str, ...] | None) -> _Splits:
    return _Splits({split: partial(_load, split, paths, kinds) for split, paths in files})


def _load(split: str, paths: tuple[str, ...], kinds: tuple[str, ...] | None) -> tuple[Question, ...]:
    every = [question for path in paths for question in load_questions(path)]
    questions = tuple(question for question in every if kinds is None or question.kind in kinds)
    if not questions:
        there = ", ".join(dict.fromkeys(question.kind for question in every))
        raise UserError(f"kinds={list(kinds or ())}: {split} has none of these, but {there:.300}")
    return questions


@lru_cache(4)
def _file_search(corpus: str | None, context: tuple[str, ...], how: Searching) -> Searched:
    if corpus is not None:
        return open_search(how, corpus_file(Path(corpus)))
    if how.retriever not in LOCAL:
        return open_search(how, None)
    paths = tuple(map(Path, context))
    return open_search(how, Corpus(partial(_paragraphs, paths), partial(fingerprint_files, *paths)))


def _paragraphs(paths: Sequence[Path]) -> list[Document]:
    """The pages that come with the questions of several files; what they have under one title is one page."""
    pages: dict[str, dict[str, None]] = {}
    for path in paths:
        for document in documents_of(path):
            pages.setdefault(document.title, {}).update(dict.fromkeys(document.text.split("\n")))
    return [Document(title, title, "\n".join(texts)) for title, texts in pages.items()]
