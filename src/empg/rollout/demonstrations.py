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
    """One turn: what was seen, what was said and done. A slip went wrong on purpose."""

    observation: str
    info: Info
    thought: str
    action: str
    corrupted: bool


def demonstrate(
    environment: TextEnvironment, task: int, noise: float, key: tuple[int, ...], early_stop: float = 0.0
) -> list[Demonstrated]:
    """Let the expert play a task, and slip now and then.

    With probability `noise` a turn goes wrong (unless that would end the episode). A third of these slips insist: the
    turn before, word for word, once more. Half of the others are of the hand: a random command that is admissible, or
    was and is not now. The rest are of the mind: thought and command belong to another moment of the expert's play,
    such as taking what was not found yet. So the policy reads its own mistakes, and learns from what the expert does
    next to come back from them.

    With probability `early_stop` a turn cuts the task short where it can be: the expert does at once what ends the task
    (`EarlyStoppingExpert.conclude`). Such turns are imitated, unlike corrupted ones: people's plays have these
    faults too. The play ends where the expert thinks that it is done. The same `key` gives the same play.

    Raises:
        UserError: there is no expert, or `early_stop` is asked of one that cannot stop early.
    """
    rng = random.Random(repr(key))
    observation, info = environment.reset(options={"task": task})
    plan = _undisturbed(environment.clone(), observation, info) if noise else []
    expert = environment.expert()
    hasty = expert if early_stop and isinstance(expert, EarlyStoppingExpert) else None
    if early_stop and hasty is None:
        raise UserError(EARLY_STOP_UNKNOWN)
    turns: list[Demonstrated] = []
    known: dict[str, None] = {}  # every command that was admissible so far, in order
    while True:
        said = expert.act(observation, info)
        if hasty is not None and rng.random() < early_stop:
            said = hasty.conclude(observation, info) or said
        admissible = [command for command in info.get("admissible") or [] if command not in (SEARCH, ANSWER)]
        known.update(dict.fromkeys(admissible))
        before = Decision(thought=turns[-1].thought, action=turns[-1].action) if turns else None
        wrong = _wrong(said, before, plan, admissible, known, rng) if rng.random() < noise else None
        if wrong is not None and environment.clone().step(wrong["action"])[2]:
            wrong = None
        done = wrong or said
        turns.append(Demonstrated(observation, info, done["thought"], done["action"], corrupted=wrong is not None))
        observation, _, terminated, truncated, info = environment.step(done["action"])
        if terminated or truncated or (hasty is not None and hasty.satisfied):
            return turns


def _undisturbed(environment: TextEnvironment, observation: str, info: Info) -> list[Decision]:
    """What the expert says when nothing goes wrong."""
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
    """Something else than the right thing to do; None where there is nothing else."""
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
    """What people played, a share for every step of a warm start.

    They take turns in the order of their files and lines. A step of `workers` workers has one recording for each of
    them, or as many as it takes for every recording to be seen once in `steps` steps, so that all are seen equally
    often, give or take one time.
    """

    def __init__(self, plays: list[list[Demonstrated]], steps: int, workers: int) -> None:
        self._plays, self._workers = plays, workers
        self._per_worker = math.ceil(len(plays) / (steps * workers))

    def share(self, step: int, rank: int) -> list[list[Demonstrated]]:
        """The plays that worker `rank` imitates in step `step`."""
        first = (step * self._workers + rank) * self._per_worker
        return [self._plays[place % len(self._plays)] for place in range(first, first + self._per_worker)]


def recorded_plays(environment: TextEnvironment, path: Path, form: str) -> list[list[Demonstrated]]:
    """The episodes that people recorded, played again.

    Args:
        environment: of the split and under the rules in which they were recorded.
        path: a file, or a folder of `*.jsonl`.
        form: how the agent writes turns (`parsing.FORMS`); what it could not say is no example.

    Raises:
        UserError: there are none, the environment has no recordings, or one does not belong to it; in one line, which
            names the file and the line of the recording.
    """
    if not isinstance(environment, Recorded):
        raise UserError("warm_start.recordings: episodes of this environment are not recorded; leave it at null")
    plays = [
        _replay(environment, made, form) for file in recording_files(path) for made in environment.recordings(file)
    ]
    if not plays:
        raise UserError(f"warm_start.recordings={path} holds no recorded episode")
    return plays


def recording_files(path: Path) -> list[Path]:
    """The files of recordings: the path itself, or the `*.jsonl` in that folder, by name.

    Raises:
        UserError: there is none.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise UserError(f"warm_start.recordings={path} is neither a file nor a folder with *.jsonl files")
    return files


def _replay(environment: TextEnvironment, made: RecordedEpisode, form: str) -> list[Demonstrated]:
    elsewhere = "it was made in another environment, or under other rules"
    observation, info = environment.reset(options={"task": made.task})
    turns: list[Demonstrated] = []
    over = False
    for turn in made.turns:
        if over:
            raise UserError(f"{made.where}: over after {len(turns)} turns, and the recording goes on; {elsewhere}")
        thought, action = " ".join(turn["thought"].split()), " ".join(turn["action"].split())
        said = FORMS[form].parse(FORMS[form].write(thought, action))
        if (said.thought, said.action) != (thought, action):
            raise UserError(f"{made.where}: an agent of the form {form} cannot say {action!r:.80}; remove the line")
        turns.append(Demonstrated(observation, info, thought, action, corrupted=False))
        observation, _, terminated, truncated, info = environment.step(action)
        over = terminated or truncated
    if not over:
        raise UserError(f"{made.where}: the recording ends before the episode does; {elsewhere}")
    if not math.isclose(info["score"], made.score, abs_tol=1e-9):
        raise UserError(f"{made.where}: score {info['score']:.3f} here, {made.score:.3f} when recorded; {elsewhere}")
    return turns


def as_episode(turns: list[Demonstrated], agent: Agent, limit: int) -> tuple[Episode, list[bool]]:
    """The play in token ids, cut before `limit` tokens are passed; and for each turn whether it was meant (no slip)."""
    info = turns[0].info
    episode = Episode(
        task_id=info["task_id"], task_index=0, task_type=info["task_type"], split="", group=0, task=info["task"]
    )
    dialogue = agent.dialogue()
    meant: list[bool] = []
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
        meant.append(not turn.corrupted)
    return episode, meant


def corpus(
    environment: TextEnvironment, prompt_spec: PromptSpec, form: str, episodes: int, key: tuple[int, ...]
) -> list[str]:
    """Texts of the expert's `episodes` plays, to train a tokenizer on: observations and turns as they are read."""
    texts = []
    for index in range(episodes):
        for turn in demonstrate(environment, index % environment.num_tasks, 0.1, (*key, index)):
            texts.append(observation_text(prompt_spec, turn.observation, turn.info, first=False))
            texts.append(FORMS[form].write(turn.thought, turn.action))
    return texts
