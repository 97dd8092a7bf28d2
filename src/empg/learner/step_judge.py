"""A model that rates each turn of an episode, behind an OpenAI-compatible `POST /chat/completions`.

The prompt is step_judge.txt; one request rates a whole episode. A reply that is not a list of ratings gets one
reminder; if the next reply is not one either, the turns of the episode are rated 0 and a warning is logged. Ratings are
cached on disk, so a resumed or repeated run asks nothing twice and gets the same numbers. Failures are never cached.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

from empg.errors import UserError
from empg.recipe.process_reward import KEY, JudgeReward
from empg.rollout.types import Episode
from empg.system.cache import cache_folder
from empg.web.cache import DiskCache
from empg.web.chat import REQUEST_POLICY, ChatModel, on_one_line
from empg.web.errors import ServiceError
from empg.web.text import clean_text

MAX_TURNS = 100  # turns in a prompt; later ones are rated 0
MAX_TEXT = 600  # characters of an observation, a thought, a command and of the task; the rest is cut
_REMINDER = "That was not a JSON list of {count} integers -1, 0 or 1. Reply with this list and nothing else."
_RATINGS = re.compile(r"\[([-\d,\s]*)\]")

_log = logging.getLogger(__name__)


class StepJudge:
    """A judge of turns; safe to use from several threads.

    Raises:
        UserError: the URL is not http or https, the model is empty, or the variable of the key is not set.
    """

    def __init__(self, options: JudgeReward) -> None:
        try:
            self._chat = ChatModel(
                options.url,
                options.model,
                key_variable=options.key_variable,
                request_policy=options.over(REQUEST_POLICY),
                max_tokens=options.max_tokens,
            )
        except UserError as error:
            raise UserError(f"{KEY}=judge: {error}") from None
        self._model, self._parallel = options.model, options.parallel
        self._cache = DiskCache(options.cache or cache_folder() / "step-judge")
        self._prompt = resources.files(__package__).joinpath("step_judge.txt").read_text(encoding="utf-8")

    def rate_all(self, episodes: Sequence[Episode]) -> list[list[float]]:
        """Return the ratings of several episodes, in order; see `rate`."""
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(self.rate, episodes))

    def rate(self, episode: Episode) -> list[float]:
        """Return one rating per turn: -1, 0 or 1.

        Raises:
            UserError: the judge is unavailable, rejects the request, or does not return a chat completion.
        """
        count = min(len(episode.turns), MAX_TURNS)
        prompt = self._filled(episode, count)
        key = (self._chat.server, self._model, prompt)
        cached = self._cache.get(*key)
        ratings = _checked(cached, count) if isinstance(cached, list) else None
        if ratings is None:
            reminder = _REMINDER.format(count=count)
            try:
                ratings = self._chat.ask(prompt, lambda reply: read_ratings(reply, count), reminder)
            except ServiceError as error:
                raise UserError(
                    f"{KEY}=judge: task {episode.task_id}: {error}; resume the run when it is back"
                ) from error
            if ratings is None:
                _log.warning("%s=judge: task %s: no ratings; its turns are rated 0", KEY, episode.task_id)
                return [0.0] * len(episode.turns)
            self._cache.put(ratings, *key)
        return [*map(float, ratings), *[0.0] * (len(episode.turns) - count)]

    def _filled(self, episode: Episode, count: int) -> str:
        """Fill the prompt. Values are JSON, so that no text in them can look like a part of the prompt."""
        turns = [
            {
                "turn": number,
                "read": _cut(turn.observation),
                "thought": _cut(turn.thought),
                "command": _cut(turn.action),
            }
            for number, turn in enumerate(episode.turns[:count], start=1)
        ]
        return self._prompt.format(
            task=on_one_line(_cut(episode.task)),
            succeeded=on_one_line(episode.success),
            turns="\n".join(map(on_one_line, turns)),
            count=count,
        )


def read_ratings(reply: str, count: int) -> list[int] | None:
    """Return the last list of integers in a reply, if it has `count` numbers that are -1, 0 or 1; else None."""
    lists = _RATINGS.findall(reply)
    parts = lists[-1].split(",") if lists else []
    try:
        return _checked([int(part) for part in parts], count)
    except ValueError:
        return None


def _checked(ratings: list[object], count: int) -> list[int] | None:
    fine = [rating for rating in ratings if isinstance(rating, int) and -1 <= rating <= 1]
    return fine if len(fine) == len(ratings) == count else None


def _cut(text: str) -> str:
    text = clean_text(text)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} [cut]"
