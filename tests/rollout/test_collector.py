"""Rollouts: the same episode wherever it is played, every end told apart, and no token read or written twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.environments.registry import find
from empg.learner.batch import make_batch
from empg.policy.decode import Decoder, Sampling
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from empg.recipe import AgentSection
from empg.rollout.collector import Collector, Request
from empg.rollout.env_pool import EnvPool, LocalEnvPool, ProcessEnvPool
from empg.rollout.types import EndReason, Episode
from tests.lamps import Lamps

FATES = ("win:2", "lose:1", "endless", "win:4", "shout:7", "lose:3")
SAMPLING = Sampling(max_turn_tokens=5)


def requests(fates: Sequence[str], members: int = 1) -> list[Request]:
    return [Request(task, task, (7, task, member)) for task in range(len(fates)) for member in range(members)]


def collect(
    policy: Policy,
    wanted: Sequence[Request],
    fates: Sequence[str] = FATES,
    *,
    slots: int = 3,
    limit: int = 400,
    sampling: Sampling = SAMPLING,
    pool: EnvPool | None = None,
    done: Callable[[int], None] | None = None,
    **agent: object,
) -> list[Episode]:
    chat = ChatFormat(policy.tokenizer)
    form = Agent(find("alfworld").prompt, AgentSection(**agent), chat)
    pool = pool or LocalEnvPool(partial(Lamps, *fates))
    return Collector(Decoder(policy, slots, limit, sampling), form, pool, "train", limit).collect(wanted, done)


def ids(episode: Episode) -> list[tuple[list[int], list[int]]]:
    return [(turn.prompt_ids, turn.action_ids) for turn in episode.turns]


def test_a_turn_keeps_what_the_world_said_of_it(policy: Policy) -> None:
    won, broken = collect(policy, requests(("win:2", "raise:1")), ("win:2", "raise:1"))
    assert [turn.info["score"] for turn in won.turns] == [0.0, 1.0]
    assert all(turn.info.keys() == {"won", "score", "valid"} for turn in won.turns)
    assert broken.turns[0].info == {}


@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_an_episode_is_the_same_in_any_slot_beside_any_other(policy: Policy, history: str) -> None:
    wanted = requests(FATES, members=2)
    alone = [collect(policy, [request], slots=1, history=history)[0] for request in wanted]
    for slots in (1, 3, 64):
        for order in (wanted, wanted[::-1], wanted[5:] + wanted[:5]):
            together = collect(policy, order, slots=slots, history=history)
            assert [e.task_index for e in together] == [r.task for r in order]
            for request, episode in zip(order, together, strict=True):
                assert ids(episode) == ids(alone[wanted.index(request)])
                assert episode.end is alone[wanted.index(request)].end


def test_another_key_is_another_episode(policy: Policy) -> None:
    first, second = collect(policy, [Request(2, 0, (1, 0)), Request(2, 0, (1, 1))])
    assert ids(first) != ids(second)


def test_every_end_has_its_reason(policy: Policy) -> None:
    fates = ("win:2", "lose:3", "endless", "raise:0", "raise:2")
    episodes = collect(policy, requests(fates), fates)
    won, lost, endless, at_reset, in_play = episodes
    assert [e.end.value for e in episodes] == ["won", "lost", "step_limit", "env_error", "env_error"]
    assert [len(e.turns) for e in episodes] == [2, 3, 6, 0, 2]
    assert [(e.success, e.reward, e.score) for e in (won, lost, endless)] == [
        (True, 1.0, 1.0),
        (False, 0, 0),
        (False, 0, 0),
    ]
    assert [t.reward for t in won.turns] == [0.0, 1.0]
    assert at_reset.error == "RuntimeError: the lamps went out at turn 0"
    assert in_play.error == "RuntimeError: the lamps went out at turn 2"
    assert (won.task_id, won.task_type, won.task, won.split) == ("0-win:2", "win", "press lamps", "train")


def test_an_environment_s_process_that_dies_costs_the_episode_it_played(policy: Policy) -> None:
    fates = ("win:2", "die:1", "win:2", "lose:1")
    pool = ProcessEnvPool(partial(Lamps, *fates), 1)
    try:
        episodes = collect(policy, requests(fates), slots=1, pool=pool)
    finally:
        pool.close()
    assert [e.end for e in episodes] == [EndReason.WON, EndReason.ENV_ERROR, EndReason.WON, EndReason.LOST]
    assert episodes[1].error == "the environment's process ended"


def test_an_outcome_counts_although_the_turn_was_malformed(policy: Policy) -> None:
    [episode] = collect(policy, [Request(0, 0, (0,))], max_malformed_turns=1, fates=("win:1",))
    assert episode.turns[0].action == ""
    assert not episode.turns[0].valid
    assert episode.end is EndReason.WON


def test_malformed_turns_in_a_row_end_an_episode(policy: Policy) -> None:
    [episode] = collect(policy, [Request(2, 0, (0,))], max_malformed_turns=3)
    assert (episode.end, len(episode.turns)) == (EndReason.MALFORMED, 3)


def test_the_token_limit_ends_an_episode_and_nothing_passes_it(policy: Policy) -> None:
    for limit in range(64, 90):
        [episode] = collect(policy, [Request(2, 0, (0,))], limit=limit, slots=1)
        assert episode.end is EndReason.TOKEN_LIMIT
        length = sum(len(p) + len(a) for p, a in ids(episode))
        assert limit - 40 < length <= limit


def test_a_first_prompt_that_does_not_fit_is_an_episode_without_turns(policy: Policy) -> None:
    chat = ChatFormat(policy.tokenizer)
    length = len(chat.first("Lamp 1 is lit."))
    episodes = collect(policy, [Request(2, 0, (0,)), Request(2, 0, (1,))], limit=length, slots=1)
    assert [(e.end, e.turns) for e in episodes] == [(EndReason.TOKEN_LIMIT, [])] * 2
    [episode] = collect(policy, [Request(2, 0, (0,))], limit=length + 1, slots=1)
    assert [len(t.action_ids) for t in episode.turns] == [1]


def test_per_turn_episodes_may_write_more_than_a_context_holds(policy: Policy) -> None:
    [episode] = collect(
        policy, [Request(2, 0, (0,))], history="per_turn", window=0, limit=64, sampling=Sampling(max_turn_tokens=20)
    )
    assert episode.end is EndReason.STEP_LIMIT
    assert episode.num_action_tokens > 64


@pytest.mark.parametrize("history", ["merged", "per_turn"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_was_sampled_is_what_the_learner_scores(policy: Policy, history: str, temperature: float) -> None:
    """Token-in token-out: rows made of the episodes' own ids give the sampled log-probabilities and entropies."""
    sampling = Sampling(temperature, top_p=0.9, max_turn_tokens=5)
    episodes = collect(policy, requests(FATES, 2), sampling=sampling, history=history)
    batch = make_batch(episodes, history)
    width = max(map(len, batch.rows))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in batch.rows])
    with torch.no_grad():
        logprobs, entropies = score_tokens(policy, padded, batch.row, batch.column, temperature)
    torch.testing.assert_close(batch.logprobs, logprobs, atol=1e-4, rtol=1e-4)
    sampled = torch.tensor([h for e in episodes for t in e.turns for h in t.entropies])
    torch.testing.assert_close(sampled, entropies, atol=1e-4, rtol=1e-4)


def test_a_turn_ends_with_its_end_token_or_at_its_limit(policy: Policy) -> None:
    end = ChatFormat(policy.tokenizer).end_of_turn
    sampling = Sampling(temperature=0.2, max_turn_tokens=5)
    written = Counter(
        i for e in collect(policy, requests(FATES, 4), sampling=sampling) for t in e.turns for i in t.action_ids
    )
    with torch.no_grad():  # the end becomes as likely as an id that is often written
        embeddings = policy.model.get_output_embeddings().weight
        embeddings[end] = embeddings[written.most_common(1)[0][0]]
    turns = [t for e in collect(policy, requests(FATES, 4), sampling=sampling) for t in e.turns]
    assert {t.action_ids[-1] == end for t in turns} == {True, False}
    for turn in turns:
        assert end not in turn.action_ids[:-1]
        assert len(turn.action_ids) == 5 or turn.action_ids[-1] == end
        assert len(turn.action_ids) == len(turn.logprobs) == len(turn.entropies)


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Return a list that gets the widths of the chunks of every forward pass."""
    reads: list[list[int]] = []
    read = Decoder._read

    def watched(self: Decoder, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> torch.Tensor:
        reads.append([len(chunk) for chunk in chunks])
        return read(self, slots, chunks)

    monkeypatch.setattr(Decoder, "_read", watched)
    return reads


def test_a_group_reads_its_first_prompt_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = watch_reads(monkeypatch)
    prompt = ChatFormat(policy.tokenizer).first("Lamp 1 is lit.")
    collect(policy, [Request(2, 0, (0, member)) for member in range(8)], slots=8)
    assert reads[0] == [len(prompt)]


def test_nothing_is_read_twice(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every id but the last sampled one goes through the model once (one slot: no padding, no sharing)."""
    reads = watch_reads(monkeypatch)
    [episode] = collect(policy, [Request(2, 0, (0,))], slots=1)
    assert sum(map(sum, reads)) == sum(len(p) + len(a) for p, a in ids(episode)) - 1


def test_progress_counts_the_episodes_that_ended(policy: Policy) -> None:
    seen: list[int] = []
    collect(policy, requests((*FATES, "raise:0")), (*FATES, "raise:0"), done=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 7


def test_no_requests_no_episodes(policy: Policy) -> None:
    assert collect(policy, []) == []
