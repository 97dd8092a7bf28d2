"""Our engine is identical to the original one (textworld, as alfworld 0.4.2 wraps it), string by string.

Each chunk plays its own generated games on both engines and compares their output after every command: observation,
admissible commands, reward, end of the episode, and validity of the command. The expert plays half of the games to the
end; the other half is played at random. Invalid commands are inserted into both. The counts of comparisons are recorded
as test properties (`pytest --junit-xml`) and printed (`pytest -s`).
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from tests.environments.alfworld.rooms import KITCHEN_GOALS, bedroom, kitchen, oddities

pytest.importorskip("alfworld.info", reason="needs empg[textworld]")
pytest.importorskip("textworld", reason="needs empg[textworld]")

from empg.environments.alfworld.env import ALFWorldEnv
from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.textworld import RealGame, memoise
from empg.environments.alfworld.world import Game, State, TaskType

pytestmark = pytest.mark.slow

CHUNKS = 12
SMALL_GAMES = 18  # per chunk; three of each task type
RANDOM_STEPS, MOST_EXPERT_STEPS = 14, 50


class Comparison:
    """One game on both engines."""

    def __init__(self, game: Game, counts: Counter[str]) -> None:
        self.engine, self.real, self.counts = Engine(game), RealGame(game), counts
        self.state: State = self.engine.start()
        self.real.reset()
        self.counts["games"] += 1
        self.observation = self.engine.opening(self.state)
        self._compare("")

    def step(self, command: str) -> None:
        self.observation, obeyed = self.engine.step(self.state, command)
        assert self.real.step(command) == obeyed, command
        self.counts["steps"] += 1
        self.counts["refused"] += not obeyed
        self._compare(command)

    def _compare(self, command: str) -> None:
        assert self.observation == self.real.observation, command
        assert self.admissible() == self.real.admissible, command
        assert (float(self.state.won), self.state.won) == (self.real.score, self.real.done), command
        assert self.state.won == self.real.won, command
        self.counts["admissible commands"] += len(self.real.admissible)

    def admissible(self) -> list[str]:
        return self.engine.admissible(self.state)

    def refused(self, rng: random.Random) -> str:
        """Return a random command that is currently invalid."""
        items = [item.name for item in self.engine.items.values()]
        places = [receptacle.name for receptacle in self.engine.receptacles.values()]
        admissible = set(self.admissible())
        while True:
            verb = rng.choice(
                ("go to", "open", "close", "take", "move", "clean", "heat", "cool", "use", "examine", "put")
            )
            item, place = rng.choice(items), rng.choice(places)
            joint = {"take": "from", "move": "to", "put": "in/on"}.get(verb, "with")
            command = rng.choice((f"{verb} {place}", f"{verb} {item}", f"{verb} {item} {joint} {place}"))
            if command not in admissible:
                return command


def _play_at_random(game: Game, counts: Counter[str], rng: random.Random, steps: int) -> None:
    comparison = Comparison(game, counts)
    for _ in range(steps):
        commands = comparison.admissible()
        interactions = [c for c in commands if not c.startswith(("go to", "help", "look", "inventory"))]
        if rng.random() < 0.08:
            comparison.step(comparison.refused(rng))
        else:
            # Most commands are "go to". Without this preference almost nothing would be picked up.
            comparison.step(rng.choice(interactions if interactions and rng.random() < 0.7 else commands))
    comparison.real.close()


def _play_by_the_expert(env: ALFWorldEnv, task: int, counts: Counter[str], rng: random.Random) -> None:
    observation, info = env.reset(options={"task": task})
    expert = env.expert()
    comparison = Comparison(generate(env.split, task, env.rooms, env.task_types), counts)
    assert comparison.observation == observation
    for _ in range(MOST_EXPERT_STEPS):
        if rng.random() < 0.08:
            comparison.step(comparison.refused(rng))
        command = expert.act(observation, info)["action"]
        comparison.step(command)
        observation, _, _, _, info = env.step(command)
        if comparison.state.won:
            counts["won"] += 1
            break
    comparison.real.close()


@pytest.fixture
def counts(request: pytest.FixtureRequest, record_property):
    memoise()
    counts: Counter[str] = Counter()
    yield counts
    print(f"\n{request.node.name}: " + ", ".join(f"{number} {what}" for what, number in sorted(counts.items())))
    for what, number in sorted(counts.items()):
        record_property(what, number)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_generated_games(chunk: int, counts: Counter[str]):
    rng = random.Random(f"parity {chunk}")
    split = ("train", "valid_seen", "valid_unseen")[chunk % 3]
    task_types = list(TaskType)
    for number in range(SMALL_GAMES):
        task_type, task = task_types[number % 6], chunk * SMALL_GAMES + number
        if (number // 6 + chunk) % 2:
            game = generate(split, task, "small", [task_type])
            _play_at_random(game, counts, rng, RANDOM_STEPS)
        else:
            env = ALFWorldEnv(split, rooms="small", task_types=[task_type.value])
            _play_by_the_expert(env, task, counts, rng)
    # One full room in addition, played at random and by the expert.
    task_type = task_types[chunk % 6]
    _play_at_random(generate(split, chunk, "full", [task_type]), counts, rng, RANDOM_STEPS)
    _play_by_the_expert(ALFWorldEnv(split, task_types=[task_type.value]), chunk, counts, rng)
    assert counts["games"] == SMALL_GAMES + 2


@pytest.mark.parametrize("game", [*map(kitchen, KITCHEN_GOALS), bedroom(), oddities()], ids=lambda game: game.task)
def test_hand_written_games(game: Game, counts: Counter[str]):
    for seed in range(3):
        _play_at_random(game, counts, random.Random(seed), 40)


@pytest.mark.parametrize(
    "command",
    [
        *("", "  ", "LOOK", " look ", "help\n", "look\nlook", "go to", "go  to fridge 1", "go to\tfridge 1"),
        *("go to fridge 01", "go to fridge 1.", "go to Fridge 1", "examine", "help me", "inventory x"),
        *("take mug 1", "put mug 1 in/on cabinet 1", "\N{NARROW NO-BREAK SPACE}look", "\N{DEGREE SIGN}", "\0"),
    ],
)
def test_odd_commands(command: str, counts: Counter[str]):
    comparison = Comparison(kitchen(), counts)
    comparison.step(command)
    comparison.real.close()


def test_both_backends_of_the_environment_behave_alike():
    ours = ALFWorldEnv("valid_seen", rooms="small", max_steps=20)
    real = ALFWorldEnv("valid_seen", rooms="small", max_steps=20, backend="textworld")
    for task in range(3):
        observation, info = ours.reset(options={"task": task})
        assert real.reset(options={"task": task}) == (observation, info)
        expert, over = ours.expert(), False
        while not over:
            action = expert.act(observation, info)["action"]
            outcome = ours.step(action)
            assert real.step(action) == outcome
            observation, _, won, lost, info = outcome
            over = won or lost
    real.close()


def test_a_clone_on_the_original_engine_is_independent():
    env = ALFWorldEnv("valid_seen", rooms="small", backend="textworld")
    _, info = env.reset(options={"task": 0})
    first, second = [command for command in info["admissible"] or [] if command.startswith("go to")][:2]
    env.step(first)
    twin = env.clone()
    away = env.step(second)
    assert twin.step("look")[0].startswith(f"You are facing the {first.removeprefix('go to ')}")
    assert twin.step(second) == away
    twin.close()
    env.close()


PLAY = """
import random, sys
from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.textworld import RealGame, memoise

if sys.argv[1] == "memoised":
    memoise()
for task in (0, 1, 0):  # game 0 is repeated, so that the cache is used
    game, rng = RealGame(generate("train", task, "small")), random.Random(task)
    for _ in range(2):
        game.reset()
        for _ in range(12):
            print(repr((game.observation, game.admissible, game.score, game.done)))
            game.step(rng.choice(game.admissible))
    game.close()
"""


def test_memoise_does_not_change_the_output_of_the_engine():
    logs = [
        subprocess.run(
            [sys.executable, "-c", PLAY, mode], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        for mode in ("plain", "memoised")
    ]
    assert logs[0].count("\n") == 72
    assert logs[0] == logs[1]
