"""Warm start: the actions of the expert become likely, and a tiny policy succeeds with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.environments.registry import find
from empg.errors import UserError
from empg.learner.warm_start import _schedule, warm_start
from empg.policy.decode import Decoder, Sampling
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import LoraSection, PolicySection, TinyModel
from empg.record.records import WarmStartRecord
from empg.rollout.collector import Collector, Request
from empg.rollout.demonstrations import corpus
from empg.rollout.env_pool import LocalEnvPool
from empg.rollout.types import EndReason
from empg.system.workers import Workers
from tests.lamps import Lamps
from tests.learner.plays import recipe

FATES = tuple(f"press:{n}" for n in (1, 2, 3, 2, 1))
WORLD = partial(Lamps, *FATES)
SHAPE = TinyModel(
    hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=320, max_positions=256
)


def tiny(seed: int = 0, lora: LoraSection | None = None) -> Policy:
    texts = corpus(WORLD(), find("alfworld").prompt, "react", 10, (0,))
    return load_policy(PolicySection(model="tiny", tiny=SHAPE, device="cpu", lora=lora), texts, seed)


def started(
    episodes: int,
    history: str = "merged",
    seed: int = 0,
    world: Callable[[], Lamps] = WORLD,
    policy: Policy | None = None,
    **sections: object,
) -> tuple[Policy, Agent, list[WarmStartRecord]]:
    policy = policy or tiny(seed)
    default = {"episodes": episodes, "episodes_per_step": 8, "lr": 1e-2, "noise": 0.1}
    wanted = recipe(agent={"history": history}, **{"warm_start": default, **sections})
    agent = Agent(find("alfworld").prompt, wanted.agent, ChatFormat(policy.tokenizer))
    records: list[WarmStartRecord] = []
    warm_start(policy, agent, world(), wanted, Workers(), records.append)
    return policy, agent, records


@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_the_loss_falls_and_the_policy_succeeds_like_the_expert(history: str) -> None:
    policy, agent, records = started(2400, history)
    assert [record["step"] for record in records] == list(range(1, 301))
    assert records[-1]["loss"] < 0.1 * records[0]["loss"]
    assert records[0]["token_accuracy"] < 0.1 < 0.9 < records[-1]["token_accuracy"]
    assert not policy.model.training
    decoder = Decoder(policy, 5, 256, Sampling(greedy=True, max_turn_tokens=32))
    requests = [Request(task, task, (task,)) for task in range(len(FATES))]
    episodes = Collector(decoder, agent, LocalEnvPool(WORLD), "train", 256).collect(requests)
    assert [episode.end for episode in episodes] == [EndReason.WON] * len(FATES)
    assert sum(len(episode.turns) for episode in episodes) <= 12  # the expert needs 9
    assert all(turn.valid for episode in episodes for turn in episode.turns)


def test_dropout_stays_off() -> None:
    """The log-probabilities of a policy are compared with those of the sampler, which has no dropout."""
    losses = []
    for seed in (1, 2):
        torch.manual_seed(0)
        config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=256, vocab_size=320)
        assert config.resid_pdrop > 0
        policy = Policy(AutoModelForCausalLM.from_config(config).eval(), tiny().tokenizer, torch.device("cpu"))
        torch.manual_seed(seed)
        _, _, records = started(16, policy=policy)
        assert not any(module.training for module in policy.model.modules())
        losses.append([record["loss"] for record in records])
    assert losses[0] == losses[1]


def test_the_same_seed_gives_the_same_policy() -> None:
    (first, _, records), (again, _, records_again) = started(16), started(16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, again.parameters, strict=True))
    assert [r["loss"] for r in records] == [r["loss"] for r in records_again]


class Shouting(Lamps):
    """The tasks from `since` on begin with more words than fit."""

    since = 0

    def _observation(self) -> str:
        return ("on " * 300 if self.task >= self.since else "") + super()._observation()


class ShoutingLater(Shouting):
    since = 8


def test_a_limit_that_no_turn_fits_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^rollout\.max_episode_tokens=128 is too small for one expert turn; increase it$"
    ):
        started(16, world=partial(Shouting, *FATES), rollout={"max_episode_tokens": 128})


def test_a_step_of_episodes_that_do_not_fit_has_no_loss() -> None:
    _, _, records = started(16, world=partial(ShoutingLater, *["press:2"] * 16), rollout={"max_episode_tokens": 128})
    assert records[0]["loss"] > 0
    assert records[1]["loss"] == 0


def test_a_warm_start_that_diverges_stops_before_it_is_kept() -> None:
    section = {"episodes": 64, "episodes_per_step": 8, "lr": 1e15}
    with pytest.raises(UserError, match=r"^the warm start diverged: its loss is nan in step \d\. Lower warm_start\.lr"):
        started(64, warm_start=section)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_adapter_is_trained_by_either_optimizer(optimizer: str) -> None:
    pytest.importorskip("peft")
    section = {"episodes": 16, "episodes_per_step": 8, "optimizer": optimizer}
    policy, _, records = started(16, policy=tiny(lora=LoraSection(r=2)), warm_start=section)
    assert len(records) == 2
    assert all(parameter.ndim == 2 for parameter in policy.parameters)


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [_schedule(step / 100, 0.1) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(1.0, abs=0.02)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert _schedule(0.0, 0.0) == pytest.approx(1.0)
    assert _schedule(0.0, 1e-320) == 1.0
