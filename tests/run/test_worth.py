"""The worth of actions, from the other episodes of their group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.record.loading import LoadedRun
from empg.record.tables import EPISODES
from empg.run.worth import RecordedSteps, recorded_steps
from tests.run.recorded import BRANCHES, Written, steps_of, turns


class TestWorth:
    def test_by_hand(self, written: Written) -> None:
        # First step: two episodes took a and two took b. For the first episode, the other one with a won, and of all
        # three others two won: 1 - 2/3. For the third, the other one with b won, and all three others won: 1 - 1. For
        # the fourth, the other one with b lost, and of the three others two won: 0 - 2/3.
        found = steps_of(written(*BRANCHES))
        first = [1 / 3, 1 / 3, 0.0, -2 / 3]
        # Second steps: after a, x and y were taken once each, so no other episode tells Q. After b, z is alone.
        assert found.worth == pytest.approx([first[0], 0, first[1], 0, first[2], first[3], 0])
        assert found.known.tolist() == [True, False, True, False, True, True, False]

    def test_only_episodes_that_read_and_did_the_same_before_are_compared(self, written: Written) -> None:
        same, other = (
            turns(("ac", True), ("ac", True), ("bc", False), ("bd", False)),
            turns(("ac", True), ("ad", False)),
        )
        assert steps_of(written(*same)).known.tolist() == [True, False] * 4  # after a all took c; after b no two alike
        assert not steps_of(written(*other, name="pair")).known.any()

    def test_groups_are_apart(self, written: Written) -> None:
        one = turns(("a", True), ("a", False), ("b", True))
        two = turns(("b", False), ("b", False), ("a", True), group=7, start=3)
        found = steps_of(written(*one, *two))
        # Group 0: for the first a, the other a lost, one of the others won: 0 - 1/2. For the second 1 - 1.
        assert found.worth == pytest.approx([-1 / 2, 0, 0, -1 / 2, -1 / 2, 0])
        assert found.group.tolist() == [0, 0, 0, 1, 1, 1]

    def test_places_with_equal_texts_are_apart(self, written: Written) -> None:
        # Every observation and action is the same text, so only the place in the episode tells states apart.
        rows = turns(("aaa", True), ("aaa", False), ("aab", True))
        rows += turns(("aaa", False), ("aaa", False), ("aaa", True), group=1, start=3)
        found = steps_of(written(*(row | {"observation": "a"} for row in rows)))
        assert found.known.tolist() == [False, False, True, False, False, True] + [False] * 12
        assert found.worth[[2, 5]] == pytest.approx([0 - 1 / 2, 1 - 2 / 2])

    def test_a_malformed_turn_is_told_by_its_text(self, written: Written) -> None:
        rows = turns(("a", True), ("b", False), ("c", False))
        for row, text in zip(rows, ("same", "same", "other"), strict=True):
            row |= {"action": None, "text": text}
        assert steps_of(written(*rows)).known.tolist() == [True, True, False]

    @given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.booleans()), min_size=2, max_size=8), st.data())
    def test_the_outcome_of_an_episode_does_not_change_its_own_worth(
        self, episodes: list[tuple[str, bool]], data: st.DataObject
    ) -> None:
        flipped = data.draw(st.integers(0, len(episodes) - 1))
        other = [(actions, won != (place == flipped)) for place, (actions, won) in enumerate(episodes)]
        before, after = (_table(turns(*played)) for played in (episodes, other))
        mine = before.seen.steps.episode.numpy() == flipped
        assert np.array_equal(before.worth[mine], after.worth[mine])
        assert (np.abs(before.worth) <= 1).all()
        assert not before.worth[~before.known].any()

    def test_steps_that_were_not_trained_on_tell_worth_but_have_no_part(self, written: Written) -> None:
        rows = [row | {"advantage": None} if row["episode"] == 0 else row for row in BRANCHES]
        found = steps_of(written(*rows))
        assert found.worth == pytest.approx([1 / 3, 0, 0, -2 / 3, 0])
        assert (
            recorded_steps(LoadedRun(written(*({**r, "advantage": None} for r in rows), name="none")).steps_of(1))
            is None
        )

    @pytest.mark.parametrize("history", ["merged", "per_turn"])
    def test_rules_read_the_rewards_that_were_trained_on(self, written: Written, history: str) -> None:
        # Turns of 15 tokens under a limit of 40: the penalty rises from 20 tokens on. Merged, two turns have 30 tokens
        # and half of it; one prompt per turn never reaches it. The third episode ended at the limit.
        rows = [row | {"end": "token_limit"} if row["episode"] == 2 else row for row in BRANCHES]
        recipe: dict[str, Any] = {
            "credit": {"overlong_penalty": 0.5, "overlong_ramp": 0.5},
            "rollout": {"max_episode_tokens": 40},
            "agent": {"history": history},
        }
        found = steps_of(written(*rows), **recipe).seen.rewards.tolist()
        assert found == pytest.approx([0.75, 0.75, -0.5, 0.75] if history == "merged" else [1.0, 1.0, -0.5, 1.0])

    @pytest.mark.parametrize("section", [5, None, ["x"], {"overlong_penalty": "high", "overlong_ramp": None}])
    def test_a_section_of_another_type_has_no_penalty(self, written: Written, section: Any) -> None:
        seen = steps_of(written(*BRANCHES), credit=section, rollout=section, agent=section).seen
        assert seen.rewards.tolist() == [1.0, 1.0, 0.0, 1.0]


def _table(rows: Sequence[dict[str, Any]]) -> RecordedSteps:
    columns = {f.name: [row.get(f.name) for row in rows] for f in EPISODES}
    found = recorded_steps(pa.table([columns[f.name] for f in EPISODES], schema=EPISODES))
    assert found is not None
    return found
