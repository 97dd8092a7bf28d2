"""`EMPGTrainer`: TRL's `GRPOTrainer`, whose advantages are modulated step by step before the loss.

TRL computes one advantage per completion. Here it becomes one per token, (B, T), which TRL's losses accept. A step is
what `rollout_func` returns as `step_ids`, or otherwise a run of model tokens between tokens of an environment or tool:
one step in a single-turn task. The modulation sees the steps of all processes, so its result does not depend on how the
generation batch is divided.

Step entropies are those of the policy that sampled, at the sampling temperature. They come from the pass that computes
the old log-probabilities. If TRL needs none, there is one more pass without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from empg.credit import (
    MODULATIONS,
    ModulationInputs,
    StepCredit,
    StepTable,
    TokenLayout,
    step_ids_from_mask,
    without_gaps,
)
from empg.engines.trl.rollout import EpisodeRollout
from empg.errors import UserError
from empg.recipe.modulation import named, read_modulation, require_turn_entropy

# What TRL passes on to the model besides the ids, for images.
_MODEL_INPUTS = (
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles",
    "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids",
)  # fmt: skip


@dataclass
class EMPGConfig(GRPOConfig):  # type: ignore[misc]  # TRL has no types
    """`GRPOConfig` and the modulation.

    Attributes:
        modulation: as `credit.modulation` of a recipe: the name of a rule, or a mapping of `name` and its options, e.g.
            `{"name": "empg", "zeta": 0.05}`. None trains with TRL's advantages.

    Raises:
        UserError: the rule or an option is unknown, an option has a wrong value, or the ratio is not per token.
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "modulation"]  # noqa: RUF012  # as TRL has it

    modulation: dict[str, Any] | str | None = field(
        default="empg",
        metadata={"help": "Rule that modulates the credit of steps: its name, or a mapping of `name` and its options."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        section = named(self.modulation, key="modulation")
        if section is not None:
            if not isinstance(section, dict):
                raise UserError(f"modulation: expected a name, a mapping or None, got {section!r:.80}")
            options = read_modulation(section, key="modulation")
            section = {"name": section.get("name", "empg"), **vars(options)}
        self.modulation = section
        if section is not None and self.importance_sampling_level != "token":
            # One ratio for a completion has one gradient, into which the advantages of all its tokens are averaged.
            raise UserError(
                f"importance_sampling_level: a modulation expects token, got {self.importance_sampling_level}; "
                "set modulation=None"
            )


class EMPGTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL has no types
    """`GRPOTrainer` with modulated credit; takes the same arguments, with an `EMPGConfig` as `args`.

    Only training is modulated. The loss of an evaluation is that of `GRPOTrainer`.

    Raises:
        UserError: `args` is another configuration, or its modulation needs the entropy of actions.
    """

    knows_actions = False
    """Whether `assign` knows which tokens of a turn are its action, as `entropy: action` of a modulation needs."""

    _tag_names = ["trl", "grpo", "empg"]  # noqa: RUF012  # as TRL has it

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: EMPGConfig | None = None, *more: Any, **named_more: Any
    ) -> None:
        args = EMPGConfig() if args is None else args
        if not isinstance(args, EMPGConfig):
            raise UserError(f"args: expected EMPGConfig, got {type(args).__name__}")
        if isinstance(args.modulation, dict) and not self.knows_actions:
            require_turn_entropy(args.modulation, key="modulation")
        self._awaits_old_policy = False
        self._scores: tuple[Tensor, Tensor] | None = None
        self._rewards = torch.zeros(0)
        super().__init__(model, reward_funcs, args, *more, **named_more)
        if isinstance(self.rollout_func, EpisodeRollout):  # the generator has its limit, that of a turn, already
            self.max_completion_length = self.rollout_func.recipe.rollout.max_episode_tokens  # the constant of dr_grpo

    @property
    def needs_scores(self) -> bool:
        """Whether `assign` needs entropies, which may cost one more pass."""
        return self.args.modulation is not None

    def assign(self, inputs: list[dict[str, Any]], batch: dict[str, Any], scores: tuple[Tensor, Tensor]) -> None:
        """Replace the advantages (B,) of a generation batch by modulated ones (B, T).

        Args:
            inputs: the rows of this process, with what the rollout function returned about them.
            batch: what TRL computed of them; changed in place.
            scores: log-probabilities and entropies (B, T) of the completions, nats.
        """
        compared, first = self._compared(), self.accelerator.process_index * len(inputs)
        steps = self.step_ids(inputs, batch)
        left_out = ~compared[first : first + len(inputs), None].to(steps.device)
        layout = TokenLayout.of(steps.masked_fill(left_out, -1))
        table = StepTable.from_layout(layout, batch["advantages"], scores[1])
        credit, mine = self._modulated(table, first, compared)
        batch["advantages"] = layout.to_tokens(credit.advantage[mine].to(scores[1].device))

    def step_ids(self, inputs: list[dict[str, Any]], batch: dict[str, Any]) -> Tensor:
        """Return (B, T) int64, the step of each token of the completions, -1 outside the tokens of the loss.

        Raises:
            UserError: a rollout function returned something else than one step for each token of a completion.
        """
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        if "step_ids" not in inputs[0]:
            return step_ids_from_mask(mask)
        lengths = batch["completion_mask"].sum(1).tolist()
        for row, (each, length) in enumerate(zip(inputs, lengths, strict=True)):
            given = each["step_ids"]
            found = len(given) if isinstance(given, Sequence) else type(given).__name__
            if found != length and (length or not isinstance(given, Sequence)):  # TRL hides a truncated completion
                raise UserError(f"step_ids: row {row}: expected {length}, one for each token, got {found}")
        given = pad_sequence([torch.tensor(row["step_ids"]) for row in inputs], batch_first=True, padding_value=-1)
        steps = torch.full(mask.shape, -1)
        steps[:, : given.shape[1]] = given[:, : steps.shape[1]]
        return without_gaps(steps.to(mask.device).masked_fill_(mask == 0, -1))  # a step may have no token in the loss

    @property
    def finished(self) -> float:
        """Share of the optimizer steps that are finished."""
        return float(self.state.global_step / self.state.max_steps)

    def _compared(self) -> Tensor:
        """Return (E,) bool, on the CPU: the completions that have a reward, as another one of their group has.

        TRL gives the others an advantage of 0. Their steps get none from the modulation, and are not in its statistics.
        """
        known = ~self._rewards.cpu().isnan().view(-1, self.num_generations)
        return (known & (known.sum(1, keepdim=True) > 1)).flatten()

    def _modulated(self, table: StepTable, first: int, compared: Tensor) -> tuple[StepCredit, slice]:
        """Modulate the steps of all processes, on the CPU; return the result and which of it is this process's."""
        share = (table.entropy.cpu(), table.episode.cpu() + first, table.advantage.cpu())
        shares = gather_object([share])
        entropy, episode, advantage = (torch.cat(parts) for parts in zip(*shares, strict=True))
        place = compared.cumsum(0) - 1
        seen = ModulationInputs(
            steps=StepTable(entropy=entropy, episode=place[episode], advantage=advantage),
            rewards=self._rewards.cpu()[compared],
            groups=torch.arange(len(compared))[compared] // self.num_generations,
            finished=self.finished,
        )
        options = dict(self.args.modulation)
        rule = MODULATIONS[options.pop("name")]
        credit = rule(seen, rule.options(**options))
        self._log_credit(entropy, credit)
        start = sum(len(part[0]) for part in shares[: self.accelerator.process_index])
        return credit, slice(start, start + len(table))

    def _log_credit(self, entropy: Tensor, credit: StepCredit) -> None:
        numbers = {"entropy/step_mean": entropy.mean(), "credit/advantage_abs_mean": credit.advantage.abs().mean()}
        if credit.scale is not None and len(entropy):
            numbers |= {"credit/scale_min": credit.scale.min(), "credit/scale_max": credit.scale.max()}
        for name, value in numbers.items():
            self._metrics["train"][name].append(float(value))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not (self.model.training and self.needs_scores):
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        self._awaits_old_policy = True
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self._awaits_old_policy = False
        # Without a pass of the old policy, the first one was that of the reference.
        scores = self._scores if "old_per_token_logps" in batch else None
        self.assign(inputs, batch, self._score(batch) if scores is None else scores)
        self._scores = None
        return batch

    def _get_per_token_logps_and_entropies(
        self, model: Any, *inputs: Any, compute_entropy: bool = False, **more: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        keep = self._awaits_old_policy and model is self.model
        result: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(
            model, *inputs, compute_entropy=compute_entropy or keep, **more
        )
        if keep and result[1] is not None:
            self._awaits_old_policy = False
            self._scores = result[0], result[1]
        return result

    @torch.no_grad()
    def _score(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute log-probabilities and entropies (B, T) of the completions, as TRL does for the old policy."""
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            logprobs, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
                batch["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
                **{name: batch[name] for name in _MODEL_INPUTS if name in batch},
            )
        assert entropies is not None
        return logprobs, entropies

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        per_function: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        unknown = per_function.isnan().all(1)  # nansum would make them 0
        rewards = (per_function * self.reward_weights.to(per_function.device)).nansum(1)
        self._rewards = rewards.masked_fill(unknown, torch.nan)
        return per_function
