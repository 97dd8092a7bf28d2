"""The options of Deep Search: what is asked, what is searched, how, and how answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, field_validator, model_validator

from empg.environments.deepsearch.opened_files import plain_name
from empg.environments.deepsearch.scoring import Metric
from empg.environments.options import EnvironmentOptions, FilePath, OptionSection, PathText, Several, named_path
from empg.errors import UserError
from empg.validation import InnerValueError
from empg.web.options import Judging, Requests, Text

Pooling = Literal["mean", "cls"]
World = Literal["encyclopaedia", "countries"]
Wording = Literal["varied", "plain"]
Observation = Literal["list", "passages"]
Reward = Literal["binary", "score"]

LOCAL = ("bm25", "tantivy", "dense")
"""Retrievers that search a corpus in the process of the environment."""
FEWEST_PAGES = 50  # with fewer pages some kinds of questions cannot be generated
_QUESTION_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
DATA_EXAMPLE = "data: {questions: {train: FILE, test_id: [FILE, FILE]}, corpus: FILE}"


def is_question_file(path: Path) -> bool:
    """Return whether a file is named like a file of questions, compressed or not."""
    return plain_name(path).suffix.lower() in _QUESTION_FILES


class EncoderOptions(OptionSection):
    """A sentence-embedding model, as `encoder.HuggingFaceEncoder` takes it."""

    folder: FilePath = Field(description="the folder of the model")
    query_prefix: StrictStr = Field("", description="text before each query, `query: ` for E5")
    document_prefix: StrictStr = Field("", description="text before each document, `passage: ` for E5")
    pooling: Pooling | None = Field(None, description="how the vectors of tokens become one; null: as the folder says")
    max_tokens: StrictInt | None = Field(None, ge=1, description="tokens per text; null: as the folder says")
    device: Text = Field("cpu", description="where it runs, as torch names it")


class Data(OptionSection):
    """Files of questions and pages."""

    questions: dict[str, tuple[str, ...]] | str = Field(
        description="per split, a file or a list of files; or one folder of the published files"
    )
    corpus: PathText | None = Field(
        None, description="a file of pages; null: local retrievers search the paragraphs that come with the questions"
    )

    @field_validator("questions", mode="before")
    @classmethod
    def _by_split(cls, given: Any) -> Any:
        if isinstance(given, str) and not is_question_file(Path(given)):
            return named_path(given)
        if not isinstance(given, Mapping) or not given:
            raise UserError(f"names files by split, or one folder of published files, as in {DATA_EXAMPLE}")
        files = {}
        for split, named in given.items():
            paths = (named,) if isinstance(named, str) else tuple(named) if isinstance(named, list | tuple) else ()
            if not isinstance(split, str) or not paths or not all(isinstance(path, str) for path in paths):
                raise UserError(f"{split} must be a file or a list of files, as in {DATA_EXAMPLE}")
            try:
                files[split] = tuple(map(named_path, paths))
            except UserError as error:
                raise InnerValueError(str(error), (split,)) from None
        return files


def _folder_alone(given: Any) -> Any:
    return {"folder": given} if isinstance(given, str | Path) else given


def _none_alone(given: Any) -> Any:
    return {} if given is None else given


class Searching(OptionSection):
    """How a corpus or the web is searched; hashable, so that what is made of it can be shared."""

    retriever: Text = Field(
        "bm25",
        description="`bm25`, `tantivy` or `dense` over a corpus; the address of a server that answers `/retrieve`; or "
        "a search provider of the web (`serper`, `tavily`, `brave`, `searxng`)",
    )
    encoder: Annotated[EncoderOptions | None, BeforeValidator(_folder_alone)] = Field(
        None, description="the model of `dense`: a folder, or a mapping"
    )
    faiss: Text | None = Field(
        None,
        description="the index of `dense`, as the factory of faiss names it (`Flat`, `HNSW32`); null compares with "
        "every vector",
    )
    index: FilePath | None = Field(
        None,
        description="a published index of the corpus for `dense`, such as Search-R1's `e5_Flat.index`; null encodes "
        "the corpus",
    )
    requests: Annotated[Requests, BeforeValidator(_none_alone)] = Field(
        Requests(), description="how servers, providers and pages are asked"
    )
    cache: FilePath | None = Field(
        None,
        description="a folder that keeps indices and the answers of other machines; null keeps no answers, and an "
        "index only beside the file of a corpus",
    )

    @model_validator(mode="after")
    def _dense_alone(self) -> Searching:
        folder = None if self.encoder is None else self.encoder.folder
        for name, value in {"encoder": folder, "faiss": self.faiss, "index": self.index}.items():
            if value is not None and self.retriever != "dense":
                raise UserError(f"{name}={str(value)!r} is for retriever='dense', this is {self.retriever!r:.80}")
        if self.index is not None and self.faiss is not None:
            raise UserError(f"faiss={self.faiss!r} builds an index, but index={self.index} is one: leave out one")
        if self.retriever == "dense" and self.encoder is None:
            raise UserError("retriever='dense' needs encoder: the folder of a sentence-embedding model")
        return self


class DeepSearchOptions(Searching, EnvironmentOptions):
    """Options of Deep Search."""

    results: StrictInt = Field(3, ge=1, le=100, description="results of a search")
    snippet_words: StrictInt = Field(10, ge=1, le=1_000, description="words of each result in a list")
    page_words: StrictInt = Field(
        200, ge=1, le=100_000, description="words of each part of a page, and of each passage, which is visibly cut"
    )
    observation: Observation = Field(
        "list",
        description="`list`: titles and first words, to be opened; `passages`: whole results, as Search-R1 shows them, "
        "and nothing to open",
    )
    reward: Reward = Field("binary", description="`binary`: 1 for a full score, else 0; `score`: the score, in [0, 1]")
    metric: Literal[Metric, "judge"] = Field("em", description="how an answer is scored")
    judge: Judging | None = Field(None, description="the judge of `metric: judge`")
    data: Data | None = Field(None, description="files; null plays a world of the package")
    world: World = Field(
        "encyclopaedia", description="without `data`: the generated encyclopaedia, or `countries`, real text"
    )
    pages: StrictInt = Field(2_000, ge=FEWEST_PAGES, description="pages of the encyclopaedia")
    wording: Wording = Field(
        "varied", description="wording of its facts; `plain` says all of them alike, for small models"
    )
    seed: StrictInt = Field(0, description="seed of the encyclopaedia, and of the questions about either world")
    kinds: Several[StrictStr] | None = Field(None, description="kinds of questions; null takes all")

    @model_validator(mode="after")
    def _judged(self) -> DeepSearchOptions:
        if self.judge is not None and self.metric != "judge":
            raise UserError(f"judge is for metric='judge', this is {self.metric!r}")
        if self.judge is None and self.metric == "judge":
            raise UserError("metric='judge' needs judge: a mapping of url and model")
        return self

    @property
    def searching(self) -> Searching:
        """The part that says how to search."""
        return Searching(**{name: getattr(self, name) for name in Searching.model_fields})

    @property
    def slow_steps(self) -> str:
        """Other machines take long to answer."""
        if self.retriever not in LOCAL:
            return "steps that search wait for another machine"
        return "steps that answer wait for the judge" if self.judge is not None else ""

    def check_form(self, form: str) -> None:
        """Make sure that an agent of that form can say what these options need.

        Raises:
            UserError: Search-R1's turns cannot open pages.
        """
        if form == "search_r1" and self.observation != "passages":
            raise UserError(
                "agent.form=search_r1 has no turns but search and answer: it needs "
                "environment.options.observation=passages"
            )
