"""The expert's play, and people's, as text and as rows to imitate."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from empg.agent.dialogue import Agent
from empg.agent.parsing import FORMS
from empg.agent.prompts import observation_text
from empg.environments.base import (
    ANSWER,
    SEARCH,
    Decision,
    EarlyStoppingExpert,
    Info,
    PromptSpec,
    Recorded,
    RecordedEpisode,
    TextEnvironment,
)
from empg.errors import UserError
from empg.rollout.types import Episode, Turn

EARLY_STOP_UNKNOWN = "warm_start.early_stop: the expert of this environment cannot stop early; leave it at 0"


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """One turn of a demonstration: what was observed, thought and done.

    A corrupted turn is not imitated: it is deliberately wrong, or the environment rejected its action as not valid.
    """

    observation: str
    info: Info
    thought: str
    action: str
    corrupted: bool


def demonstrate(
    environment: TextEnvironment, task: int, noise: float, key: tuple[int, ...], early_stop: float = 0.0
) -> list[Demonstrated]:
    """Let the expert play a task, with some turns corrupted. The same `key` gives the same demonstration.

    With probability `noise` a turn is corrupted, unless that would end the episode. A third of the corrupted turns
    repeat the turn before them. Half of the others keep the thought and give a random command, which is admissible or
    was admissible earlier. The rest replay the thought and action of a different time step, such as taking an object
    that has not been found yet. So the policy reads its own mistakes and learns from the expert's next turns how to
    recover.

    With probability `early_stop` the expert ends the task early where it can (`EarlyStoppingExpert.conclude`). Such
    turns are imitated, unlike corrupted ones: human play has these flaws as well. A turn of the expert that the
    environment rejects as not valid is marked as corrupted as well. The demonstration ends when the expert considers
    the task done.

    Raises:
        UserError: there is no expert, or `early_stop` is set and the expert cannot stop early.
    """
    rng = random.Random(repr(key))
    observation, info = environment.reset(options={"task": task})
    plan = _undisturbed(environment.clone(), observation, info) if noise else []
    expert = environment.expert()
    stopper = expert if early_stop and isinstance(expert, EarlyStoppingExpert) else None
    if early_stop and stopper is None:
        raise UserError(EARLY_STOP_UNKNOWN)
    turns: list[Demonstrated] = []
    known: dict[str, None] = {}  # every command that was admissible so far, in order
    while True:
        said, early = expert.act(observation, info), None
        if stopper is not None and rng.random() < early_stop:
            early = stopper.conclude(observation, info)
            said = early or said
        admissible = [command for command in info.get("admissible") or [] if command not in (SEARCH, ANSWER)]
        known.update(dict.fromkeys(admissible))
        before = Decision(thought=turns[-1].thought, action=turns[-1].action) if turns else None
        wrong = _wrong(said, before, plan, admissible, known, rng) if rng.random() < noise else None
        if wrong is not None and environment.clone().step(wrong["action"])[2]:
            wrong = None
        done = wrong or said
        seen = observation, info
        observation, _, terminated, truncated, info = environment.step(done["action"])
        is_corrupted = wrong is not None or (early is None and not info.get("valid", True))
        turns.append(Demonstrated(*seen, done["thought"], done["action"], corrupted=is_corrupted))
        if terminated or truncated or (stopper is not None and stopper.satisfied):
            return turns


def _undisturbed(environment: TextEnvironment, observation: str, info: Info) -> list[Decision]:
    """Return the turns of the expert without corruption."""
    expert, plan = environment.expert(), []
    over = False
    while not over:
        plan.append(expert.act(observation, info))
        observation, _, terminated, truncated, info = environment.step(plan[-1]["action"])
        over = terminated or truncated
    return plan


def _wrong(
    right: Decision,
    before: Decision | None,
    plan: list[Decision],
    admissible: list[str],
    known: dict[str, None],
    rng: random.Random,
) -> Decision | None:
    """Return a turn that stands in for the right one, or None if no action is known.

    Its action is wrong, except that a random command may happen to be the right one.
    """
    if before is not None and before["action"] != right["action"] and rng.random() < 0.33:
        return before
    misjudged = [other for other in plan if other["action"] != right["action"]]
    if misjudged and rng.random() < 0.5:
        return rng.choice(misjudged)
    now = set(admissible)
    stale = [command for command in known if command not in now]
    commands = stale if stale and rng.random() < 0.5 else admissible
    return Decision(thought=right["thought"], action=rng.choice(commands)) if commands else None


class Recordings:
    """Recorded episodes, distributed over the steps of a warm start.

    They are used in the order of their files and lines. Each worker gets one recording per step, or as many as are
    needed to use each recording once in `steps` steps. So all are used equally often, up to a difference of one.
    """

    def __init__(self, plays: list[list[Demonstrated]], steps: int, workers: int) -> None:
        self._plays, self._workers = plays, workers
        self._per_worker = math.ceil(len(plays) / (steps * workers))

    def share(self, step: int, rank: int) -> list[list[Demonstrated]]:
        """Return the demonstrations that worker `rank` imitates in step `step`."""
        first = (step * self._workers + rank) * self._per_worker
        return [self._plays[place % len(self._plays)] for place in range(first, first + self._per_worker)]


def recorded_plays(environment: TextEnvironment, path: Path, form: str) -> list[list[Demonstrated]]:
    """Replay recorded episodes in an environment.

    Args:
        environment: environment with the split and the rules of the recordings.
        path: a file, or a folder with `*.jsonl` files.
        form: turn format of the agent (`parsing.FORMS`); every recorded turn must be expressible in it.

    Raises:
        UserError: there are no recordings, the environment does not support them, or one does not fit it. The message
            names the file and the line.
    """
    if not isinstance(environment, Recorded):
        raise UserError("warm_start.recordings: this environment has no recordings; leave it at null")
    plays = [
        _replay(environment, made, form) for file in recording_files(path) for made in environment.recordings(file)
    ]
    if not plays:
        raise UserError(f"warm_start.recordings={path} has no recorded episode")
    return plays


def recording_files(path: Path) -> list[Path]:
    """Return the path itself if it is a file, or the `*.jsonl` files of the folder, sorted by name.

    Raises:
        UserError: there is no such file.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise UserError(f"warm_start.recordings={path} is neither a file nor a folder with *.jsonl files")
    return files


def _replay(environment: TextEnvironment, made: RecordedEpisode, form: str) -> list[Demonstrated]:
    elsewhere = "it was recorded in another environment or under other rules"
    observation, info = environment.reset(options={"task": made.task})
    turns: list[Demonstrated] = []
    over = False
    for turn in made.turns:
        if over:
            ended = f"the episode ended after {len(turns)} turns but the recording continues"
            raise UserError(f"{made.where}: {ended}; {elsewhere}")
        thought, action = " ".join(turn["thought"].split()), " ".join(turn["action"].split())
        said = FORMS[form].parse(FORMS[form].write(thought, action))
        if (said.thought, said.action) != (thought, action):
            raise UserError(f"{made.where}: {action!r:.80} cannot be expressed in agent.form={form}; remove the line")
        turns.append(Demonstrated(observation, info, thought, action, corrupted=False))
        observation, _, terminated, truncated, info = environment.step(action)
        over = terminated or truncated
    if not over:
        raise UserError(f"{made.where}: the recording ends before the episode does; {elsewhere}")
    if not math.isclose(info["score"], made.score, abs_tol=1e-9):
        raise UserError(f"{made.where}: score {info['score']:.3f} here, {made.score:.3f} when recorded; {elsewhere}")
    return turns


def as_episode(turns: list[Demonstrated], agent: Agent, limit: int) -> tuple[Episode, list[bool]]:
    """Return a demonstration in token ids, cut before `limit` tokens, and for each turn whether it is imitated."""
    info = turns[0].info
    episode = Episode(
        task_id=info["task_id"], task_index=0, task_type=info["task_type"], split="", group=0, task=info["task"]
    )
    dialogue = agent.dialogue()
    imitated: list[bool] = []
    context = 0
    for turn in turns:
        prompt = dialogue.read(turn.observation, turn.info)
        action_ids = agent.write(turn.thought, turn.action)
        context = (0 if prompt.fresh else context) + len(prompt.ids) + len(action_ids)
        if context > limit:
            break
        dialogue.wrote(action_ids, turn.action)
        nothing = [0.0] * len(action_ids)
        episode.turns.append(
            Turn(
                observation=turn.observation,
                prompt_ids=prompt.ids,
                action_ids=action_ids,
                logprobs=nothing,
                entropies=nothing,
                thought=turn.thought,
                action=turn.action,
            )
        )
        imitated.append(not turn.corrupted)
    return episode, imitated


def corpus(
    environment: TextEnvironment, prompt_spec: PromptSpec, form: str, episodes: int, key: tuple[int, ...]
) -> list[str]:
    """Return observations and turns of `episodes` demonstrations as the agent reads them, to train a tokenizer on."""
    texts = []
    for index in range(episodes):
        for turn in demonstrate(environment, index % environment.num_tasks, 0.1, (*key, index)):
            texts.append(observation_text(prompt_spec, turn.observation, turn.info, first=False))
            texts.append(FORMS[form].write(turn.thought, turn.action))
    return texts
