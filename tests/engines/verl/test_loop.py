"""The agent loop as verl's worker runs it: groups without an episode, the names of environments, their first starts."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-verl runs these tests")

import datasets
import yaml
from omegaconf import OmegaConf
from transfer_queue.client import AsyncTransferQueueClient as TransferQueueClient
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from empg.engines.verl.loop import _groups, check_job
from empg.engines.verl.recording import RecipeTrainer
from empg.engines.verl.tasks import task_rows
from empg.environments.base import PromptSpec
from empg.environments.options import EnvironmentOptions
from empg.environments.registry import register
from empg.environments.spec import EnvironmentSpec
from empg.errors import UserError
from empg.policy.model import Policy
from empg.recipe import parse_recipe
from tests.engines.trl.parts import tiny_policy
from tests.lamps import Lamps

pytestmark = pytest.mark.filterwarnings("default")  # of verl

GROUP_SIZE = 4
FATES = {"train": itertools.repeat("win:1"), "broken": itertools.repeat("raise:0"),
         "flaky": itertools.cycle(["raise:0", "win:1"])}  # fmt: skip

register(
    EnvironmentSpec(
        id="lamps-on-verl",
        entry_point=f"{__name__}:lamps",
        options=EnvironmentOptions,
        prompt=PromptSpec("Press.", "<action>press 1</action>"),
        panels=("train",),
        gymnasium_id="empg-test/LampsOnVerl-v0",
    )
)


def lamps(split: str, max_steps: int = 2) -> Lamps:
    """The next environment of a split: it works, or its reset raises."""
    return Lamps(next(FATES[split]), max_steps=max_steps)


class Server:
    """Writes the same tokens in every turn."""

    async def generate(self, **_: Any) -> Any:
        return SimpleNamespace(token_ids=[7, 8, 9], log_probs=None, extra_fields={})


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def configuration(folder: Path, **recipe: Any) -> Any:
    """verl's configuration of a job with a recipe."""
    sections = {"environment": {"id": "lamps-on-verl"}, "agent": {"prompt": "instruct"}, **recipe}
    sections["rollout"] = {"max_episode_tokens": 512, **recipe.get("rollout", {})}
    (folder / "agent.yaml").write_text(yaml.safe_dump(sections))
    rollout = {"n": GROUP_SIZE, "prompt_length": 256, "response_length": 256, "val_kwargs": {"n": 1}}
    return OmegaConf.create(
        {
            "data": {},
            "actor_rollout_ref": {"rollout": rollout, "model": {"path": str(folder)}},
            "empg": {"recipe": str(folder / "agent.yaml")},
        }
    )


def worker(config: Any, policy: Policy) -> tuple[Any, list[int]]:
    """verl's worker without its start, and the number of outputs of each episode that it gets."""
    loops = object.__new__(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class)
    loops.config, loops.llm_client, loops.tokenizer, loops.processor = config, Server(), policy.tokenizer, None
    loops.hf_model_type, loops.dataset_cls, loops.tools = None, datasets.Dataset, []
    got: list[int] = []

    async def keep(output: list[Any], validate: bool, **_: Any) -> None:
        got.append(len(output))

    loops._agent_loop_postprocess = keep
    return loops, got


def played(loops: Any, split: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the worker play a group; returns the status that verl gives it."""
    statuses: list[str] = []

    async def put(key: str, partition_id: str, tag: dict[str, str]) -> None:
        statuses.append(tag["status"])

    monkeypatch.setattr(agent_loop_tq.tq, "async_kv_put", put)
    recipe = parse_recipe({"environment": {"id": "lamps-on-verl"}})
    [row] = task_rows(recipe, split, [0])
    trajectory = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False}
    prompt = {"uid": "one", "agent_name": row["agent_name"], "extra_info": row["extra_info"]}
    asyncio.run(loops._run_prompt(prompt, {"temperature": 1.0}, trajectory))
    assert not _groups
    return statuses[-1]


@pytest.mark.parametrize(
    ("split", "tokens", "status", "outputs"),
    [
        ("train", 512, "finished", [1, 1, 1, 1]),
        ("flaky", 512, "finished", [0, 0, 1, 1]),  # the others are compared with each other
        ("broken", 512, "failure", [0, 0, 0]),
        ("train", 64, "failure", [0, 0, 0]),  # the first prompt does not fit
    ],
)
def test_only_a_group_without_any_episode_has_failed(
    split: str,
    tokens: int,
    status: str,
    outputs: list[int],
    policy: Policy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loops, got = worker(configuration(tmp_path, rollout={"max_episode_tokens": tokens}), policy)
    assert played(loops, split, monkeypatch) == status
    assert sorted(got) == outputs
    reason = "does not fit into rollout.max_episode_tokens" if tokens == 64 else "the lamps went out at turn 0"
    left_out = [record.getMessage() for record in caplog.records if "not trained on" in record.getMessage()]
    assert len(left_out) == GROUP_SIZE - sum(outputs)
    assert all(reason in line for line in left_out)


def test_verl_filters_groups_when_one_of_them_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = object.__new__(ReplayBuffer)
    buffer.filter_groups_metric, buffer._dapo_classification_cache = "reward", {"train": {}}
    buffer.partitions, buffer.finished_keys, buffer.failure_keys = {"train": {}}, {"train": set()}, {"train": {"one"}}
    assert buffer._dapo_filtered_keys("train")[0] == set()
    buffer.finished_keys = {"train": {"one"}}  # what it was without the error of the last episode
    with pytest.raises(RuntimeError, match="missing DAPO metric"):
        buffer._dapo_filtered_keys("train")


@pytest.mark.parametrize(
    ("method", "when"), [("_step_once", "iteration 3"), ("_validate", "evaluation after iteration 3")]
)
def test_a_batch_without_any_episode_ends_the_job_in_one_line(
    method: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = object.__new__(RecipeTrainer)
    trainer.global_steps = 3

    def run(error: Exception) -> None:
        def fails(self: Any) -> None:
            raise error

        monkeypatch.setattr(PPOTrainer, method, fails)
        getattr(trainer, method)()

    with pytest.raises(UserError, match=f"^{when}: every episode ended without a turn"):
        run(RuntimeError("Sync replay buffer selected terminal groups with no materializable trajectories."))
    with pytest.raises(UserError, match=f"^{when}: every episode ended without a turn"):
        run(error_of_an_empty_batch())
    with pytest.raises(RuntimeError, match="out of memory"):
        run(RuntimeError("out of memory"))


def error_of_an_empty_batch() -> ValueError:
    """What TransferQueue raises for no keys."""
    ask = inspect.unwrap(TransferQueueClient.async_kv_retrieve_meta)
    with pytest.raises(ValueError, match="empty") as raised:
        asyncio.run(ask(None, keys=[], partition_id="val"))
    return raised.value


def rows_of(id_: str, **others: Any) -> Any:
    """A dataset of verl with rows for an environment."""
    rows = task_rows(parse_recipe({"environment": {"id": id_}}), "train", [0, 1])
    return SimpleNamespace(dataframe=datasets.Dataset.from_list([{**row, **others} for row in rows]))


@pytest.mark.parametrize("id_", ["lamps-on-verl", "empg-test/LampsOnVerl-v0"])
def test_an_environment_is_played_under_each_of_its_names(
    id_: str, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, environment={"id": id_})
    check_job(config, policy.tokenizer, [rows_of("lamps-on-verl"), rows_of("empg-test/LampsOnVerl-v0")])
    loops, got = worker(config, policy)
    assert played(loops, "train", monkeypatch) == "finished"
    assert got == [1] * GROUP_SIZE


def test_what_no_episode_could_be_played_with_is_an_error_before_anything_starts(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = rows_of("lamps-on-verl")

    def start(config: Any, *found: Any) -> None:
        monkeypatch.setattr(PPOTrainer, "_init_dataloader", lambda self: None)
        trainer = object.__new__(RecipeTrainer)
        trainer.config, trainer.tokenizer = config, policy.tokenizer
        trainer.train_dataset, trainer.val_dataset = found
        trainer._init_dataloader()

    with pytest.raises(UserError, match=r"empg\.recipe: expected the path of a recipe"):
        start(OmegaConf.create({}), mine, mine)
    start(OmegaConf.create({}), rows_of("alfworld", agent_name="another"), SimpleNamespace())  # a job without our loop
    config = configuration(tmp_path)
    start(config, mine, mine)
    with pytest.raises(UserError, match="expected a recipe of alfworld, for which the data files were written"):
        start(config, mine, rows_of("alfworld"))
    config.actor_rollout_ref.rollout.prompt_length = 255
    with pytest.raises(UserError, match=r"rollout\.max_episode_tokens: 512 tokens do not fit into .* = 511"):
        start(config, mine, mine)
