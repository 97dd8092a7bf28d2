"""How well rules of credit agree with the worth of actions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from empg.cli import app
from empg.credit import EMPGConfig
from empg.errors import UserError
from empg.record.loading import LoadedRun
from empg.record.runfolder import RunFolder
from empg.run.alignment import CreditRule, measure_alignment, read_rule
from empg.run.results import alignment_lines
from empg.run.worth import recorded_steps
from tests.run.recorded import BRANCHES, Written, steps_of, turns

NONE = CreditRule(label="none")


def silent(name: str, total: int) -> Callable[[int], None]:
    return lambda finished: None


class TestAlignment:
    def test_by_hand(self, written: Written) -> None:
        # Equal weights, so the cosine of A = (1, 1, 1, 1, -1, 1, 1) and w = (1/3, 0, 1/3, 0, 0, -2/3, 0): 0. With a
        # second group in which w = (-1/2, 0, 0) and A = (1, -1, 1) the sum is -1/2; sum w^2 = 6/9 + 1/4, sum A^2 = 10.
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        found = measure_alignment([written(*rows)], [NONE], NONE, silent)
        assert (found.steps, found.known, found.groups) == (10, 6, 2)
        assert found.rules[0].alignment.value == pytest.approx(-0.5 / math.sqrt(11 / 12 * 10))
        assert found.rules[0].ratio.value == 1.0

    def test_ratios_by_hand(self, written: Written) -> None:
        # As above, centred: A - 0.6. The sum is -1/2 - 0.6 * (-1/2) = -1/5 instead of -1/2. Sum A^2 is
        # 8 * 0.16 + 2 * 2.56 instead of 10, and where w is known 4 * 0.16 + 2 * 2.56 instead of 6.
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        [rule] = measure_alignment([written(*rows)], [read_rule("centred")], NONE, silent).rules
        assert rule.ratio.value == pytest.approx(0.4 * math.sqrt(10 / 6.4))
        assert rule.ratio_known.value == pytest.approx(0.4 * math.sqrt(6 / 5.76))

    def test_a_step_counts_by_the_gradient_that_its_entropy_allows(self, written: Written) -> None:
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        rows = [row | {"entropy": 1e-9 if row["group"] else math.log(2)} for row in rows]
        found = measure_alignment([written(*rows)], [NONE], NONE, silent)
        assert found.rules[0].alignment.value == pytest.approx(0.0, abs=1e-6)  # c = 1/2 and 1e-9: the first group alone

    def test_credit_that_is_the_worth_is_aligned_and_its_opposite_is_not(self, written: Written) -> None:
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        worth = [1 / 3, 0, 1 / 3, 0, 0, -2 / 3, 0, -1 / 2, 0, 0]
        for name, sign in (("right", 1), ("wrong", -1)):
            run = written(
                *(row | {"advantage_outcome": sign * w} for row, w in zip(rows, worth, strict=True)), name=name
            )
            [rule] = measure_alignment([run], [NONE], NONE, silent).rules
            assert (rule.alignment.value, rule.alignment.low, rule.alignment.high) == pytest.approx((sign,) * 3)

    @pytest.mark.slow
    def test_credit_by_chance_has_an_interval_around_zero(self, written: Written) -> None:
        rng, rows = np.random.default_rng(3), []
        for group in range(200):  # success does not depend on the action, and A is centred in the group
            played = [(str(rng.choice(["a", "b"])), bool(rng.random() < 0.4)) for _ in range(8)]
            mean = sum(won for _, won in played) / 8
            steps = turns(*played, group=group, start=8 * group)
            rows += [row | {"advantage_outcome": row["success"] - mean} for row in steps]
        [rule] = measure_alignment([written(*rows)], [NONE], NONE, silent).rules
        assert rule.alignment.low < 0 < rule.alignment.high
        assert rule.alignment.high - rule.alignment.low < 0.2

    def test_a_process_reward_is_a_part_of_the_credit_without_a_modulation(self, written: Written) -> None:
        seen = steps_of(written(*(row | {"process_reward": 0.25} for row in BRANCHES))).seen
        assert NONE.credit(seen).tolist() == [1.25, 1.25, 1.25, 1.25, -0.75, 1.25, 1.25]

    def test_rules_see_the_share_of_the_run_that_is_finished(self, written: Written) -> None:
        falling = read_rule("{name: empg_variant, zeta_schedule: linear, zeta: 1, k: 0}")
        run = written(*BRANCHES, *turns(("a", True), iteration=4))
        early = falling.credit(steps_of(run, iterations=4).seen)
        rows = [row | {"iteration": 4} for row in BRANCHES]
        late = falling.credit(steps_of(written(*rows, name="late"), 4, iterations=4).seen)
        assert not early.equal(late)
        half = read_rule("{name: empg, zeta: 0.25, k: 0}").credit(steps_of(run).seen)
        assert late.tolist() == pytest.approx(half.tolist())

    def test_tenths_have_their_share_of_won_episodes(self, written: Written) -> None:
        rows = turns(("aaaaa", True), ("bbbbb", False), ("aaaaa", True), ("bbbbb", False))
        rows += turns(("aaaaa", True), ("bbbbb", False), ("aaaaa", True), ("bbbbb", False), group=1, start=4)
        rows = [row | {"entropy": 0.1 if row["success"] else 0.9} for row in rows]
        found = measure_alignment([written(*rows)], [NONE], NONE, silent).tenths
        assert [part.won for part in found] == [1.0] * 5 + [0.0] * 5
        assert [part.entropy for part in found] == pytest.approx([0.1] * 5 + [0.9] * 5)
        assert sum(part.known for part in found) == pytest.approx(10 / 5)  # the first of five steps is shared

    def test_a_tenth_in_which_no_worth_is_known_has_no_alignment(self, written: Written) -> None:
        found = measure_alignment(
            [written(*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4))], [NONE], NONE, silent
        )
        unknown = [part for part in found.tenths if part.known == 0]
        assert unknown
        assert all(math.isnan(value) for part in unknown for value in astuple(part.alignment))
        said = [line.rstrip().endswith("unknown") for line in list(alignment_lines(found))[-len(found.tenths) :]]
        assert said == [math.isnan(part.alignment.value) for part in found.tenths]

    def test_a_reference_without_alignment_has_no_ratio(self, written: Written) -> None:
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        run = written(*(row | {"advantage_outcome": 0.0} for row in rows))
        [rule] = measure_alignment([run], [NONE], NONE, silent).rules
        assert (rule.alignment.value, math.isnan(rule.ratio.value)) == (0.0, True)

    def test_the_same_numbers_every_time(self, written: Written) -> None:
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        run, rules = written(*rows), [read_rule(name) for name in ("none", "empg", "gtpo")]
        first, again = (repr(measure_alignment([run], rules, NONE, silent)) for _ in range(2))  # NaN equals nothing
        assert first == again


def test_the_recorded_credit_of_a_run_is_found_again(finished_run: RunFolder) -> None:
    """What a rule is given here is what it was given in training."""
    options = finished_run.recipe_values()["credit"]["modulation"]
    for iteration in finished_run.episode_iterations():
        table = LoadedRun(finished_run).steps_of(iteration)
        found = recorded_steps(table)
        assert found is not None
        recorded = [a for a in table["advantage"].to_pylist() if a is not None]
        again = CreditRule(label="run", modulation=options["name"], options=read_rule(str(options)).options)
        assert again.credit(found.seen).tolist() == pytest.approx(recorded, abs=1e-5)


class TestRules:
    def test_a_rule_is_written_as_in_a_recipe(self) -> None:
        assert read_rule("none").modulation is None
        assert read_rule("empg").options == EMPGConfig()
        rule = read_rule("{k: 2, zeta: 0.5}")
        assert (rule.modulation, rule.options, rule.label) == ("empg", EMPGConfig(k=2, zeta=0.5), "empg k=2 zeta=0.5")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "^--rule: expected a name, or options as in {name: empg, k: 2}, got an empty text$"),
            ("emgp", r"--rule emgp\.name: expected one of centred, .* got 'emgp'; did you mean 'empg'\?"),
            ("{name: empg, kk: 2}", "--rule.*kk"),
            ("{name: empg, k: -1}", "--rule.*k: expected a number from 0"),
            ("{name: none, k: 1}", "--rule {name: none, k: 1}: name: none takes no options"),
            ("[empg]", r"expected a name, or options as in \{name: empg, k: 2\}"),
            ("{name: empg", "is not valid YAML"),
        ],
    )
    def test_a_wrong_rule_is_one_line(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message) as raised:
            read_rule(text)
        assert "\n" not in str(raised.value)


class TestCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["credit", *arguments])

    def test_it_prints_two_tables(self, written: Written) -> None:
        run = written(*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4))
        result = self.run(str(run.path), "--rule", "none", "--rule", "{name: empg, k: 2}")
        assert result.exit_code == 0, result.output
        assert "10 steps of 2 groups; the worth of 6 is known" in result.output
        assert re.search(r"^none +-0\.\d+ \[", result.output, re.MULTILINE)
        assert re.search(r"^empg k=2 ", result.output, re.MULTILINE)
        assert "tenth of the steps" in result.output

    def test_without_a_rule_it_ranks_all(self, written: Written) -> None:
        run = written(*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4))
        result = self.run(str(run.path))
        for name in ("none", "centred", "empg", "empg_variant", "gtpo"):
            assert re.search(rf"^{name} ", result.output, re.MULTILINE), name

    def test_a_damaged_file_is_a_warning(self, written: Written) -> None:
        second = turns(("a", True), ("a", False), ("b", True), iteration=2)
        torn = turns(("aa", True), ("b", False), iteration=3)
        torn = [torn[0], torn[2], torn[1]]
        run = written(*BRANCHES, *second, *torn, *turns(("a", True), iteration=4))
        run.episodes_path(4).write_bytes(b"no parquet")
        result = self.run(str(run.path), "--rule", "none")
        assert result.exit_code == 0, result.output
        assert result.output.count("warning: ") == 2
        assert "must be contiguous" in result.output

    def test_a_run_without_recorded_episodes_is_named(self, written: Written, tmp_path: Path) -> None:
        """As the results of a study: they keep no episodes."""
        run = written(*BRANCHES)
        run.copy_summary(tmp_path / "results")
        result = self.run(str(run.path), str(tmp_path / "results"))
        assert result.exit_code == 1
        assert re.search(r"results has no recorded episodes .*: name the folder of a run", result.output)

    def test_groups_that_tell_nothing_are_an_error(self, written: Written) -> None:
        result = self.run(str(written(*turns(("a", True), ("a", True))).path))
        assert result.exit_code == 1
        assert "no worth of an action can be estimated" in result.output
        assert self.run(str(written(name="empty").path)).exit_code == 1

    def test_a_rule_that_needs_what_was_not_recorded(self, written: Written) -> None:
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        run = written(*(row | {"action_entropy": None} for row in rows))
        result = self.run(str(run.path), "--rule", "{name: empg_variant, entropy: action}")
        assert result.exit_code == 1
        assert "--rule empg_variant entropy=action: entropy: expected turn" in result.output

    def test_an_error_of_a_rule_names_its_option_and_its_text(self, written: Written) -> None:
        rows = [*BRANCHES, *turns(("a", True), ("a", False), ("b", True), group=1, start=4)]
        run = str(written(*(row | {"action_entropy": None} for row in rows)).path)
        assert "--reference nope.name: expected" in self.run(run, "--reference", "nope").output
        of_two = self.run(run, "--rule", "{name: empg, k: 1}", "--rule", "{name: empg, k: -1}").output
        assert "--rule {name: empg, k: -1}.k: expected a number from 0" in of_two
        unrecorded = self.run(run, "--rule", "none", "--reference", "{name: empg_variant, entropy: action}").output
        assert "--reference empg_variant entropy=action: entropy: expected turn" in unrecorded

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        assert self.run(str(tmp_path)).exit_code == 1
