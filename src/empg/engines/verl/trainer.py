"""verl's synchronous trainer with modulated advantages.

verl's pass over the sampled tokens with the old policy writes log-probabilities and entropies. Its advantage step reads
only the former; this trainer reads the entropies as well and writes the advantages again, before the policy update.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.v1.trainer_base import register_trainer

from empg.engines.verl.base import CreditTrainer
from empg.engines.verl.credit import Modulated, modulate_rows, step_ids_of
from empg.errors import UserError
from empg.recipe.modulation import named, read_modulation, require_turn_entropy

KEY = "empg.modulation"
FIELDS = ["advantages", "entropy", "loss_mask", "response_mask", "rm_scores"]


@register_trainer("empg_sync")
class EMPGTrainerSync(CreditTrainer):
    """`sync` with modulated credit: `trainer.v1.trainer_mode=empg_sync`.

    Attributes:
        modulation: the rule and all its options, from `empg.modulation`, a name or a mapping; the default is `empg`.

    Raises:
        UserError: the rule or an option is unknown, or the configuration computes no entropies.
    """

    reads = FIELDS

    def __init__(self, config: DictConfig) -> None:
        self.modulation = modulation_of(config)
        super().__init__(config)

    def assign(self, data: TensorDict, keys: list[str], finished: float, metrics: dict[str, Any]) -> dict[str, Tensor]:
        """Return the modulated advantages; see `CreditTrainer.assign`."""
        result = modulate_batch(data, keys, self.modulation, finished)
        metrics.update(statistics(result))
        return {"advantages": result.advantages}


def modulation_of(config: DictConfig) -> dict[str, Any]:
    """Return the rule of a configuration of verl, with all options; raises `UserError`."""
    if OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode"):
        raise UserError(
            "algorithm.rollout_correction.bypass_mode: expected False, because the pass that it skips computes the "
            "entropies of the steps"
        )
    given = OmegaConf.select(config, KEY, default="empg")
    section = named(OmegaConf.to_container(given) if OmegaConf.is_config(given) else given, key=KEY)
    if not isinstance(section, dict):
        raise UserError(
            f"{KEY}: expected a name or a mapping, got {section!r:.80}; without a rule use the trainer sync"
        )
    require_turn_entropy(section, key=KEY)
    return {"name": section.get("name", "empg"), **vars(read_modulation(section, key=KEY))}


def modulate_batch(data: TensorDict, keys: list[str], modulation: dict[str, Any], finished: float) -> Modulated:
    """Modulate a batch of TransferQueue, whose fields are nested tensors.

    Raises:
        UserError: the batch has no entropies, or an advantage varies within a step.
    """
    if "entropy" not in data:
        raise UserError("the batch has no field entropy: the trainer empg_sync needs verl's pass of the old policy")
    fields = data.select(*FIELDS).to_padded_tensor()
    extra = data.get("extra_fields").tolist()
    steps = step_ids_of([each.get("step_ids") for each in extra], fields["loss_mask"], fields["response_mask"])
    try:
        return modulate_rows(
            keys,
            fields["advantages"],
            fields["entropy"],
            steps,
            fields["rm_scores"].sum(1),
            modulation,
            finished,
        )
    except ValueError as error:  # e.g. algorithm.adv_estimator=gae, whose advantages vary from token to token
        raise UserError(f"{KEY}: {error}") from None


def statistics(result: Modulated) -> dict[str, float]:
    """Return the metrics of a modulation."""
    steps, credit = result.steps, result.credit
    if not len(steps):
        return {}
    numbers = {"entropy/step_mean": steps.entropy.mean(), "credit/advantage_abs_mean": credit.advantage.abs().mean()}
    if credit.scale is not None:
        numbers |= {"credit/scale_min": credit.scale.min(), "credit/scale_max": credit.scale.max()}
    named_numbers = {name: float(value) for name, value in numbers.items()}
    return named_numbers | {"credit/steps_per_episode": len(steps) / int(steps.episode.max() + 1)}
