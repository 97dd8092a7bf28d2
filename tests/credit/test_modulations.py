"""The table of modulations: what is in it, the contract of an entry, and each rule by hand."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.credit import (
    MODULATIONS,
    EMPGConfig,
    Modulation,
    ModulationInputs,
    Reduce,
    StepCredit,
    StepTable,
    modulate,
    modulated,
    outcome_advantages,
)
from empg.credit.modulations.centred import CentredOptions
from empg.credit.modulations.clarity import ClarityOptions
from empg.credit.modulations.empg_variant import VariantOptions
from empg.credit.modulations.grpo_s import GRPOSOptions
from empg.credit.modulations.gtpo import GTPOOptions
from empg.credit.modulations.scaling import ScalingOptions
from tests import ROOT
from tests.credit.batches import Batch, batches, on_workers

FOLDER = ROOT / "src" / "empg" / "credit" / "modulations"
FAMILY = ["empg", "scaling", "clarity", "centred"]


def inputs(
    entropy: list[float],
    episode: list[int],
    rewards: list[float],
    groups: list[int] | None = None,
    advantage: list[float] | None = None,
    process: list[float] | None = None,
    of_actions: list[float] | None = None,
    **more: Any,
) -> ModulationInputs:
    """Steps with the reward of their episode as advantage, and H squared as entropy of the action, unless given."""
    outcome = torch.tensor(rewards)
    owner = torch.tensor(episode, dtype=torch.long)
    table = StepTable(
        entropy=torch.tensor(entropy),
        episode=owner,
        advantage=outcome[owner] if advantage is None else torch.tensor(advantage),
        process_reward=None if process is None else torch.tensor(process),
        action_entropy=torch.tensor(entropy).square() if of_actions is None else torch.tensor(of_actions),
    )
    ids = torch.zeros(len(rewards), dtype=torch.long) if groups is None else torch.tensor(groups)
    return ModulationInputs(steps=table, rewards=outcome, groups=ids, **more)


# Two groups; in each a winner and a loser, of 2, 1, 3 and 1 steps.
BATCH: dict[str, Any] = {
    "entropy": [0.5, 1.0, 1.5, 0.25, 0.75, 2.0, 0.5],
    "episode": [0, 0, 1, 2, 2, 2, 3],
    "rewards": [1.0, 0.0, 1.0, 0.0],
    "groups": [7, 7, 3, 3],
}


def entry(modulate: Callable[[ModulationInputs, CentredOptions], StepCredit]) -> Modulation[CentredOptions]:
    return Modulation(name="mine", summary="", options=CentredOptions, modulate=modulate)


def test_a_rule_is_called_by_name_and_none_is_the_base_advantage_and_the_process_reward() -> None:
    seen = inputs(**BATCH, process=[0.5] * 7)
    with pytest.raises(ValueError, match=r"^name: expected one of centred, .*, got 'scalings'$"):
        modulated(seen, "scalings")
    plain = modulated(seen, None)
    assert torch.equal(plain.advantage, seen.steps.advantage + 0.5)
    assert all(values is None for name, values in vars(plain).items() if name != "advantage")
    options = ScalingOptions(k=2.0)
    assert torch.equal(modulated(seen, "scaling", options).advantage, MODULATIONS["scaling"](seen, options).advantage)
    assert torch.equal(modulated(seen, "scaling").advantage, MODULATIONS["scaling"](seen).advantage)


@pytest.mark.parametrize(
    ("episode", "rewards", "message"),
    [
        ([0, 2], [1.0, 0.0], "^steps.episode: expected indices from 0 to below 2, the length of rewards, got 0 to 2$"),
        ([-1, 0], [1.0, 0.0], "^steps.episode: expected indices .* got -1 to 0$"),
        ([0, 1], [1.0, math.nan], "^rewards: episode 1: expected a number from .* got nan; drop it or fix"),
    ],
)
def test_wrong_outcomes_are_refused(episode: list[int], rewards: list[float], message: str) -> None:
    steps = StepTable(entropy=torch.ones(2), episode=torch.tensor(episode), advantage=torch.ones(2))
    with pytest.raises(ValueError, match=message):
        ModulationInputs(steps=steps, rewards=torch.tensor(rewards), groups=torch.zeros(2).long())


@pytest.mark.parametrize("share", [3.0, -0.5, math.nan])
def test_a_share_of_the_run_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ValueError, match=f"^finished: expected a number from 0 to 1, got {share}$"):
        inputs(**BATCH, finished=share)


class TestTable:
    def test_each_module_of_the_folder_is_an_entry_under_its_own_name(self) -> None:
        assert set(MODULATIONS) == {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "base"}
        for name, found in MODULATIONS.items():
            assert importlib.import_module(f"empg.credit.modulations.{name}").MODULATION is found
            assert found.name == name

    @pytest.mark.parametrize("name", MODULATIONS)
    def test_the_docstring_of_the_file_is_the_definition(self, name: str) -> None:
        definition = importlib.import_module(f"empg.credit.modulations.{name}").__doc__
        assert definition is not None
        assert re.search(r"^    A\w*(\(i,t\))? += ", definition, re.MULTILINE)
        assert re.search(r"arXiv \d{4}\.\d{5}", definition)

    @pytest.mark.parametrize("name", MODULATIONS)
    def test_the_index_of_the_algorithms_has_a_row_for_each(self, name: str) -> None:
        page = (ROOT / "docs" / "algorithms" / "index.md").read_text(encoding="utf-8")
        assert re.search(rf"^\| \[[^\]]+\]\([^)]+\) \| `{name}` \|", page, re.MULTILINE)

    @pytest.mark.parametrize(
        ("name", "option"),
        [(name, field.name) for name, entry in MODULATIONS.items() for field in fields(entry.options)],
    )
    @pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
    def test_a_wrong_option_is_named(self, name: str, option: str, wrong: float) -> None:
        default = getattr(MODULATIONS[name].options(), option)
        wanted = r"one of \w+(, \w+)+" if isinstance(default, str) else r"a number from \S+ to \S+"
        with pytest.raises(ValueError, match=rf"^{option}: expected {wanted}, got {wrong}$"):
            MODULATIONS[name].options(**{option: wrong})


# Every rule with its defaults, and every choice of the variants.
RULES = [
    *((name, rule.options()) for name, rule in MODULATIONS.items()),
    ("empg_variant", VariantOptions(normalisation="quantile", q=0.2)),
    ("empg_variant", VariantOptions(scaling="uncertain")),
    ("empg_variant", VariantOptions(centring="gradient")),
    ("empg_variant", VariantOptions(clarity="won")),
    ("empg_variant", VariantOptions(clarity="won_end", zeta=1.0)),
    ("empg_variant", VariantOptions(clarity="potential", normalisation="quantile", q=0.3)),
    ("empg_variant", VariantOptions(entropy="action", normalisation="quantile", q=0.3)),
]


class TestContract:
    @pytest.mark.parametrize(("name", "options"), RULES)
    def test_steps_on_three_workers_get_the_same_credit_as_on_one(self, name: str, options: Any) -> None:
        whole = MODULATIONS[name](inputs(**BATCH), options).advantage
        parts = [
            {"entropy": BATCH["entropy"][:3], "episode": [0, 0, 1], "rewards": [1.0, 0.0], "groups": [7, 7]},
            {"entropy": [], "episode": [], "rewards": [], "groups": []},
            {"entropy": BATCH["entropy"][3:], "episode": [0, 0, 0, 1], "rewards": [1.0, 0.0], "groups": [3, 3]},
        ]

        def work(rank: int, reduce: Reduce) -> torch.Tensor:
            mine = parts[rank]
            if not mine["entropy"]:
                none = torch.zeros(0)
                table = StepTable(entropy=none, episode=none.long(), advantage=none, action_entropy=none)
                return MODULATIONS[name](
                    ModulationInputs(steps=table, rewards=none, groups=none.long(), reduce=reduce), options
                ).advantage
            return MODULATIONS[name](inputs(**mine, reduce=reduce), options).advantage

        torch.testing.assert_close(torch.cat(on_workers(3, work)), whole)

    @pytest.mark.parametrize(("name", "options"), RULES)
    def test_a_process_reward_reaches_the_step(self, name: str, options: Any) -> None:
        without = MODULATIONS[name](inputs(**BATCH), options).advantage
        process = torch.tensor([0.0, 0.0, 0.0, 0.7, 0.0, 0.0, 0.0])
        change = MODULATIONS[name](inputs(**BATCH, process=process.tolist()), options).advantage - without
        torch.testing.assert_close(change - change[0], process)

    @pytest.mark.parametrize(("name", "options"), RULES)
    def test_the_order_of_the_episodes_does_not_matter(self, name: str, options: Any) -> None:
        swapped = inputs(
            [0.25, 0.75, 2.0, 0.5, 0.5, 1.0, 1.5], [0, 0, 0, 1, 2, 2, 3], [1.0, 0.0, 1.0, 0.0], [3, 3, 7, 7]
        )
        whole = MODULATIONS[name](inputs(**BATCH), options).advantage
        torch.testing.assert_close(MODULATIONS[name](swapped, options).advantage.roll(3), whole)

    def test_the_options_of_another_rule_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^empg: expected EMPGConfig, got CentredOptions$"):
            MODULATIONS["empg"](inputs(**BATCH), CentredOptions())

    @pytest.mark.parametrize("wrong", [torch.zeros(4), torch.zeros(7, dtype=torch.float64)], ids=["E", "float64"])
    def test_a_rule_that_breaks_the_contract_is_named(self, wrong: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"^mine: advantage: expected \(7,\) float32, one per step, got \("):
            entry(lambda seen, options: StepCredit(advantage=wrong))(inputs(**BATCH))
        with pytest.raises(ValueError, match=r"^mine: scale: expected \(7,\) float32"):
            entry(lambda seen, options: StepCredit(advantage=torch.zeros(7), scale=wrong))(inputs(**BATCH))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"groups": [7, 7, 3]}, r"^groups: expected shape \(4,\), the shape of rewards, got \(3,\)"),
            ({"groups": [0.0] * 4}, "^groups: expected integer ids"),
            (
                {"rewards": [1.0] * 3, "groups": [0] * 3, "advantage": [0.0] * 7},
                r"^steps\.episode: expected .* below 3",
            ),
        ],
    )
    def test_bad_inputs_are_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            inputs(**{**BATCH, **changes})


class TestFamily:
    @pytest.mark.parametrize(
        ("name", "options", "same"),
        [
            ("empg", EMPGConfig(k=2.0, k_future=3.0, zeta=0.3, eps=0.1), {}),
            ("scaling", ScalingOptions(k=2.0, eps=0.1), {"zeta": 0.0}),
            ("clarity", ClarityOptions(k_future=3.0, zeta=0.3, eps=0.1), {"k": 0.0}),
            ("centred", CentredOptions(), {"k": 0.0, "zeta": 0.0}),
        ],
    )
    def test_each_is_empg_without_a_part_to_the_last_bit(self, name: str, options: Any, same: dict[str, float]) -> None:
        seen = inputs(**BATCH)
        credit = MODULATIONS[name](seen, options)
        wanted = modulate(seen.steps, EMPGConfig(**{**asdict(options), **same}))
        assert torch.equal(credit.advantage, wanted.advantage)
        assert credit.modulated is not None
        assert torch.equal(credit.modulated, wanted.modulated)

    def test_centred_by_hand(self) -> None:
        # Three steps of A = 1 and one of A = -1: their mean is 1/2.
        credit = MODULATIONS["centred"](inputs([0.1, 0.9, 0.4, 0.2], [0, 0, 0, 1], [1.0, -1.0]))
        assert credit.advantage.tolist() == [0.5, 0.5, 0.5, -1.5]

    @pytest.mark.parametrize("name", FAMILY)
    def test_the_family_has_every_intermediate(self, name: str) -> None:
        assert all(values is not None for values in vars(MODULATIONS[name](inputs(**BATCH))).values())


class TestVariant:
    @pytest.mark.parametrize("more", [{}, {"q": 0.3}, {"normalisation": "quantile", "q": 0.0}])
    def test_the_defaults_are_empg_to_the_last_bit(self, more: dict[str, Any]) -> None:
        constants: dict[str, Any] = {"k": 2.0, "k_future": 3.0, "zeta": 0.3, "eps": 0.1}
        seen = inputs(**BATCH, process=[0.1 * step for step in range(7)])
        credit, wanted = (
            MODULATIONS["empg_variant"](seen, VariantOptions(**constants, **more)),
            modulate(seen.steps, EMPGConfig(**constants)),
        )
        for name, values in vars(wanted).items():
            assert torch.equal(getattr(credit, name), values), name

    def test_the_entropy_of_actions_by_hand(self) -> None:
        # Two steps of an episode and one of another. The entropies of the actions are 0.5, 1.0 and 0.0: Hn = 1/2, 1, 0.
        # With k = k' = ln 2 the scale before normalisation is 2^-0.5, 0.5, 1, and the clarity of the second step 0.5.
        seen = inputs([7.0, 0.1, 3.0], [0, 0, 1], [1.0, -1.0], of_actions=[0.5, 1.0, 0.0])
        options = VariantOptions(entropy="action", k=math.log(2), k_future=math.log(2), zeta=0.2, eps=1e-30)
        credit = MODULATIONS["empg_variant"](seen, options)
        weights = torch.tensor([2**-0.5, 0.5, 1.0])
        scale = weights / weights.mean()
        modulated = torch.tensor([1.0, 1.0, -1.0]) * scale + 0.2 * torch.tensor([0.5, 0.0, 0.0])
        torch.testing.assert_close(credit.normalised_entropy, torch.tensor([0.5, 1.0, 0.0]))
        torch.testing.assert_close(credit.scale, scale)
        torch.testing.assert_close(credit.advantage, modulated - modulated.mean())

    @given(batches(), st.data())
    def test_the_entropy_of_actions_stands_for_that_of_turns(self, batch: Batch, data: st.DataObject) -> None:
        steps = batch.table()
        rewards = torch.tensor(batch.advantages)
        drawn = data.draw(st.lists(st.integers(0, 640), min_size=len(steps), max_size=len(steps)))
        other = torch.tensor(drawn) / 64
        groups = torch.zeros(len(rewards), dtype=torch.long)

        def credit(entropy: torch.Tensor, of_actions: torch.Tensor | None, which: Any) -> StepCredit:
            table = replace(steps, entropy=entropy, action_entropy=of_actions)
            seen = ModulationInputs(steps=table, rewards=rewards, groups=groups)
            return MODULATIONS["empg_variant"](seen, VariantOptions(entropy=which))

        for name, values in vars(credit(other, None, "turn")).items():
            assert torch.equal(getattr(credit(steps.entropy, other, "action"), name), values), name
        for name, values in vars(modulate(steps)).items():  # no turn has a thought
            assert torch.equal(getattr(credit(steps.entropy, steps.entropy, "action"), name), values), name

    def test_where_the_actions_are_unknown_their_entropy_is_an_error(self) -> None:
        seen = inputs(**BATCH)
        seen = replace(seen, steps=replace(seen.steps, action_entropy=None))
        MODULATIONS["empg_variant"](seen)
        with pytest.raises(ValueError, match=r"^entropy: expected turn, because it is unknown which tokens are the"):
            MODULATIONS["empg_variant"](seen, VariantOptions(entropy="action"))

    def test_quantile_clips_a_share_of_the_steps_at_either_end_by_hand(self) -> None:
        # Of five steps a share of 0.25 is one step at either end: low = 0.2 and high = 0.4, whatever the outlier is.
        credit = MODULATIONS["empg_variant"](
            inputs([0.1, 0.2, 0.3, 0.4, 8.0], [0, 1, 2, 3, 4], [1.0] * 5),
            VariantOptions(normalisation="quantile", q=0.25, eps=1e-30, zeta=0.0),
        )
        torch.testing.assert_close(credit.normalised_entropy, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
        weights = [1.0, 1.0, math.exp(-0.5), math.exp(-1.0), math.exp(-1.0)]
        torch.testing.assert_close(credit.scale, torch.tensor([5 * weight / sum(weights) for weight in weights]))

    def test_a_share_of_whole_steps_leaves_them_out_although_floats_round(self) -> None:
        # 0.29 of 100 steps is 29, and 0.29 * 100 is 28.999999999999996.
        steps = [float(step) for step in range(100)]
        credit = MODULATIONS["empg_variant"](
            inputs(steps, list(range(100)), [1.0] * 100), VariantOptions(normalisation="quantile", q=0.29)
        )
        assert credit.normalised_entropy is not None
        assert int((credit.normalised_entropy == 0).sum()) == 30  # 29 steps that are clipped, and the lowest other

    def test_a_share_below_one_step_is_minmax(self) -> None:
        credit = MODULATIONS["empg_variant"](inputs(**BATCH), VariantOptions(normalisation="quantile", q=0.14))
        assert torch.equal(credit.advantage, MODULATIONS["empg"](inputs(**BATCH)).advantage)

    @pytest.mark.parametrize("k", [0.0, math.log(4), 50.0])
    def test_uncertain_scaling_is_the_reverse_of_empg_by_hand(self, k: float) -> None:
        # Hn = 0, 1/2, 1. With k = ln 4 the weights are 1/4, 1/2, 1 and their mean is 7/12.
        credit = MODULATIONS["empg_variant"](
            inputs([0.5, 1.0, 1.5], [0, 1, 2], [1.0, 1.0, -1.0]),
            VariantOptions(scaling="uncertain", k=k, zeta=0.0, eps=1e-30),
        )
        wanted = {0.0: [1.0, 1.0, 1.0], 50.0: [0.0, 0.0, 3.0]}.get(k, [3 / 7, 6 / 7, 12 / 7])
        torch.testing.assert_close(credit.scale, torch.tensor(wanted))

    def test_centring_by_the_gradient_has_the_entropy_of_the_turn_also_where_h_is_that_of_the_action(self) -> None:
        seen = inputs(**BATCH)
        credit = MODULATIONS["empg_variant"](seen, VariantOptions(centring="gradient", entropy="action"))
        assert credit.modulated is not None
        gradient = 1 - torch.exp(-seen.steps.entropy)
        baseline = (gradient * credit.modulated).sum() / gradient.sum()
        torch.testing.assert_close(credit.advantage, credit.modulated - baseline)

    def test_centring_by_the_gradient_by_hand(self) -> None:
        # H = ln 2 and ln 4/3, so c = 1/2 and 1/4: b = (1/2 - 1/4) / (3/4) = 1/3.
        options = VariantOptions(centring="gradient", k=0.0, zeta=0.0)
        seen = inputs([math.log(2), math.log(4 / 3)], [0, 1], [1.0, -1.0])
        assert MODULATIONS["empg_variant"](seen, options).advantage.tolist() == pytest.approx([2 / 3, -4 / 3])

    @pytest.mark.parametrize("entropy", [0.0, 0.7])
    def test_with_equal_entropies_centring_by_the_gradient_is_the_mean(self, entropy: float) -> None:
        seen = inputs([entropy] * 3, [0, 1, 1], [1.0, -1.0])
        credit = MODULATIONS["empg_variant"](seen, VariantOptions(centring="gradient"))
        torch.testing.assert_close(credit.advantage, modulate(seen.steps).advantage)

    @given(batches(), st.sampled_from(["mean", "gradient"]), st.floats(-2, 2))
    def test_no_other_constant_has_a_smaller_second_moment(self, batch: Batch, centring: Any, other: float) -> None:
        steps = batch.table()
        groups = torch.zeros(len(batch.advantages), dtype=torch.long)
        seen = ModulationInputs(steps=steps, rewards=torch.tensor(batch.advantages), groups=groups)
        credit = MODULATIONS["empg_variant"](seen, VariantOptions(centring=centring))
        assert credit.modulated is not None
        weight = torch.ones(len(steps)) if centring == "mean" else 1 - torch.exp(-steps.entropy)
        least, found = (
            float((weight.double() * values.double().square()).sum())
            for values in (credit.advantage, credit.modulated - other)
        )
        assert least <= found * (1 + 1e-4) + 1e-5

    def test_uncertain_scaling_of_equal_entropies_is_one(self) -> None:
        options = VariantOptions(scaling="uncertain", k=50.0)
        credit = MODULATIONS["empg_variant"](inputs([0.3, 0.3], [0, 1], [1.0, -1.0]), options)
        torch.testing.assert_close(credit.scale, torch.ones(2))
        with pytest.raises(ValueError, match=r"^k: expected a number from 0 to 50, got 51"):
            VariantOptions(scaling="uncertain", k=51)

    @pytest.mark.parametrize(
        ("clarity", "wanted"),
        [
            # Hn = 0, 0.5, 1, 0 and k' = ln 2, so f = 1, 2^-0.5, 0.5, 1. Episode 0 has three steps and lost.
            ("bonus", [2**-0.5, 0.5, 0.0, 0.0]),
            ("won", [0.0, 0.0, 0.0, 0.0]),
            ("won_end", [0.0, 0.0, 0.0, 1.0]),
            ("potential", [2**-0.5 - 1.0, 0.5 - 2**-0.5, -0.5, -1.0]),
        ],
    )
    def test_the_bonus_by_hand(self, clarity: Any, wanted: list[float]) -> None:
        options = VariantOptions(clarity=clarity, k_future=math.log(2), k=0.0, zeta=0.2, eps=1e-30)
        seen = inputs([1.0, 1.5, 2.0, 1.0], [0, 0, 0, 1], [-1.0, 1.0])
        credit = MODULATIONS["empg_variant"](seen, options)
        bonus = torch.tensor(wanted)
        modulated = seen.steps.advantage + 0.2 * bonus
        torch.testing.assert_close(credit.clarity, bonus)
        torch.testing.assert_close(credit.modulated, modulated)
        torch.testing.assert_close(credit.advantage, modulated - modulated.mean())

    def test_won_gives_the_bonus_of_empg_to_episodes_with_a_positive_advantage(self) -> None:
        credit = MODULATIONS["empg_variant"](inputs(**BATCH), VariantOptions(clarity="won"))
        full = modulate(inputs(**BATCH).steps).clarity
        won = torch.tensor([True, True, False, True, True, True, False])
        torch.testing.assert_close(credit.clarity, torch.where(won, full, 0.0), atol=0, rtol=0)
        to_the_end = MODULATIONS["empg_variant"](inputs(**BATCH), VariantOptions(clarity="won_end"))
        last = won & ~inputs(**BATCH).steps.has_next
        assert credit.clarity is not None
        torch.testing.assert_close(to_the_end.clarity, torch.where(last, 1.0, credit.clarity), atol=0, rtol=0)

    @given(batches(), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def test_the_potential_telescopes_to_the_first_step_of_each_episode(self, batch: Batch, k_future: float) -> None:
        steps = batch.table()
        rewards = torch.tensor(batch.advantages)
        seen = ModulationInputs(steps=steps, rewards=rewards, groups=torch.zeros(len(rewards), dtype=torch.long))
        credit = MODULATIONS["empg_variant"](seen, VariantOptions(clarity="potential", k_future=k_future))
        assert credit.clarity is not None
        assert credit.normalised_entropy is not None
        sums = torch.zeros(len(rewards)).index_add(0, steps.episode, credit.clarity)
        torch.testing.assert_close(sums, -torch.exp(-k_future * credit.normalised_entropy[steps.step == 0]))

    @pytest.mark.parametrize(("finished", "zeta"), [(0.0, 0.4), (0.25, 0.3), (0.75, 0.1)])
    def test_zeta_falls_linearly_over_the_run(self, finished: float, zeta: float) -> None:
        seen = inputs(**BATCH, finished=finished)
        falling = MODULATIONS["empg_variant"](seen, VariantOptions(zeta=0.4, zeta_schedule="linear"))
        torch.testing.assert_close(falling.advantage, modulate(seen.steps, EMPGConfig(zeta=zeta)).advantage)
        constant = MODULATIONS["empg_variant"](seen, VariantOptions(zeta=0.4))
        assert torch.equal(constant.advantage, modulate(seen.steps, EMPGConfig(zeta=0.4)).advantage)


class TestGTPO:
    def test_by_hand(self) -> None:
        # Winners: episode 0 with steps of 1.0 and 0.5 nats, episode 1 with one of 3.0. At t = 0 they share 2 as 1 : 3,
        # at t = 1 episode 0 is alone: r = 1 + 0.5 (0.5, 1, 1.5). Losers: 0.5 and 2.0 nats, so 1 / H = 2 and 0.5, and
        # they share 2 as 4 : 1: r = -1 - 0.5 (1.6, 0.4).
        seen = inputs([1.0, 0.5, 3.0, 0.5, 2.0], [0, 0, 1, 2, 3], [1.0, 1.0, 0.0, 0.0])
        credit = MODULATIONS["gtpo"](seen, GTPOOptions(alpha_1=1.0, alpha_2=0.5))
        torch.testing.assert_close(credit.modulated, torch.tensor([1.25, 1.5, 1.75, -1.8, -1.2]))
        # Winners: mean 1.5, deviations -0.25, 0, 0.25, so std = sqrt(0.125 / 3). Losers: mean -1.5, std 0.3.
        high = math.sqrt(1.5)
        torch.testing.assert_close(credit.advantage, torch.tensor([-high, 0.0, high, -1.0, 1.0]))
        assert credit.scale is None
        assert credit.clarity is None

    def test_shaping_keeps_the_sum_of_the_rewards_if_the_weights_sum_to_one(self) -> None:
        credit = MODULATIONS["gtpo"](inputs(**BATCH), GTPOOptions(alpha_1=0.7, alpha_2=0.3))
        assert credit.modulated is not None
        assert float(credit.modulated.sum()) == pytest.approx(2 + 3 - 2)  # 1 per step of a winner, -1 of a loser

    def test_a_group_does_not_see_the_other(self) -> None:
        both, alone = (
            MODULATIONS["gtpo"](batch).advantage
            for batch in (inputs(**BATCH), inputs([0.5, 1.0, 1.5], [0, 0, 1], [1.0, 0.0]))
        )
        assert torch.equal(both[:3], alone)

    def test_the_only_winner_of_a_group_gets_zero(self) -> None:
        batch = inputs([0.1, 0.9, 0.4, 0.2, 0.7, 0.3], [0, 0, 0, 1, 1, 2], [1.0, 0.0, 0.0])
        advantage = MODULATIONS["gtpo"](batch).advantage
        assert advantage[:3].abs().max() < 1e-6
        assert advantage[3:].abs().max() > 1

    def test_with_rewards_of_0_and_1_neither_the_outcome_nor_the_size_of_the_entropy_term_matters(self) -> None:
        batch = inputs([0.1, 0.9, 0.4, 0.2, 0.7, 0.3], [0, 0, 1, 1, 2, 3], [1.0, 1.0, 0.0, 0.0])
        wanted = MODULATIONS["gtpo"](batch).advantage
        for options in (GTPOOptions(alpha_1=5.0), GTPOOptions(alpha_1=0.0), GTPOOptions(alpha_2=1.0)):
            torch.testing.assert_close(MODULATIONS["gtpo"](batch, options).advantage, wanted)

    def test_equal_entropies_and_single_steps_give_zero(self) -> None:
        for entropy in (0.3, 0.1, 1 / 3):
            credit = MODULATIONS["gtpo"](inputs([entropy] * 4, [0, 1, 2, 3], [1.0, 1.0, 1.0, 0.0]))
            torch.testing.assert_close(credit.advantage, torch.zeros(4), atol=1e-9, rtol=0)

    def test_an_entropy_of_zero_stays_finite(self) -> None:
        assert (
            MODULATIONS["gtpo"](inputs([0.0, 0.0, 0.0, 1.0], [0, 1, 2, 3], [1.0, 1.0, 0.0, 0.0]))
            .advantage.isfinite()
            .all()
        )


class TestGRPOS:
    def test_by_hand(self) -> None:
        # Winners: H = (1 + 2) / 2 = 1.5 and 0.5, which share 2 as 3 : 1, so r = 1 + 0.5 (1.5, 0.5). Losers: 0.5 and 2.0
        # nats, so 1 / H = 2 and 0.5, which share 2 as 4 : 1: r = -1 - 0.5 (1.6, 0.4).
        seen = inputs([1.0, 2.0, 0.5, 0.5, 2.0], [0, 0, 1, 2, 3], [1.0, 1.0, 0.0, 0.0])
        credit = MODULATIONS["grpo_s"](seen, GRPOSOptions(beta_2=0.5, floor=1e-30))
        shaped = torch.tensor([1.75, 1.25, -1.8, -1.2])
        torch.testing.assert_close(credit.modulated, shaped[[0, 0, 1, 2, 3]])
        # The mean of the group is 0, and the squares add up to 9.305.
        torch.testing.assert_close(credit.advantage, (shaped / math.sqrt(9.305 / 3))[[0, 0, 1, 2, 3]])
        assert credit.scale is None
        assert credit.clarity is None

    def test_without_entropy_it_is_grpo_with_losses_of_minus_one(self) -> None:
        credit = MODULATIONS["grpo_s"](inputs(**BATCH), GRPOSOptions(beta_2=0.0, floor=1e-6))
        grpo = outcome_advantages(torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor(BATCH["groups"]), "grpo")
        torch.testing.assert_close(credit.advantage, grpo[torch.tensor(BATCH["episode"])])

    def test_shaping_keeps_the_sum_of_the_rewards_if_the_weights_sum_to_one(self) -> None:
        seen = inputs([0.2, 0.9, 1.3, 0.4], [0, 1, 2, 3], [1.0, 1.0, 1.0, 0.0])
        credit = MODULATIONS["grpo_s"](seen, GRPOSOptions(beta_1=0.7, beta_2=0.3))
        assert credit.modulated is not None
        assert float(credit.modulated.sum()) == pytest.approx(3 - 1)

    def test_a_group_of_equal_episodes_and_an_episode_alone_get_zero(self) -> None:
        credit = MODULATIONS["grpo_s"](inputs([0.3, 0.3, 0.7], [0, 1, 2], [1.0, 1.0, 0.0], [0, 0, 1]))
        assert credit.advantage.tolist() == [0.0, 0.0, 0.0]

    def test_equal_entropies_in_another_order_get_zero(self) -> None:
        """Their sums in float32 differ in the last bit, which the floor would turn into an advantage of 1e-3."""
        values = torch.rand(12, generator=torch.Generator().manual_seed(10))
        orders = [values[torch.randperm(12, generator=torch.Generator().manual_seed(i))].tolist() for i in range(8)]
        episode = [i for i in range(8) for _ in range(12)]
        credit = MODULATIONS["grpo_s"](inputs([entropy for order in orders for entropy in order], episode, [0.0] * 8))
        assert credit.advantage.abs().max() < 1e-9

    def test_an_episode_without_steps_is_not_in_the_group(self) -> None:
        counted = MODULATIONS["grpo_s"](inputs([1.0, 0.5, 2.0], [0, 2, 3], [1.0, 1.0, 0.0, 0.0], [0, 0, 0, 0]))
        alone = MODULATIONS["grpo_s"](inputs([1.0, 0.5, 2.0], [0, 1, 2], [1.0, 0.0, 0.0]))
        assert torch.equal(counted.advantage, alone.advantage)

    def test_an_entropy_of_zero_stays_finite(self) -> None:
        credit = MODULATIONS["grpo_s"](inputs([0.0, 0.0, 0.0, 1.0], [0, 1, 2, 3], [1.0, 1.0, 0.0, 0.0]))
        assert credit.advantage.isfinite().all()
