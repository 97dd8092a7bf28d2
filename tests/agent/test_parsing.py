"""Parsing a turn of text into a thought and an action."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.agent.parsing import (
    MAX_ACTION_CHARS,
    ParsedTurn,
    parse_leniently,
    parse_search_r1,
    parse_turn,
    write_search_r1,
    write_turn,
)

WORDS = st.text(st.characters(exclude_characters="<>", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(thought=WORDS, action=WORDS)
def test_parsing_inverts_writing(thought: str, action: str) -> None:
    parsed = parse_turn(write_turn(thought, action))
    assert (parsed.thought, parsed.action, parsed.well_formed) == (thought, action, True)


@pytest.mark.parametrize(
    ("text", "action", "valid"),
    [
        ("<think>t</think><action> go to\n fridge 1 </action>", "go to fridge 1", True),
        ("<think>t</think><action>a</action><action>b</action>", "a", True),
        ("<action>go</action>", "", False),  # no thought
        ("<think>t</think>go to fridge 1", "", False),
        ("<think>t</think><action>go to fridge", "", False),  # cut before it was closed
        ("<think>t</think><action>   </action>", "", False),
        ("", "", False),
        ("<think>t</think><action>" + "x" * (MAX_ACTION_CHARS + 1) + "</action>", "", False),
    ],
)
def test_forms(text: str, action: str, valid: bool) -> None:
    parsed = parse_turn(text)
    assert (parsed.action, parsed.well_formed) == (action, valid)


@pytest.mark.parametrize("parse", [parse_turn, parse_leniently])
@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("<think>t</think><action>a</action>", 16),
        (" <think>t</think>\n<action>a</action><action>b</action>", 18),
        ("<action>a</action><think>t</think>", 0),
        ("<think>t</think>a", 0),
        ("<think>t</think><action> </action>", 0),
        ("<think>t</think><action>" + "x" * (MAX_ACTION_CHARS + 1) + "</action>", 0),
    ],
)
def test_an_action_begins_with_its_tag(parse: Callable[[str], ParsedTurn], text: str, begins: int) -> None:
    assert parse(text).action_at == begins


def test_an_action_that_a_thought_quotes_does_not_begin_it() -> None:
    text = "<think>I write <action>x</action>.</think><action>look</action>"
    assert text[parse_leniently(text).action_at :] == "<action>look</action>"
    assert text[parse_turn(text).action_at :] == text[15:]  # the strict form executes the first block


def test_a_search_begins_with_its_tag() -> None:
    assert parse_search_r1("<think>t</think> <answer>a</answer>").action_at == 17
    assert parse_search_r1("<think>t</think><search>a").action_at == 0


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parsed = parse_turn(text)
    assert parsed.well_formed == bool(parsed.action)


# ---- models that were not trained in the form -----------------------------------------------------------------------

ADMISSIBLE = ("go to fridge 1", "click[buy now]", "search[<your query>]", "open[U.S. Inc.]")


@pytest.mark.parametrize(
    ("text", "thought", "action", "valid"),
    [
        ("<think>t</think><action>Go to Fridge 1.</action>", "t", "go to fridge 1", True),
        ("<think>t</think><action>Go to fridge 2.</action>", "t", "Go to fridge 2.", True),  # not admissible: as it is
        ("<action>Click[Buy Now]</action>", "", "click[buy now]", False),
        ("<think>t</think><action>Search [Red Mug].</action>", "t", "search[Red Mug]", True),
        ("<think>t</think><action>open[u.s. inc.]</action>", "t", "open[U.S. Inc.]", True),
        ("why\n</think>\n\n<action>go to fridge 1</action>", "why", "go to fridge 1", True),  # never opened
        ("<think>I write <action>x</action>.</think><action>go to fridge 1</action>", "I write <action>x</action>.",
         "go to fridge 1", True),
        ("<think>t <action>look</action></think>", "t <action>look</action>", "look", True),
        ("<think>First <think> </think>, then <action> </action>.</think><action>go to fridge 1</action>",
         "First <think> </think>, then <action> </action>.", "go to fridge 1", True),
        ("<think>t</think><action>look</action><think>u</think><action>wait</action>", "t", "look", True),  # no more
        ("<think>t <action>look</action></think><action></action>", "t <action>look</action>", "", False),
        ("<think>t <action>go to fridge 1</action>", "", "go to fridge 1", False),
        ("<think></think><action>go to fridge 1</action>", "", "go to fridge 1", True),
        ("<think>t</think>go to fridge 1", "t", "", False),
        ("<action>" + "x" * (MAX_ACTION_CHARS + 1) + "</action>", "", "", False),
        ("", "", "", False),
    ],
)  # fmt: skip
def test_lenient_forms(text: str, thought: str, action: str, valid: bool) -> None:
    parsed = parse_leniently(text, ADMISSIBLE)
    assert (parsed.thought, parsed.action, parsed.well_formed) == (thought, action, valid)


@given(thought=WORDS, action=WORDS)
def test_what_is_written_is_read_back_leniently(thought: str, action: str) -> None:
    parsed = parse_leniently(write_turn(thought, action))
    assert (parsed.thought, parsed.action, parsed.well_formed) == (thought, action, True)


# ---- the form of Search-R1 ------------------------------------------------------------------------------------------


@given(thought=WORDS, words=WORDS, verb=st.sampled_from(["search", "answer"]))
def test_parsing_inverts_writing_in_search_r1(thought: str, words: str, verb: str) -> None:
    parsed = parse_search_r1(write_search_r1(thought, f"{verb}[{words}]"))
    assert (parsed.thought, parsed.action, parsed.well_formed) == (thought, f"{verb}[{words}]", True)


@pytest.mark.parametrize(
    ("text", "action", "valid"),
    [
        ("<think>t</think><search> who\n wrote it </search>", "search[who wrote it]", True),
        ("<search>q</search>", "search[q]", True),  # a thought may be missing
        ("<think>t</think>\n<answer>Beijing</answer> and more", "answer[Beijing]", True),
        ("<search>a[1]</search>", "search[a[1]]", True),
        # of several the first that is complete counts: Search-R1 cuts a turn there
        ("<answer>b</answer><search>q</search>", "answer[b]", True),
        ("<search>q</search><information>made up</information><answer>b</answer>", "search[q]", True),
        ("<search>q</search><search>r</search>", "search[q]", True),
        ("<search>q <answer>a</answer><answer>b</answer>", "answer[a]", True),
        ("<search>q</answer> <answer>a</search></answer>", "search[q</answer> <answer>a]", True),
        # none
        ("<think>t</think>", "", False),
        ("<think>t</think><search>q", "", False),
        ("<think>t</think><search> \n </search>", "search[]", True),  # as in Search-R1, an empty block counts
        ("<answer></answer>", "answer[]", True),
        ("<search></search><answer>b</answer>", "search[]", True),
        ("<search>" + "x" * 3_000 + "</search>", "search[" + "x" * 3_000 + "]", True),  # and so does a long one
        ("<think>t</think><action>search[q]</action>", "", False),
        ("", "", False),
    ],
)
def test_search_r1_forms(text: str, action: str, valid: bool) -> None:
    parsed = parse_search_r1(text)
    assert (parsed.action, parsed.well_formed) == (action, valid)


@given(st.lists(st.sampled_from(["<search>", "</search>", "<answer>", "</answer>", "<think>", "</think>", "q", " "])))
def test_any_text_is_read_as_search_r1_without_an_error(parts: list[str]) -> None:
    parsed = parse_search_r1("".join(parts))
    assert bool(parsed.action) == parsed.well_formed


@pytest.mark.parametrize("action", ["open[Mara Quill]", "go north", "", "search[q] "])
def test_actions_that_search_r1_does_not_have_are_rejected(action: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be expressed in agent\.form=search_r1"):
        write_search_r1("t", action)


def test_unclosed_tags_are_parsed_in_linear_time() -> None:
    """A lazy pattern takes minutes here: it goes to the end of the text from every tag."""
    began = time.perf_counter()
    for text in ("<think>" * 200_000, "<think>a</think>" + "<action>" * 200_000, "<search>" * 200_000):
        assert not parse_turn(text).well_formed
        assert not parse_search_r1(text).well_formed
        assert not parse_leniently(text, ADMISSIBLE * 50).well_formed
    assert time.perf_counter() - began < 1
