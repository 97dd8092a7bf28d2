"""One episode as a conversation, and what the page's script gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from empg.record.runfolder import RunFolder
from empg.report.inspector.conversation import MAX_TEXT, MAX_TOKENS, conversation, credit_inputs
from empg.report.inspector.library import open_runs

NUMBERS = ("entropy", "entropy_normalised", "scale", "clarity", "advantage_outcome", "process_reward", "advantage")


def test_a_step_has_what_was_read_written_and_credited(finished_run: RunFolder) -> None:
    [run] = open_runs([finished_run])
    turns = run.turns(20)[3]
    for shown, turn in zip(conversation(run, turns), turns, strict=True):
        for name in (
            "observation",
            "thought",
            "action",
            "entropy",
            "entropy_normalised",
            "scale",
            "clarity",
            "advantage",
        ):
            assert shown[name] == turn[name]
        assert shown["advantage_outcome"] == turn["advantage_outcome"]
        assert shown["process_reward"] == 0.0


def test_a_turn_that_is_not_valid_shows_all_that_the_model_wrote(recorded: RunFolder) -> None:
    [run] = open_runs([recorded])
    first, second = (conversation(run, turns) for turns in run.turns(1)[:2])
    assert [t["written"] != "" for t in first] == [False, False, True]
    assert (first[2]["fault"], second[2]["fault"]) == ("no thought", "malformed")
    assert second[2]["written"].startswith("y" * MAX_TEXT + " … (80,000 more")
    assert (second[1]["counted"], second[1]["dropped"], second[1]["entropy"]) == (False, True, None)


def test_tokens_are_shaded_by_entropy_up_to_a_bound(recorded: RunFolder) -> None:
    [run] = open_runs([recorded])
    first, _, third, _ = (conversation(run, turns) for turns in run.turns(1))
    assert first[0]["tokens"] == [("#1 ", 0.0, 0), ("#2 ", 0.5, 9)]
    assert (len(third[0]["tokens"]), third[0]["written_tokens"]) == (MAX_TOKENS, 5_000)


@pytest.mark.parametrize(
    ("recipe", "rule", "options"),
    [
        ("credit: {modulation: {name: empg, k: 2, zeta: 0.5}}", "empg", {"k": 2.0, "zeta": 0.5}),
        (
            "credit: {modulation: {name: v, by: word, also: true, odd: [1]}}",
            "v",
            {"by": "word", "also": True, "odd": "[1]"},
        ),
        ("credit: {modulation: null}", "", {}),
        ("credit: {modulation: 7}", "?", {}),
        ("credit: {}", "?", {}),
        ("]", "?", {}),
    ],
)
def test_the_script_gets_the_rule_of_the_run(
    recipe: str, rule: str, options: dict[str, object], make_run: Callable[..., RunFolder]
) -> None:
    folder = make_run("run", iterations=4, every=4, keep_episodes=(3,))
    folder.recipe_path.write_text(f"iterations: 4\n{recipe}\n")
    [run] = open_runs([folder])
    inputs = credit_inputs(run, run.turns(3))
    assert (inputs["rule"], inputs["options"]) == (rule, options)
    assert inputs["finished"] == (0.5 if recipe != "]" else 0.0)


def test_the_script_gets_no_number_that_is_not_finite(recorded: RunFolder) -> None:
    [run] = open_runs([recorded])
    inputs = credit_inputs(run, run.turns(1))
    assert (inputs["entropy"][4], inputs["advantage"][4], inputs["counted"][4]) == (None, None, False)
    assert inputs["reward"][:6] == [0.0] * 3 + [1.0] * 3
    assert len({len(inputs[name]) for name in ("episode", "turn", "group", "entropy", "base", "process")}) == 1


def test_the_entropy_of_actions_is_given_if_all_steps_that_count_have_it(finished_run: RunFolder) -> None:
    [run] = open_runs([finished_run])
    episodes = [[{**step, "action_entropy": 0.25} for step in turns] for turns in run.turns(20)]
    assert set(credit_inputs(run, episodes)["action_entropy"]) == {0.25}
    assert conversation(run, episodes[0])[0]["action_entropy"] == 0.25
    episodes[3][1]["action_entropy"] = None
    assert credit_inputs(run, episodes)["action_entropy"] is None
    episodes[3][1]["advantage"] = None
    assert credit_inputs(run, episodes)["action_entropy"] is not None
    assert credit_inputs(run, run.turns(20))["action_entropy"] is None
