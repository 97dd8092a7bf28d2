"""Parity with TRL and verl on the same tensors, where they define the same thing; skipped where they are not installed.

`make test-trl` and `make test-verl` run them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from empg.credit import (
    ADVANTAGES,
    AdvantageInputs,
    Aggregation,
    KLEstimator,
    LossConfig,
    kl_divergence,
    outcome_advantages,
    policy_loss,
    token_weights,
)
from empg.learner.assign import overlong_share
from tests.learner.plays import episode, recipe, turn

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
LENGTH = 8  # tokens of a padded completion

# Four episodes of one to three turns: 1 where the policy wrote, 0 for observations and padding.
MASK = torch.tensor(
    [[1, 1, 0, 1, 1, 1, 0, 1], [1, 0, 0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 0, 0, 0]]
)
GIVEN = torch.tensor([1.3, -0.7, 0.4, -1.1])


def moved(logprobs: Tensor) -> Tensor:
    """Old log-probabilities whose ratios lie on both sides of the clip bounds, and beyond the dual clip."""
    return logprobs.detach() - 1.6 * torch.randn(MASK.shape, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)


def mine(
    logprobs: Tensor,
    old: Tensor,
    config: LossConfig,
    aggregation: Aggregation,
    ratio: Literal["token", "sequence"] = "token",
    reference: Tensor | None = None,
) -> Tensor:
    """Our loss of a padded batch whose rows are episodes."""
    agent = MASK.bool()
    rows = torch.arange(len(MASK))[:, None].expand_as(MASK)[agent]
    loss, _ = policy_loss(
        logprobs[agent],
        old[agent],
        GIVEN[rows],
        token_weights(rows, aggregation, constant=LENGTH),
        config,
        ref_logprobs=None if reference is None else reference[agent],
        sequences=rows if ratio == "sequence" else None,
    )
    return loss


@pytest.fixture(scope="module")
def trl() -> Any:
    return pytest.importorskip("trl", reason="TRL is not installed: make test-trl runs these tests")


@pytest.fixture(scope="module")
def core() -> Any:
    pytest.importorskip("verl", reason="verl is not installed: make test-verl runs these tests")
    from verl.trainer.ppo import core_algos

    return core_algos


@pytest.mark.slow
class TestTRL:
    """The loss and its gradient with TRL's own trainer on a small Llama; importing TRL takes 20 s."""

    def trainer(self, trl: Any, folder: Path, **options: object) -> Any:
        from datasets import Dataset
        from tokenizers import Tokenizer, models
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        torch.manual_seed(0)
        shape: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        LlamaForCausalLM(LlamaConfig(vocab_size=40, **shape)).save_pretrained(folder / "model")
        model = LlamaForCausalLM.from_pretrained(folder / "model")  # TRL reads its reference from there too
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(40)}, unk_token="w0"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1")
        arguments = trl.GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=LENGTH,
            gradient_checkpointing=False,
            temperature=1.0,
            **options,
        )
        return trl.GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": ["w2 w3"] * 4}),
            processing_class=tokenizer,
        )

    @pytest.mark.parametrize(
        ("loss_type", "aggregation"), [("grpo", "episode_mean"), ("dapo", "token_mean"), ("dr_grpo", "constant")]
    )
    def test_token_ratio(self, trl: Any, tmp_path: Path, loss_type: str, aggregation: Aggregation) -> None:
        config = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0, kl_coef=0.04)
        options = {"epsilon": 0.2, "epsilon_high": 0.28, "delta": 3.0, "beta": 0.04, "loss_type": loss_type}
        options["use_bias_correction_kl"] = False  # by default TRL multiplies the KL by the ratio, which we do not
        self.compare(self.trainer(trl, tmp_path, **options), config, aggregation)

    def test_sequence_ratio(self, trl: Any, tmp_path: Path) -> None:
        """The sequence of TRL is the whole completion without tool tokens: `loss.ratio: episode` here."""
        config = LossConfig(clip_low=0.2, clip_high=0.28)
        options = {"epsilon": 0.2, "epsilon_high": 0.28, "loss_type": "grpo", "importance_sampling_level": "sequence"}
        self.compare(self.trainer(trl, tmp_path, **options), config, "episode_mean", "sequence")

    def compare(
        self,
        trainer: Any,
        config: LossConfig,
        aggregation: Aggregation,
        ratio: Literal["token", "sequence"] = "token",
    ) -> None:
        model = trainer.model.eval()
        prompt, completion = torch.randint(2, 40, (4, 3)), torch.randint(2, 40, MASK.shape)
        ids, ones = torch.cat([prompt, completion], 1), torch.ones(4, 3 + LENGTH, dtype=torch.long)

        def logprobs() -> Tensor:
            scores: Tensor = trainer._get_per_token_logps_and_entropies(model, ids, ones, LENGTH)[0]
            return scores

        old = moved(logprobs())
        reference = logprobs().detach() + 0.3 * torch.randn(MASK.shape, generator=torch.Generator().manual_seed(6))
        inputs = {
            "prompt_ids": prompt,
            "prompt_mask": torch.ones_like(prompt),
            "completion_ids": completion,
            "completion_mask": torch.ones_like(completion),
            "tool_mask": MASK,
            "advantages": GIVEN,
            "old_per_token_logps": old,
            "ref_per_token_logps": reference,
            "num_items_in_batch": MASK.sum(),
        }
        theirs = trainer._compute_loss(model, inputs)
        gradient = torch.autograd.grad(theirs, list(model.parameters()))
        loss = mine(logprobs(), old, config, aggregation, ratio, reference if config.kl_coef else None)
        torch.testing.assert_close(loss, theirs, **CLOSE)
        for own, other in zip(torch.autograd.grad(loss, list(model.parameters())), gradient, strict=True):
            torch.testing.assert_close(own, other, **CLOSE)

    @pytest.mark.parametrize("length", [2, 79, 80, 81, 90, 99, 100])
    def test_soft_overlong_penalty(self, trl: Any, length: int) -> None:
        """TRL counts the completion; here the limit counts the prompt too, which has one token."""
        from trl.rewards import get_soft_overlong_punishment

        theirs = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
        settings = recipe(rollout={"max_episode_tokens": 100}, credit={"overlong_penalty": 1.0, "overlong_ramp": 0.2})
        played = episode(0, 0.0, turn([1], [2] * (length - 1)))
        assert -overlong_share(played, settings) == pytest.approx(theirs([[1] * length])[0], abs=1e-6)


@pytest.mark.slow
class TestVerl:
    """The functions of verl's `core_algos`."""

    rewards = torch.tensor([1.0, 0.0, 0.25, 1.0, 0.0, 0.5, 0.5])
    groups = torch.tensor([3, 3, 3, 8, 8, 5, 5])

    @pytest.mark.parametrize(
        ("method", "name", "options"),
        [
            ("grpo", "grpo", {"norm_adv_by_std_in_grpo": True}),
            ("dr_grpo", "grpo", {"norm_adv_by_std_in_grpo": False}),
            ("rloo", "rloo", {}),
        ],
    )
    def test_outcome_advantages(self, core: Any, method: str, name: str, options: dict[str, object]) -> None:
        theirs, _ = core.get_adv_estimator_fn(name)(
            token_level_rewards=self.rewards[:, None].clone(),
            response_mask=torch.ones(7, 1),
            index=np.array(self.groups.tolist()),
            **options,
        )
        torch.testing.assert_close(outcome_advantages(self.rewards, self.groups, method), theirs[:, 0], **CLOSE)

    @pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (0.99, 0.0), (1.0, 1.0)])
    def test_gae(self, core: Any, gamma: float, lam: float) -> None:
        """verl's steps are tokens: here steps have one token each, with tokens of observations between them."""
        generator = torch.Generator().manual_seed(3)
        values, rewards = (torch.randn(MASK.shape, generator=generator) * MASK for _ in range(2))
        _, returns = core.compute_gae_advantage_return(rewards, values, MASK, gamma, lam)
        agent = MASK.bool()
        found = ADVANTAGES["gae"].configured(gamma=gamma, lam=lam, normalise=False)(
            AdvantageInputs(
                rewards=rewards.sum(1),
                groups=torch.zeros(len(MASK), dtype=torch.long),
                episode=torch.arange(len(MASK))[:, None].expand_as(MASK)[agent],
                step_rewards=rewards[agent],
                values=values[agent],
            )
        )
        torch.testing.assert_close(found, (returns - values)[agent], **CLOSE)

    @pytest.mark.parametrize(
        ("mode", "aggregation"),
        [
            ("token-mean", "token_mean"),
            ("seq-mean-token-mean", "episode_mean"),
            ("seq-mean-token-sum-norm", "constant"),
        ],
    )
    @pytest.mark.parametrize(("name", "ratio"), [("vanilla", "token"), ("gspo", "sequence")])
    def test_policy_loss(
        self, core: Any, name: str, ratio: Literal["token", "sequence"], mode: str, aggregation: Aggregation
    ) -> None:
        from verl.workers.config import ActorConfig

        settings = ActorConfig(
            strategy="fsdp",
            rollout_n=1,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio_low=0.2,
            clip_ratio_high=0.28,
            clip_ratio_c=3.0,
        )
        config = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0 if name == "vanilla" else None)
        logprobs = -3 * torch.rand(MASK.shape, generator=torch.Generator().manual_seed(1))
        old = moved(logprobs)
        leaves = [logprobs.clone().requires_grad_() for _ in range(2)]
        theirs, _ = core.get_policy_loss_fn(name)(
            old, leaves[0], GIVEN[:, None].expand_as(MASK), MASK.float(), loss_agg_mode=mode, config=settings
        )
        loss = mine(leaves[1], old, config, aggregation, ratio)
        torch.testing.assert_close(loss, theirs, **CLOSE)
        gradients = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip((theirs, loss), leaves, strict=True)]
        torch.testing.assert_close(gradients[1], gradients[0], **CLOSE)

    @pytest.mark.parametrize("estimator", get_args(KLEstimator))
    def test_kl(self, core: Any, estimator: KLEstimator) -> None:
        generator = torch.Generator().manual_seed(2)
        logprobs, reference = (-3 * torch.rand(50, generator=generator) for _ in range(2))
        theirs = core.kl_penalty_forward(logprobs, reference, estimator)
        torch.testing.assert_close(kl_divergence(logprobs, reference, estimator), theirs, **CLOSE)


@pytest.mark.slow
class TestTrinity:
    """GiGPO as Trinity-RFT has it; no release of the authors' verl-agent is on the registry."""

    @pytest.mark.parametrize("divide", [True, False])
    @pytest.mark.parametrize(("weight", "gamma"), [(1.0, 0.95), (0.5, 1.0), (1.0, 0.0)])
    def test_gigpo(self, weight: float, gamma: float, divide: bool) -> None:
        module = "trinity.algorithm.advantage_fn.gigpo_advantage"
        theirs = pytest.importorskip(module, reason="Trinity is not installed: pip install trinity-rft==0.6.0")
        from trinity.common.experience import EID, Experience

        rewards = [[0.0, 0.0, 1.0], [0.0, 0.0], [0.0, 0.5, 0.0, 0.5], [0.0, 1.0], [0.0, 0.0, 0.0]]
        states = ["aba", "ab", "aaca", "ab", "aab"]
        groups = [4, 4, 4, 9, 9]
        steps = [(i, t) for i, episode_rewards in enumerate(rewards) for t in range(len(episode_rewards))]
        experiences = [
            Experience(
                eid=EID(batch=0, task=groups[i], run=i, step=t),
                tokens=torch.tensor([1, 2]),
                info={"step_reward": rewards[i][t], "env_state_hash": f"{groups[i]} {states[i][t]}"},
            )
            for i, t in steps
        ]
        compute = theirs.GiGPOAdvantageFn(omega=weight, gamma=gamma, fnorm="std" if divide else "none")
        expected = torch.stack([experience.advantages.flatten()[-1] for experience in compute(experiences)[0]])
        mine = ADVANTAGES["gigpo"].configured(weight=weight, gamma=gamma, divide_by_std=divide)(
            AdvantageInputs(
                rewards=torch.tensor([sum(episode_rewards) for episode_rewards in rewards]),
                groups=torch.tensor(groups),
                episode=torch.tensor([i for i, _ in steps]),
                step_rewards=torch.tensor([rewards[i][t] for i, t in steps]),
                states=torch.tensor([ord(states[i][t]) for i, t in steps]),
            )
        )
        torch.testing.assert_close(mine, expected, rtol=3e-6, atol=3e-6)  # a divisor of 1 has eps added as well
