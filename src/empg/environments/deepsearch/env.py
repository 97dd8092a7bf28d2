"""Deep Search as a `gymnasium` environment: a question, a search tool, pages to read, one answer."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import gymnasium

from empg.environments.base import ANSWER, SEARCH, AnyText, Expert, Info, SetByReset, TextEnvironment
from empg.environments.deepsearch import pages
from empg.environments.deepsearch.actions import (
    NEXT,
    Command,
    folded,
    is_address,
    label,
    open_command,
    page_names,
    parse_command,
)
from empg.environments.deepsearch.expert import SearchingExpert
from empg.environments.deepsearch.options import DeepSearchOptions
from empg.environments.deepsearch.scoring import REPORTED, score
from empg.environments.deepsearch.sources import Source, open_source, questions_of
from empg.environments.deepsearch.world import Document, NoVerdict, Question, State
from empg.environments.options import check_max_steps, check_task, read_options
from empg.errors import UserError
from empg.web.errors import ServiceError

_REMEMBERED = 1_000  # documents that an episode found and can open by name
_SHOWN = {"results", "snippet_words", "page_words", "observation", "reward"}  # what goes with a ready source


class DeepSearchEnv(TextEnvironment):
    """Questions that take several searches. Reward comes with `answer[...]` only, which ends the episode.

    `search[query]` lists the best results, `open[title, id, address or number]` shows a page, and `next` the next part
    of a long one. A search or a page that fails (a dead server) is reported as an observation and in `Info["failure"]`;
    the episode continues. Environments of a process that are made with the same arguments share corpus, index and
    questions.

    Args:
        split: of the questions: "train", "valid_id" or "valid_ood" of the package's own, else as named in `data`.
        max_steps: turns until the episode is truncated.
        options: see `options.DeepSearchOptions`. From Python, `data` may also be a ready `Source`, with the options
            that say what is shown of it.

    Raises:
        UserError: an argument is wrong, a file cannot be read, or the data has no such split; the message names it.
    """

    question = SetByReset[Question]()
    state = SetByReset[State]()

    def __init__(self, split: str = "train", max_steps: int = 12, **options: Any) -> None:
        ready = options.pop("data") if isinstance(options.get("data"), Source) else None
        others = sorted(options.keys() - _SHOWN)
        if ready is not None and others:
            raise UserError(f"{', '.join(others)}: a ready source takes no options")
        chosen = read_options(DeepSearchOptions, options)
        self.split, self.max_steps = split, check_max_steps(max_steps)
        self.source = open_source(chosen, split) if ready is None else ready
        self._observation, self._reward = chosen.observation, chosen.reward
        self._results, self._snippet_words, self._page_words = chosen.results, chosen.snippet_words, chosen.page_words
        self._questions: Sequence[Question] = questions_of(self.source.questions, split)
        self.observation_space = AnyText(10_000_000)
        self.action_space = AnyText(1_000)

    @property
    def opens(self) -> bool:
        """Whether pages are opened here, or every search shows them whole."""
        return self._observation == "list"

    @property
    def num_tasks(self) -> int:
        """The number of questions in this split."""
        return len(self._questions)

    def task_id(self, index: int) -> str:
        """Return the question's id and a fingerprint of all that belongs to it."""
        return _task_id(self._question(index))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, Info]:  # type: ignore[override]
        """Put a question: the `options["task"]`-th, or any."""
        gymnasium.Env.reset(self, seed=seed)
        index = (options or {}).get("task")
        self.question = self._question(int(self.np_random.integers(self.num_tasks)) if index is None else index)
        self._id = _task_id(self.question)
        self.state = State()
        return self.question.text, self._info(valid=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        """Act.

        Raises:
            RuntimeError: the episode has ended.
            ServiceError: the judge is unavailable, so the answer has no reward. A rollout ends such an episode with
                an environment error, counts it and does not train on it.
        """
        if self.state.answer is not None or self.state.steps >= self.max_steps:
            how = "with the answer" if self.state.answer is not None else f"after {self.max_steps} steps"
            raise RuntimeError(f"the episode has ended {how}; call reset")
        self.state = replace(self.state, page=None, steps=self.state.steps + 1)
        failure = None
        command = parse_command(action, any_text=not self.opens)
        try:
            observation, valid = self._do(command)
        except ServiceError as error:
            failure = str(error)
            observation, valid = pages.failed("" if command is None else command.verb, failure), True
        info = self._info(valid=valid)
        if failure is not None:
            info["failure"] = failure
        answered = self.state.answer is not None
        reward = float(info["won"]) if self._reward == "binary" else info["score"]
        return observation, reward, answered, self.state.steps >= self.max_steps and not answered, info

    def clone(self) -> DeepSearchEnv:
        """Return an independent environment in the same state; corpus and questions are shared."""
        twin = object.__new__(DeepSearchEnv)
        twin.__dict__.update(self.__dict__)
        twin._np_random = copy.deepcopy(self._np_random)
        return twin

    def expert(self) -> Expert:
        """Return a fresh expert for the episode that was just reset.

        Raises:
            UserError: the question comes without a gold chain. An expert that knows only the answer would teach the
                policy to guess.
        """
        if not self.question.hops:
            raise UserError(
                f"question {self.question.id:.80} of {self.question.source:.80} has no gold chain, so there is no "
                "expert to imitate or to watch: leave out warm_start, or choose kinds of questions that have one"
            )
        return SearchingExpert(self.question, lambda: self.state, opens=self.opens)

    def solution(self) -> str:
        """Return the canonical right answer."""
        return self.question.answers[0]

    def _do(self, command: Command | None) -> tuple[str, bool]:
        """Apply a command. Return the observation and whether the command was understood."""
        if command is not None and command.verb == "answer":
            self.state = replace(self.state, answer=command.text)
            return "Answered.", True
        if command is not None and command.verb == "search":
            [hits] = self.source.retriever.search([command.text], self._results)
            listed = tuple(hit.document for hit in hits)
            self.state = replace(self.state, listed=listed, found=(*listed, *self.state.found)[:_REMEMBERED])
            if not self.opens:
                return pages.passages(self.state.listed, self._page_words), True
            return pages.result_list(self.state.listed, self._snippet_words), True
        if not self.opens:
            return pages.PASSAGES_HINT, False
        if command is None:
            return pages.HINT_WITH_NEXT if self._reads_on() else pages.HINT, False
        return self._read_on() if command.verb == "next" else self._read(self._open(command.text), 1)

    def _read(self, document: Document | None, part: int) -> tuple[str, bool]:
        if document is None:
            return pages.NO_PAGE, False
        reading = pages.read(document, part, self._page_words)
        read = self.state.read | {folded(document.title)}
        self.state = replace(self.state, reading=reading, page=document, read=read)
        return pages.page(reading), True

    def _read_on(self) -> tuple[str, bool]:
        reading = self.state.reading
        if reading is None or not self._reads_on():
            return pages.NO_NEXT, False
        return self._read(reading.page, reading.part + 1)

    def _reads_on(self) -> bool:
        """Return whether the page that was shown last has a next part."""
        return self.state.reading is not None and self.state.reading.part < self.state.reading.parts

    def _open(self, name: str) -> Document | None:
        """Return the newest search result of that name, else what the library has. From the web, return whole pages."""
        found = self._found(folded(name))
        if found is not None and not is_address(found.id):
            return found
        library = self.source.library
        if library is None:
            return found
        return library.open(name if found is None else found.id) or found

    def _found(self, name: str) -> Document | None:
        listed, found = self.state.listed, self.state.found
        named = [(shown, document) for shown, document in zip(page_names(listed), listed, strict=True)]
        named += [(title, document) for document in found for title in (document.title, label(document.title))]
        named += [(str(number), document) for number, document in enumerate(listed, start=1)]
        named += [(own, document) for document in found for own in (document.id, label(document.id))]
        return next((document for called, document in named if folded(called) == name), None)

    def _question(self, task: Any) -> Question:
        return self._questions[check_task(task, self.num_tasks, self.split)]

    def _info(self, *, valid: bool) -> Info:
        answer = self.state.answer
        reached, failure = 0.0, ""
        try:
            reached = 0.0 if answer is None else self.source.score(self.question, answer)
        except NoVerdict as problem:
            failure = str(problem)
        info = Info(
            task=self.question.text,
            task_id=self._id,
            task_type=self.question.kind,
            won=reached == 1.0,
            score=reached,
            admissible=[] if answer is not None else self._admissible(),
            valid=valid,
            progress=self._progress(reached),
            metrics={name: 0.0 if answer is None else score(answer, self.question.answers, name) for name in REPORTED},
        )
        if failure:
            info["failure"] = failure
        return info

    def _progress(self, reached: float) -> float:
        """Return the share of gold pages that were found or opened; the score of the answer counts as one more."""
        wanted = {folded(hop.title) for hop in self.question.hops}
        found = self.state.read | {folded(document.title) for document in self.state.found}
        return (len(wanted & found) + reached) / (len(wanted) + 1)

    def _admissible(self) -> list[str]:
        """Return placeholders for free text, the listed pages, and `next` if the page has a next part."""
        names = page_names(self.state.listed) if self.opens else []
        opened = [open_command(name) for name in names if name]
        return [SEARCH, *dict.fromkeys(opened), *([NEXT] if self._reads_on() else []), ANSWER]


def _task_id(question: Question) -> str:
    content = json.dumps(asdict(question), sort_keys=True, ensure_ascii=True)
    return f"{question.id}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
