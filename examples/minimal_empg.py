"""EMPG in one file: a toy environment, a tiny language model, rollout, credit, update. Only torch; 20 s on one core.

    python examples/minimal_empg.py [--seed 0] [--updates 100]

The environment: one of four boxes contains the key, and the door opens only with the key. In each turn the agent writes
a few words and reads one word back. It gets one reward at the end of the episode: 1 if the door is open after at most
five turns, else 0. The model first learns the language from random commands, which succeed occasionally. Then it learns
the task by reinforcement: first that the key is for the door, later to remember where it has looked. It is trained once
with plain GRPO and once with EMPG on top. The function `empg` is the method; the rest is part of any trainer. Such a
small environment shows how the parts fit together and that both learn. It does not show which one is better.

Shapes: B episodes, T tokens per episode, S steps (turns), V words.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

BOXES = ["red", "green", "blue", "white"]
WORDS = ["<pad>", ".", "look", "open", "door", *BOXES, "start", "empty", "key", "locked", "what?"]
ID = {word: i for i, word in enumerate(WORDS)}
PAD, END = ID["<pad>"], ID["."]
TURNS, TURN_TOKENS = 5, 3  # turns per episode; tokens per turn, including the final "."
GROUPS, GROUP_SIZE = 16, 8  # tasks per update; episodes per task, which are compared with one another


class Environment:
    """One episode. `box` contains the key; it is the same for all episodes of a group."""

    def __init__(self, box: str) -> None:
        self.box, self.has_key, self.won = box, False, False

    def step(self, turn: str) -> str:
        """Execute a turn such as "look red ." or "open door ." and return the word that the agent reads next."""
        verb, _, noun = turn.removesuffix(" .").partition(" ")
        if verb == "look" and noun in BOXES:
            self.has_key = self.has_key or noun == self.box
            return "key" if noun == self.box else "empty"
        if verb == "open" and noun == "door":
            self.won = self.has_key
            return "locked"
        return "what?"


class Policy(nn.Module):
    """A recurrent language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), 32)
        self.core = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, len(WORDS))

    def forward(self, words: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map `(B, T)` words to `(B, T, V)` logits of the next word, and return the recurrent state."""
        hidden, state = self.core(self.embed(words), state)
        return self.head(hidden), state


def entropy_of(logits: Tensor) -> Tensor:
    """Return the Shannon entropy over the whole vocabulary in nats: `(..., V)` to `(...)`."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


# ---------------------------------------------------------------------------------------------------------- rollout


class Rollout:
    """A batch of episodes, one per row: observation word, the agent's words, observation word, the agent's words, ...

    words, step_ids: `(B, T)`; the step id of a word is its turn if the agent wrote it, else -1.
    logprobs, entropies: `(B, T)`, for the distribution that each of the agent's words was sampled from.
    rewards: `(B,)`.
    """

    def __init__(self, batch: int) -> None:
        width = TURNS * (1 + TURN_TOKENS)
        self.words = torch.full((batch, width), PAD)
        self.step_ids = torch.full((batch, width), -1)
        self.logprobs, self.entropies = torch.zeros(batch, width), torch.zeros(batch, width)
        self.rewards = torch.zeros(batch)


@torch.no_grad()
def play(policy: Policy, boxes: list[str]) -> Rollout:
    """Play one episode per box, in parallel. Entropies are recorded during sampling, without an extra forward pass."""
    environments = [Environment(box) for box in boxes]
    out, state, column = Rollout(len(boxes)), None, 0
    observed, active = ["start"] * len(boxes), torch.ones(len(boxes), dtype=torch.bool)
    for turn in range(TURNS):
        out.words[:, column] = word = torch.where(active, torch.tensor([ID[o] for o in observed]), PAD)
        first, writing = column + 1, active.clone()
        for column in range(first, first + TURN_TOKENS):
            logits, state = policy(word[:, None], state)
            choice = torch.distributions.Categorical(logits=logits[:, 0])
            word = torch.where(writing, choice.sample(), PAD)
            out.words[:, column] = word
            out.step_ids[writing, column] = turn
            out.logprobs[writing, column] = choice.log_prob(word)[writing]
            out.entropies[writing, column] = entropy_of(logits[:, 0])[writing]
            writing &= word != END
        _, state = policy(word[:, None], state)
        column += 1
        for i in active.nonzero()[:, 0].tolist():
            written = out.words[i, first:column].tolist()
            observed[i] = environments[i].step(" ".join(WORDS[word] for word in written if word != PAD))
        active &= torch.tensor([not environment.won for environment in environments])
    out.rewards = torch.tensor([float(environment.won) for environment in environments])
    return out


# ----------------------------------------------------------------------------------------------------------- credit


def grpo(rewards: Tensor) -> Tensor:
    """Return outcome advantages, `(groups, group size)`: the reward's distance from the group mean, in deviations."""
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)


def empg(
    advantages: Tensor,
    entropies: Tensor,
    step_ids: Tensor,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.1,
    eps: float = 1e-8,
) -> Tensor:
    """Map `(B,)` outcome advantages to `(B, T)` token advantages by EMPG (arXiv 2509.09265)."""
    steps = torch.arange(int(step_ids.max()) + 1)
    member = step_ids[:, None, :] == steps[:, None]  # (B, S, T): the tokens of each step
    tokens = member.sum(-1)  # (B, S)
    real = tokens > 0  # every mean, min and max below is over the real steps of the whole batch
    H = (member * entropies[:, None]).sum(-1) / tokens.clamp(min=1)  # step entropy: the mean over the step's tokens

    low, high = H[real].min(), H[real].max()
    Hn = (H - low) / (high - low + eps)  # 0: the most confident step of the batch, 1: the most uncertain
    g = torch.exp(-k * Hn) / torch.exp(-k * Hn[real]).mean()  # confident steps get more weight; mean 1
    f = torch.exp(-k_future * Hn) * real  # clarity of a step
    f_next = torch.cat([f[:, 1:], torch.zeros_like(f[:, :1])], 1)  # clarity of the next step; 0 for the last step

    modulated = advantages[:, None] * g + zeta * f_next
    final = modulated - modulated[real].mean()
    return (member * final[..., None]).sum(1)


def clipped_loss(logp: Tensor, old: Tensor, advantages: Tensor, agent: Tensor, clip: float = 0.2) -> Tensor:
    """Average the clipped surrogate over the agent's words of each episode, then over episodes; all `(B, T)`."""
    ratio = torch.exp(logp - old)
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return ((loss * agent).sum(1) / agent.sum(1)).mean()


# --------------------------------------------------------------------------------------------------------- training


def next_word_logprobs(policy: Policy, words: Tensor) -> Tensor:
    """Return the log-probability of each word given the words before it, `(B, T)`; 0 for the first."""
    logp = policy(words[:, :-1])[0].log_softmax(-1).gather(-1, words[:, 1:, None])[..., 0]
    return nn.functional.pad(logp, (1, 0))


def learn_language(policy: Policy, updates: int = 100) -> None:
    """Train on random commands (supervised). The model learns the language, not the task."""
    commands = torch.tensor([[ID["look"], ID[box], END] for box in BOXES] + [[ID["open"], ID["door"], END]])
    observations = torch.tensor([ID["empty"], ID["empty"], ID["key"], ID["locked"]])
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    for _ in range(updates):
        said = commands[torch.randint(len(commands), (64, TURNS))]
        read = observations[torch.randint(len(observations), (64, TURNS, 1))]
        read[:, 0] = ID["start"]
        loss = -next_word_logprobs(policy, torch.cat([read, said], -1).flatten(1)).view(64, TURNS, -1)[:, :, 1:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(policy: Policy, use_empg: bool, updates: int, lr: float = 8e-3, epochs: int = 4) -> Iterator[float]:
    """Train by reinforcement; yield the success rate after each rollout."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    for _ in range(updates):
        tasks = torch.randint(len(BOXES), (GROUPS,)).repeat_interleave(GROUP_SIZE)
        batch = play(policy, [BOXES[task] for task in tasks])
        yield batch.rewards.mean().item()

        agent = batch.step_ids >= 0
        advantages = grpo(batch.rewards.view(GROUPS, GROUP_SIZE)).flatten()
        credit = empg(advantages, batch.entropies, batch.step_ids) if use_empg else advantages[:, None] * agent
        for _ in range(epochs):
            logprobs = next_word_logprobs(policy, batch.words)
            loss = clipped_loss(logprobs, batch.logprobs, credit, agent)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()


def main() -> None:
    """Train twice from the same initial policy and print both curves."""
    parser = argparse.ArgumentParser(description="Train EMPG and GRPO in a toy environment.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    torch.manual_seed(arguments.seed)
    start = Policy()
    learn_language(start)
    every = max(1, arguments.updates // 10)
    print(f"success rate in %, mean over {every} updates of {GROUPS * GROUP_SIZE} episodes each")
    for name in ("GRPO", "GRPO + EMPG"):
        print(f"{name:>12}", end="", flush=True)
        policy = copy.deepcopy(start)
        torch.manual_seed(arguments.seed)
        recent: list[float] = []
        for won in train(policy, name != "GRPO", arguments.updates):
            recent.append(100 * won)
            if len(recent) == every:
                print(f"{sum(recent) / every:6.1f}", end="", flush=True)
                recent.clear()
        print(f"{sum(recent) / len(recent):6.1f}" if recent else "")  # the rest, if they do not divide


if __name__ == "__main__":
    main()
